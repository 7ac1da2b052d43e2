// What the supervisor makes of the ranks' reports: sums in the order of micro-batches, and one norm for all.
import test from 'ava'
import type { StepReport } from '../../../actors/rank/protocol.js'
import { combine } from '../../../actors/supervisor/state.js'

const report = (losses: readonly number[], norm: number, finite = true): StepReport => {
  return { losses, norm, finite, candidate: 0, nativeSeconds: 0 }
}

test('losses are added in the order of k = micro-step * world + rank', (t) => {
  // 2^53 + 1 - 2^53 is 0 or 1 by the order.
  const { loss } = combine([report([2 ** 53, -(2 ** 53)], 1), report([1, 1], 1)])
  t.is(loss, (2 ** 53 + 1 - 2 ** 53 + 1) / 4)
  t.is(combine([report([1, 2], 3), report([3, 4], 3)]).loss, 2.5)
})

test('one rank that is not finite makes the step not finite', (t) => {
  t.true(combine([report([1], 1), report([1], 1)]).finite)
  t.false(combine([report([1], 1), report([Number.NaN], 1, false)]).finite)
  t.is(combine([report([1], Number.NaN, false), report([1], Number.NaN, false)]).norm, Number.NaN)
})

test('ranks that saw different norms are an error that names them', (t) => {
  t.throws(() => combine([report([1], 1), report([1], 1), report([1], Number.POSITIVE_INFINITY, false)]), {
    message: 'step: gradient norm, expected the same on every rank, got 1 on rank 0 and Infinity on rank 2',
  })
})
