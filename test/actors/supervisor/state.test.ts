// What the supervisor makes of the ranks' reports: sums in the order of micro-batches, one norm and one count of updates for all; and in
// which slots batches lie while steps are under way.
import test from 'ava'
import type { StepReport } from '../../../actors/rank/protocol.js'
import { combine, emptySlots, slotOf, takeSlot } from '../../../actors/supervisor/state.js'

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

test('ranks that had made different numbers of updates are an error that names them', (t) => {
  t.throws(() => combine([report([1], 1), { ...report([1], 1), candidate: 1 }]), {
    message: 'step: updates made, expected the same on every rank, got 0 on rank 0 and 1 on rank 1',
  })
})

test('a batch that is filled ahead takes neither of the slots that steps under way read', (t) => {
  let slots = emptySlots(3)
  const busy: number[] = []
  for (let sample = 0; sample < 20; sample++) {
    t.is(slotOf(slots, sample), undefined)
    const taken = takeSlot(slots, sample, busy)
    t.false(busy.includes(taken.slot))
    slots = taken.slots
    busy.push(taken.slot)
    if (busy.length > 2) busy.shift()
    for (const [back, slot] of busy.toReversed().entries()) t.is(slotOf(slots, sample - back), slot)
  }
})
