// A batch's place in shared memory, and the order of its tokens against a sort.
import test from 'ava'
import fc from 'fast-check'
import { orderInputs, orderScratch, slotArrays, slotBytes } from '../../../runtime/data/slot.js'

test('the order of each micro-batch is its positions, sorted by token and then by position', (t) => {
  const shapes = fc.record({
    micro: fc.integer({ min: 1, max: 3 }),
    micros: fc.integer({ min: 1, max: 4 }),
    sequence: fc.integer({ min: 1, max: 40 }),
    vocabulary: fc.integer({ min: 1, max: 50 }),
    seed: fc.integer(),
  })
  fc.assert(
    fc.property(shapes, ({ micro, micros, sequence, vocabulary, seed }) => {
      const shape = { rows: micro * micros, micro, sequence, ordered: true }
      const arrays = slotArrays(shape, new SharedArrayBuffer(slotBytes(shape)))
      arrays.inputs.forEach((_, i) => {
        arrays.inputs[i] = (Math.imul(i + 1, seed | 1) >>> 8) % vocabulary
      })
      arrays.order!.fill(-1)
      orderInputs(shape, arrays, orderScratch(shape, vocabulary))
      const count = micro * sequence
      for (let start = 0; start < arrays.inputs.length; start += count) {
        const ids = arrays.inputs.subarray(start, start + count)
        const sorted = Array.from(ids, (_, i) => i).sort((a, b) => ids[a]! - ids[b]! || a - b)
        t.deepEqual([...arrays.order!.subarray(start, start + count)], sorted)
      }
    }),
  )
})

test('parts of a slot lie end to end; without an order there is no room for one', (t) => {
  const shape = { rows: 3, micro: 1, sequence: 5, ordered: false }
  t.is(slotBytes(shape), 2 * 15 * 4)
  const memory = new SharedArrayBuffer(slotBytes(shape))
  const { inputs, targets, order } = slotArrays(shape, memory)
  t.is(order, null)
  inputs.fill(1)
  targets.fill(2)
  t.deepEqual([...new Int32Array(memory)], [...Array(15).fill(1), ...Array(15).fill(2)])
})
