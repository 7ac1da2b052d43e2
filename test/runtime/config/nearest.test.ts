// Edit distance against its properties, and suggestions that help without guessing wildly.
import test from 'ava'
import fc from 'fast-check'
import { editDistance, nearest } from '../../../runtime/config/nearest.js'

test('known distances', (t) => {
  t.is(editDistance('kitten', 'sitting'), 3)
  t.is(editDistance('stage', 'satge'), 1)
  t.is(editDistance('', 'abc'), 3)
  t.is(editDistance('abc', 'abc'), 0)
})

test('a distance is symmetric, within its bounds, and counts edits', (t) => {
  fc.assert(
    fc.property(fc.string(), fc.string(), (a, b) => {
      const distance = editDistance(a, b)
      t.is(distance, editDistance(b, a))
      t.true(distance >= Math.abs(a.length - b.length) && distance <= Math.max(a.length, b.length))
    }),
  )
  fc.assert(
    fc.property(fc.string({ minLength: 1 }), fc.nat(), (a, at) => {
      const cut = at % a.length
      t.is(editDistance(a, a.slice(0, cut) + a.slice(cut + 1)), 1)
    }),
  )
})

test('nearest finds slips of the hand and leaves strangers alone', (t) => {
  const keys = ['train_batch_size', 'train_micro_batch_size_per_gpu', 'fp16']
  t.is(nearest('train_batchsize', keys), 'train_batch_size')
  t.is(nearest('TRAIN_BATCH_SIZE', keys), 'train_batch_size')
  t.is(nearest('fp61', keys), 'fp16')
  t.is(nearest('scheduler', keys), null)
  t.is(nearest('x', []), null)
})
