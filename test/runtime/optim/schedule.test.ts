// Schedules against closed formulas and the known answers of the configuration rules (sections 14.2 and 11.7 of the specification).
// The OneCycle sequences come from a stateful transliteration of DeepSpeed's class, stepped after each update, run in Python.
import test, { type ExecutionContext } from 'ava'
import { OptimError } from '../../../runtime/optim/error.js'
import { createSchedule, type ScheduleSpec } from '../../../runtime/optim/schedule.js'

type OneCycle = ScheduleSpec & { readonly type: 'OneCycle' }

const near = (t: ExecutionContext, got: number | undefined, expected: number, what = ''): void => {
  t.true(got !== undefined && Math.abs(got - expected) <= 1e-12, `${what}: expected ${expected}, got ${got}`)
}

/** Learning rates of the first updates, one group. */
const rates = (spec: ScheduleSpec | null, count: number, base = 1e-3): number[] => {
  const schedule = createSchedule(spec, [base])
  return Array.from({ length: count }, (_, applied) => schedule.at(applied).lr[0]!)
}

const all = (t: ExecutionContext, got: readonly (number | undefined)[], expected: readonly number[]): void => {
  t.is(got.length, expected.length)
  expected.forEach((value, i) => {
    near(t, got[i], value, `update ${i + 1}`)
  })
}

const warmup = { minLr: 0, maxLr: 1e-3, warmupSteps: 1000, warmup: 'log' } as const

test('without a schedule the learning rates of the groups stay', (t) => {
  const schedule = createSchedule(null, [0.1, 0.2])
  t.deepEqual(schedule.at(0), { lr: [0.1, 0.2] })
  t.deepEqual(schedule.at(10_000), { lr: [0.1, 0.2] })
})

test('WarmupLR log: known answers at t = 0, 1, 9, 99, 499, 999 and the constant after', (t) => {
  const at = (step: number): number => createSchedule({ type: 'WarmupLR', ...warmup }, [5]).at(step + 1).lr[0]!
  near(t, at(0), 0)
  near(t, at(1), 0.00010034333188799373)
  near(t, at(9), 1e-3 / 3)
  near(t, at(99), 2e-3 / 3)
  near(t, at(499), 0.0008996566681120063)
  near(t, at(999), 1e-3)
  near(t, at(1000), 1e-3)
  near(t, at(123_456), 1e-3)
})

test('WarmupLR linear: the first two updates use the start value', (t) => {
  const spec: ScheduleSpec = { type: 'WarmupLR', minLr: 0, maxLr: 1, warmupSteps: 10, warmup: 'linear' }
  all(t, rates(spec, 13), [0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1])
})

test('WarmupLR log over 10: ln 5 / ln 10 at t = 4, whole at t = 9', (t) => {
  const spec: ScheduleSpec = { type: 'WarmupLR', minLr: 0, maxLr: 1, warmupSteps: 10, warmup: 'log' }
  near(t, rates(spec, 6)[5], 0.6989700043360187)
  near(t, rates(spec, 11)[10], 1)
})

test('WarmupLR without a maximum ends at the learning rate of each group', (t) => {
  const spec: ScheduleSpec = { type: 'WarmupLR', minLr: 0, maxLr: null, warmupSteps: 2, warmup: 'linear' }
  t.deepEqual(createSchedule(spec, [0.5, 0.25]).at(10), { lr: [0.5, 0.25] })
})

test('a warmup of one step counts as two', (t) => {
  const spec: ScheduleSpec = { type: 'WarmupLR', minLr: 0, maxLr: 1, warmupSteps: 1, warmup: 'linear' }
  all(t, rates(spec, 4), [0, 0, 0.5, 1])
})

test('WarmupDecayLR: falls on a line to the minimum at the end and stays there', (t) => {
  const spec: ScheduleSpec = { type: 'WarmupDecayLR', ...warmup, maxLr: 1, warmupSteps: 100, totalSteps: 1000 }
  const lr = rates(spec, 1100)
  near(t, lr[101], 1)
  near(t, lr[551], 0.5)
  near(t, lr[1001], 0)
  near(t, lr[1099], 0)
  const short: ScheduleSpec = { ...spec, minLr: 0.2, maxLr: 1.2, warmupSteps: 10, totalSteps: 20 }
  near(t, rates(short, 17)[16], 0.2 + 0.5)
  near(t, rates(short, 41)[40], 0.2)
})

