// The loss scaler against the traces that DeepSpeed's specification writes down, and what must hold for any row of overflows.
import test from 'ava'
import fc from 'fast-check'
import {
  type LossScaleSpec,
  type LossScaleState,
  maxLossScale,
  nextLossScale,
  noLossScale,
  OptimError,
  startLossScale,
} from '../../../runtime/optim/index.js'

const dynamic: LossScaleSpec = {
  dynamic: true,
  initial: 2 ** 16,
  window: 4,
  hysteresis: 2,
  consecutiveHysteresis: false,
  min: 1,
}

/** States after each flag, `O` for an overflow. */
function play(spec: LossScaleSpec, flags: string): LossScaleState[] {
  let state = startLossScale(spec)
  return [...flags].map((flag) => {
    state = nextLossScale(spec, state, flag === 'O')
    return state
  })
}
const powers = (states: readonly LossScaleState[]): number[] => states.map(({ scale }) => Math.log2(scale))

test('the golden trace with hysteresis 2 and window 4', (t) => {
  const states = play(dynamic, 'ONNNNNOO')
  t.deepEqual(powers(states), [16, 16, 16, 16, 16, 17, 17, 16])
  t.deepEqual(
    states.map(({ hysteresis }) => hysteresis),
    [1, 1, 1, 1, 1, 2, 1, 1],
  )
  t.deepEqual(
    states.map(({ iteration }) => iteration),
    [1, 2, 3, 4, 5, 6, 7, 8],
  )
  t.is(states.at(-1)!.lastOverflow, 7)
})

test('the golden trace with hysteresis 1', (t) => {
  t.deepEqual(powers(play({ ...dynamic, hysteresis: 1 }, 'ONNNNNOO')), [15, 15, 15, 15, 15, 16, 15, 14])
})

test('consecutive hysteresis forgives again after each good step', (t) => {
  const spec = { ...dynamic, consecutiveHysteresis: true, window: 100 }
  t.deepEqual(powers(play(spec, 'ONONOO')), [16, 16, 16, 16, 16, 15])
  t.deepEqual(powers(play({ ...dynamic, window: 100 }, 'ONONOO')), [16, 16, 15, 15, 14, 13])
})

test('growth needs window + 1 good steps after an overflow, window + 1 from the start', (t) => {
  t.deepEqual(powers(play(dynamic, 'NNNNNNNNN')), [16, 16, 16, 16, 17, 17, 17, 17, 18])
})

test('an overflow at the least scale is an error, once hysteresis is used up', (t) => {
  const spec = { ...dynamic, initial: 4, min: 3 }
  const states = play(spec, 'OO')
  t.deepEqual(
    states.map(({ scale }) => scale),
    [4, 3],
  )
  const error = t.throws(() => nextLossScale(spec, states[1]!, true), { instanceOf: OptimError })
  t.is(error?.code, 'OPTIM_LOSS_SCALE')
})

test('a static scale never moves, nor does the scale of dtypes that need none', (t) => {
  t.true(play({ ...dynamic, dynamic: false, initial: 128 }, 'OONNNNNNNNO').every(({ scale }) => scale === 128))
  t.true(play(noLossScale, 'OONNN').every(({ scale }) => scale === 1))
})

test('within its bounds for any row of overflows, halving by an overflow and doubling by none', (t) => {
  const specs = fc.record({
    dynamic: fc.constant(true),
    initial: fc.integer({ min: 0, max: 32 }).map((power) => 2 ** power),
    window: fc.integer({ min: 1, max: 5 }),
    hysteresis: fc.integer({ min: 1, max: 3 }),
    consecutiveHysteresis: fc.boolean(),
    min: fc.constant(1),
  })
  fc.assert(
    fc.property(specs, fc.array(fc.boolean(), { maxLength: 200 }), (spec, flags) => {
      let state = startLossScale(spec)
      for (const overflow of flags) {
        if (overflow && state.scale === spec.min && (spec.hysteresis === 1 || state.hysteresis === 1)) {
          t.throws(() => nextLossScale(spec, state, overflow))
          return
        }
        const next = nextLossScale(spec, state, overflow)
        const factor = next.scale / state.scale
        t.true(overflow ? factor === 1 || factor === 0.5 : factor === 1 || factor === 2)
        t.true(next.scale >= spec.min && next.scale <= maxLossScale)
        t.true(next.hysteresis >= 1 && next.hysteresis <= spec.hysteresis)
        state = next
      }
    }),
  )
})
