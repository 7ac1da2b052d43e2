// Initial values: the distribution is the one asked for, and a shard holds what the whole would hold there.
import test from 'ava'
import { runReference, tensorOf } from '../support/tensors.js'

const count = 1 << 16
const key = { key_low: 0x12345678, key_high: 0x9abcdef0 }

function draw(options: {
  start?: number
  length?: number
  shards?: number
  rank?: number
  seed?: number
  key_low?: number
}) {
  const { start = 0, length = count, shards = 1, rank = 0, seed = 42, key_low = key.key_low } = options
  const attributes = { start, count, shards, mean: 0.5, std: 2, key_low, key_high: key.key_high }
  const unit = tensorOf('f32', [length / shards], new Float32Array(length / shards))
  return Array.from(runReference('initialize_normal', [unit], attributes, { seed }, { rank, ranks: shards })[0]!.data)
}

test('mean, variance, skewness and kurtosis are those of the normal distribution', (t) => {
  const z = draw({}).map((x) => (x - 0.5) / 2)
  const moment = (power: number): number => z.reduce((sum, x) => sum + x ** power, 0) / count
  // Standard errors of the first four sample moments of n normal draws: 1, sqrt 2, sqrt 15 and sqrt 96 over sqrt n.
  const bound = (variance: number): number => 4 * Math.sqrt(variance / count)
  t.true(Math.abs(moment(1)) < bound(1), `mean ${moment(1)}`)
  t.true(Math.abs(moment(2) - 1) < bound(2), `variance ${moment(2)}`)
  t.true(Math.abs(moment(3)) < bound(15), `third moment ${moment(3)}`)
  t.true(Math.abs(moment(4) - 3) < bound(96), `fourth moment ${moment(4)}`)
})

test('neighbouring draws are uncorrelated', (t) => {
  const z = draw({}).map((x) => (x - 0.5) / 2)
  for (const lag of [1, 2, 3, 4]) {
    const correlation = z.slice(lag).reduce((sum, x, i) => sum + x * z[i]!, 0) / count
    t.true(Math.abs(correlation) < 4 / Math.sqrt(count), `lag ${lag}: ${correlation}`)
  }
})

test('slices are the whole, and the place in the unit does not matter', (t) => {
  const start = 1027
  const length = count + 2048
  const whole = draw({ start, length })
  t.deepEqual(
    [0, 1, 2, 3].flatMap((rank) => draw({ start, length, shards: 4, rank })),
    whole,
  )
  t.deepEqual(whole.slice(start, start + count), draw({}))
  t.true(
    whole.every((x, i) => (i >= start && i < start + count) || x === 0),
    'nothing outside is written',
  )
})

test('seed and key change every draw', (t) => {
  const base = draw({})
  for (const other of [draw({ seed: 43 }), draw({ seed: 42 + 2 ** 32 }), draw({ key_low: key.key_low ^ 1 })]) {
    t.true(other.filter((x, i) => x === base[i]).length < 5)
  }
})
