// The order of samples: each epoch a permutation, shared out so that the union over ranks is the batch however it is cut.
import test from 'ava'
import fc from 'fast-check'
import { createSampler } from '../../../runtime/data/sampler.js'

const seeds = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER })
const sorted = (list: readonly number[]): number[] => [...list].sort((a, b) => a - b)
const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

test('each epoch is a permutation of all samples', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 700 }),
      seeds,
      fc.integer({ min: 0, max: 2 ** 40 }),
      (samples, seed, epoch) => {
        const sampler = createSampler({ samples, seed, shuffle: true })
        t.deepEqual(sorted(upTo(samples).map((i) => sampler.sampleAt(epoch * samples + i))), upTo(samples))
      },
    ),
  )
})

test('the order depends on seed and epoch, and on nothing else', (t) => {
  const order = (seed: number, epoch: number): string => {
    const sampler = createSampler({ samples: 100, seed, shuffle: true })
    return upTo(100)
      .map((i) => sampler.sampleAt(epoch * 100 + i))
      .join()
  }
  const orders = [0, 1, 2 ** 32, 2 ** 32 + 1].flatMap((seed) => [0, 1, 2].map((epoch) => order(seed, epoch)))
  t.is(new Set(orders).size, orders.length)
  t.is(order(7, 3), order(7, 3))
  const sampler = createSampler({ samples: 100, seed: 7, shuffle: true })
  sampler.sampleAt(5)
  t.is(
    upTo(100)
      .reverse()
      .map((i) => sampler.sampleAt(300 + i))
      .reverse()
      .join(),
    order(7, 3),
  )
})

test('the order is that of a transliteration to Python: checkpoints store positions in it, so it never changes', (t) => {
  const small = createSampler({ samples: 10, seed: 42, shuffle: true })
  const order = [7, 9, 6, 1, 3, 4, 0, 8, 2, 5, 6, 1, 5, 7, 8, 2, 9, 3, 4, 0]
  t.deepEqual(
    upTo(20).map((i) => small.sampleAt(i)),
    order,
  )
  const large = createSampler({ samples: 1000, seed: 2 ** 40 + 7, shuffle: true })
  t.deepEqual(
    upTo(6).map((i) => large.sampleAt(3000 + i)),
    [557, 943, 56, 181, 910, 567],
  )
})

test('every sample is as likely at every place (chi-square over 4,000 epochs of 8)', (t) => {
  const counts = Array.from({ length: 8 }, () => new Float64Array(8))
  const sampler = createSampler({ samples: 8, seed: 1, shuffle: true })
  for (let position = 0; position < 8 * 4000; position++) counts[position % 8]![sampler.sampleAt(position)]!++
  const statistic = counts.flatMap((row) => [...row]).reduce((sum, count) => sum + (count - 500) ** 2 / 500, 0)
  // 49 degrees of freedom: 0.9999 of such statistics lie below 95.
  t.true(statistic < 95, `chi-square ${statistic}`)
})

test('unshuffled is the identity, across epoch ends', (t) => {
  const sampler = createSampler({ samples: 5, seed: 9, shuffle: false })
  t.deepEqual(
    upTo(12).map((i) => sampler.sampleAt(i)),
    [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1],
  )
})

test('over whole epochs every sample comes equally often: nothing is dropped at their ends', (t) => {
  const sampler = createSampler({ samples: 10, seed: 3, shuffle: true })
  const seen = upTo(60).map((position) => sampler.sampleAt(position))
  t.deepEqual(
    sorted(seen),
    upTo(10).flatMap((sample) => Array(6).fill(sample)),
  )
})
