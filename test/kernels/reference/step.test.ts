// Runs of steps against what the host would have decided one step at a time: the loss scaler's state machine, the number of updates, and
// with them the schedule's and the optimizer's numbers, whatever overflows and however many steps were sent ahead.
import test from 'ava'
import fc from 'fast-check'
import type { ReferenceTensor } from '../../../kernels/reference/index.js'
import {
  createSchedule,
  defaultOptimizer,
  type LossScaleSpec,
  type LossScaleState,
  maxLossScale,
  nextLossScale,
  noLossScale,
  OptimError,
  optimizerScalars,
  startLossScale,
} from '../../../runtime/optim/index.js'
import { candidates, runReference, tensorOf } from '../../support/tensors.js'

const attributesOf = (spec: LossScaleSpec, skips: boolean) => ({
  skips: Number(skips),
  dynamic: Number(spec.dynamic),
  window: spec.window,
  hysteresis: spec.hysteresis,
  consecutive: Number(spec.consecutiveHysteresis),
  least: spec.min,
  most: maxLossScale,
})

const stateOf = ({ scale, iteration, lastOverflow, hysteresis }: LossScaleState, updates: number): ReferenceTensor =>
  tensorOf('f64', [8], [scale, iteration, lastOverflow, hysteresis, updates, 0, 0, 0])

const same = ({ data }: ReferenceTensor, expected: ArrayLike<number>): boolean =>
  data.every((value, i) => Object.is(value, expected[i]))

interface Decided {
  readonly norm: number
  readonly updates: boolean
  readonly candidate: number
  readonly state: ReferenceTensor
}

function decide(
  spec: LossScaleSpec,
  skips: boolean,
  state: ReferenceTensor,
  finite: boolean,
  sent: { taken: number; follows: number },
): Decided {
  const control = tensorOf('f64', [4], [finite ? 1.5 : Number.NaN, 0.25, finite ? 1 : 0, 0])
  const [decided, next] = runReference('step_control', [control, state], attributesOf(spec, skips), sent)
  const [norm, factor, updates, candidate] = decided!.data as Float64Array
  if (factor !== 0.25) throw new Error(`factor, expected it as it was, got ${factor}`)
  return { norm: norm!, updates: updates === 1, candidate: candidate!, state: next! }
}

const specs: fc.Arbitrary<LossScaleSpec> = fc.record({
  dynamic: fc.boolean(),
  initial: fc.integer({ min: 0, max: 32 }).map((power) => 2 ** power),
  window: fc.integer({ min: 1, max: 4 }),
  hysteresis: fc.integer({ min: 1, max: 3 }),
  consecutiveHysteresis: fc.boolean(),
  min: fc.constantFrom(1, 0.25, 3),
})

test('any row of overflows takes the scaler through its states, up to the one that ends the run', (t) => {
  fc.assert(
    fc.property(specs, fc.array(fc.boolean(), { maxLength: 40 }), fc.boolean(), (spec, overflows, ahead) => {
      let expected = startLossScale(spec)
      let updates = 0
      let state = stateOf(expected, 0)
      for (const [step, overflow] of overflows.entries()) {
        // Where the step was sent with one under way, the sender knows of one step fewer.
        const taken = ahead && step > 0 ? updates - Number(!overflows[step - 1]) : updates
        const sent = { taken, follows: Number(ahead && step > 0) }
        const got = decide(spec, true, state, !overflow, sent)
        if (got.candidate !== updates - taken) return false
        let next: LossScaleState
        try {
          next = nextLossScale(spec, expected, overflow)
        } catch (error) {
          return error instanceof OptimError && !got.updates && same(got.state, [...state.data].with(5, 1))
        }
        updates += Number(!overflow)
        expected = next
        state = got.state
        if (got.updates === overflow || !same(state, stateOf(expected, updates).data)) return false
      }
      return true
    }),
    { numRuns: 500 },
  )
  t.pass()
})