test('WarmupCosineLR: zero before the first update, then ratios of the learning rate', (t) => {
  const spec: ScheduleSpec = {
    type: 'WarmupCosineLR',
    totalSteps: 1000,
    minRatio: 0,
    warmupSteps: 100,
    warmup: 'log',
    cosineMinRatio: 1e-4,
  }
  const lr = rates(spec, 1500, 2)
  near(t, lr[0], 0)
  near(t, lr[1], 0)
  near(t, lr[10], 2 * 0.5)
  near(t, lr[101], 2 * 0.9999969541335123)
  near(t, lr[550], 2 * 0.50005)
  near(t, lr[1000], 2e-4)
  near(t, lr[1499], 2e-4)
  const short: ScheduleSpec = { ...spec, totalSteps: 20, warmupSteps: 10, minRatio: 0.1, warmup: 'linear' }
  near(t, rates(short, 12, 1)[0], 0)
  near(t, rates(short, 12, 1)[1], 0.1)
  near(t, rates(short, 12, 1)[6], 0.55)
  near(t, rates(short, 12, 1)[11], 0.9755307053217621)
})

test('LRRangeTest: a line, or stairs', (t) => {
  const spec: ScheduleSpec = { type: 'LRRangeTest', minLr: 0.01, stepSize: 4, stepRate: 2, staircase: false }
  all(t, rates(spec, 5), [0.01, 0.015, 0.02, 0.025, 0.03])
  all(t, rates({ ...spec, staircase: true }, 9), [0.01, 0.01, 0.01, 0.01, 0.03, 0.03, 0.03, 0.03, 0.05])
})

const cycle: OneCycle = {
  type: 'OneCycle',
  minLr: 0.01,
  maxLr: 0.1,
  decayLrRate: 0.5,
  firstSteps: 4,
  secondSteps: 6,
  firstStairs: 0,
  secondStairs: 0,
  decaySteps: 2,
  momentum: { min: 0.8, max: 0.9, decayRate: 0.25 },
}

test('OneCycle: up, down, decay; beta1 mirrored, its first value the lower one, beta2 0.99', (t) => {
  const schedule = createSchedule(cycle, [1e-3])
  const steps = Array.from({ length: 15 }, (_, applied) => schedule.at(applied))
  const lr = [0.01, 0.0325, 0.055, 0.0775, 0.1, 0.085, 0.07, 0.055, 0.04, 0.025, 0.01, 0.008, 1 / 150, 1 / 175, 0.005]
  const beta1 = [0.8, 0.875, 0.85, 0.825, 0.8, 0.8 + 0.1 / 6, 0.8 + 0.2 / 6, 0.85, 0.8 + 0.4 / 6, 0.8 + 0.5 / 6, 0.9]
  all(
    t,
    steps.map((step) => step.lr[0]),
    lr,
  )
  all(
    t,
    steps.map((step) => step.beta1),
    [...beta1, 1.0125, 1.125, 1.2375, 1.35],
  )
  t.true(steps.every((step) => step.beta2 === 0.99))
})

test('OneCycle: known answers of two halves of ten', (t) => {
  const lr = rates({ ...cycle, minLr: 0, maxLr: 1, firstSteps: 10, secondSteps: 10 }, 16)
  near(t, lr[5], 0.5)
  near(t, lr[10], 1)
  near(t, lr[15], 0.5)
})

test('OneCycle: stairs in each half', (t) => {
  const spec: OneCycle = {
    ...cycle,
    minLr: 0,
    maxLr: 1,
    firstSteps: 4,
    secondSteps: 8,
    firstStairs: 2,
    secondStairs: 4,
  }
  all(t, rates(spec, 14), [0, 0, 0.5, 0.5, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0, 0, 0])
})

test('OneCycle: without a second half, without decay', (t) => {
  const spec: OneCycle = { ...cycle, minLr: 0.25, maxLr: 1.25, secondSteps: 0, decaySteps: 0 }
  all(t, rates(spec, 7), [0.25, 0.5, 0.75, 1, 0.25, 0.25, 0.25])
})

test('OneCycle leaves the betas of an optimizer without them, and of one told to keep them', (t) => {
  t.false('beta1' in createSchedule(cycle, [1], 'sgd').at(3))
  t.false('beta1' in createSchedule({ ...cycle, momentum: null }, [1]).at(3))
})

test('lists give each group its own; a list of another length is an error', (t) => {
  const spec: ScheduleSpec = { type: 'WarmupLR', minLr: [0, 1], maxLr: [1, 3], warmupSteps: 4, warmup: 'linear' }
  t.deepEqual(createSchedule(spec, [9, 9]).at(3).lr, [0.5, 2])
  const error = t.throws(() => createSchedule(spec, [9]), { instanceOf: OptimError })
  t.is(error.code, 'OPTIM_SCHEDULE')
  t.is(error.details.key, 'warmup_min_lr')
})
