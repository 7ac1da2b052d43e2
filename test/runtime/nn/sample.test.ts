// Drawing tokens: which may be drawn, and how often, against the softmax itself.
import test from 'ava'
import { type SamplingOptions, sampleToken, uniform } from '../../../runtime/nn/sample.js'

const logits = Float32Array.of(0.5, 2, -1, 1.5, 1.9, -4)
const draws = 20_000

function softmax(temperature: number): number[] {
  const weights = Array.from(logits, (logit) => Math.exp(logit / temperature))
  const total = weights.reduce((a, b) => a + b)
  return weights.map((weight) => weight / total)
}

/** How often each token came, of all draws. */
function frequencies(options: SamplingOptions): number[] {
  const random = uniform(11)
  const counts = new Array<number>(logits.length).fill(0)
  for (let i = 0; i < draws; i++) counts[sampleToken(logits, options, random)]! += 1
  return counts.map((count) => count / draws)
}

/** Five standard deviations of a frequency. */
const near = (got: number, expected: number): boolean =>
  Math.abs(got - expected) <= 5 * Math.sqrt((expected * (1 - expected)) / draws) + 1e-12

for (const temperature of [0.5, 1, 2]) {
  test(`temperature ${temperature}: frequencies are those of the softmax`, (t) => {
    const expected = softmax(temperature)
    for (const [i, got] of frequencies({ temperature }).entries()) t.true(near(got, expected[i]!), `${i}: ${got}`)
  })
}

test('top-k: only the k likeliest, in their proportions', (t) => {
  const all = softmax(1)
  const kept = [1, 3, 4]
  const mass = kept.reduce((sum, i) => sum + all[i]!, 0)
  for (const [i, got] of frequencies({ topK: 3 }).entries()) {
    if (kept.includes(i)) t.true(near(got, all[i]! / mass), `${i}: ${got}`)
    else t.is(got, 0)
  }
})

test('top-p: the fewest likeliest that reach the probability, at least one', (t) => {
  const all = softmax(1)
  const two = all[1]! + all[4]!
  const drawn = (topP: number) => frequencies({ topP }).flatMap((got, i) => (got > 0 ? [i] : []))
  t.deepEqual(drawn(0), [1])
  t.deepEqual(drawn(all[1]! - 0.01), [1])
  t.deepEqual(drawn(two - 0.01), [1, 4])
  t.deepEqual(drawn(two + 0.01), [1, 3, 4])
  t.deepEqual(drawn(1), [0, 1, 2, 3, 4, 5])
})

test('temperature 0 and one candidate take the likeliest; huge logits do not overflow', (t) => {
  const random = uniform(1)
  t.is(sampleToken(logits, { temperature: 0 }, random), 1)
  t.is(sampleToken(logits, { topK: 1 }, random), 1)
  t.is(sampleToken(Float32Array.of(3e38, -3e38, 0), {}, random), 0)
  t.is(
    sampleToken(Float32Array.of(1, 2), { topK: 99 }, () => 0.999999),
    0,
  )
})

test('uniform numbers: SplitMix64 of the seed, in [0, 1)', (t) => {
  // First outputs for seed 1234567, of the reference implementation (Vigna): 6457827717110365317, 3203168211198807973.
  const random = uniform(1234567)
  t.is(random(), Number(6457827717110365317n >> 11n) / 2 ** 53)
  t.is(random(), Number(3203168211198807973n >> 11n) / 2 ** 53)
})