test('an update takes the numbers of the schedule and the optimizer for the updates really made', (t) => {
  const schedule = createSchedule(
    {
      type: 'OneCycle',
      minLr: 1e-4,
      maxLr: 1e-2,
      decayLrRate: 0.1,
      firstSteps: 3,
      secondSteps: 4,
      firstStairs: 0,
      secondStairs: 0,
      decaySteps: 2,
      momentum: { min: 0.8, max: 0.9, decayRate: 0.1 },
    },
    [1e-3],
  )
  const scalarsAfter = (applied: number) => {
    const { lr, ...betas } = schedule.at(applied)
    return { ...optimizerScalars(defaultOptimizer, applied + 1, { ...betas, lr: lr[0]! }) }
  }
  const attributes = { decoupled: 1, epsilon: 1e-8, weight_decay: 0.1, length: 2, shards: 1, ranges: [0, 2] }
  const vector = (...values: number[]): ReferenceTensor => tensorOf('f32', [2], values)
  const adam = (unit: readonly ReferenceTensor[], control: ReferenceTensor, roles: Readonly<Record<string, number>>) =>
    runReference('adam', [unit[0]!, vector(0.3, -2), unit[1]!, unit[2]!, control], attributes, roles)
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 12 }), (overflows) => {
      const start = [vector(1, -1), vector(0, 0), vector(0, 0)]
      let [unit, expected] = [start, start]
      let state = stateOf(startLossScale(noLossScale), 0)
      let updates = 0
      let known = 0
      for (const overflow of overflows) {
        const control = tensorOf('f64', [4], [1, 1, Number(!overflow), 0])
        const sent = { taken: known, follows: 1 }
        const [decided, next] = runReference('step_control', [control, state], attributesOf(noLossScale, true), sent)
        unit = adam(unit, decided!, candidates(scalarsAfter(known), scalarsAfter(known + 1)))
        if (!overflow) expected = adam(expected, tensorOf('f64', [4], [1, 1, 1, 0]), candidates(scalarsAfter(updates)))
        if (!unit.every((tensor, i) => same(tensor, expected[i]!.data))) return false
        state = next!
        known = updates
        updates += Number(!overflow)
      }
      return true
    }),
    { numRuns: 200 },
  )
  t.pass()
})

test('nothing follows a step that may not be skipped, until a step is sent that knows of it', (t) => {
  const state = stateOf({ ...startLossScale(noLossScale), iteration: 7 }, 7)
  const guilty = decide(noLossScale, false, state, false, { taken: 7, follows: 0 })
  t.false(guilty.updates)
  t.deepEqual([...guilty.state.data], [...state.data].with(5, 1))
  const behind = decide(noLossScale, false, guilty.state, true, { taken: 7, follows: 1 })
  t.false(behind.updates)
  t.deepEqual(behind.state.data, guilty.state.data)
  const repeated = decide(noLossScale, false, guilty.state, false, { taken: 7, follows: 0 })
  t.deepEqual(repeated.state.data, guilty.state.data)
  const other = decide(noLossScale, false, guilty.state, true, { taken: 7, follows: 0 })
  t.true(other.updates)
  t.deepEqual([...other.state.data], [1, 8, -1, 1, 8, 0, 0, 0])
})

test('a step for which there is no candidate updates nothing', (t) => {
  const state = stateOf(startLossScale(noLossScale), 7)
  for (const taken of [5, 8, 0]) {
    const got = decide(noLossScale, true, state, true, { taken, follows: 0 })
    t.false(got.updates)
    t.is(got.candidate, 7 - taken)
    t.deepEqual([...got.state.data], [...state.data].with(5, 1))
  }
})

test('the loss scale is rounded once, after its factor', (t) => {
  const state = tensorOf('f64', [8], [2 ** 24 + 1, 0, -1, 1, 0, 0, 0, 0])
  const [y] = runReference('loss_scale', [state], { factor: 1 / 3 })
  t.is(y!.data[0], Math.fround((2 ** 24 + 1) / 3))
})
