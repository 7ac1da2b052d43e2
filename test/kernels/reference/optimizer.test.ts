// The update rules in float64 against PyTorch 2.13 (CPU, float64; three steps from the values below), and the clip rule.
import test, { type ExecutionContext } from 'ava'
import type { Attributes } from '../../../kernels/ops/definition.js'
import type { ReferenceTensor } from '../../../kernels/reference/index.js'
import { load } from '../../../kernels/reference/storage.js'
import { candidates, runReference, tensorOf } from '../../support/tensors.js'

const start = [0.5, -1.25, 2]
const gradients = [
  [0.1, -0.2, 0.3],
  [-0.4, 0.05, 0.6],
  [0.7, 0.8, -0.9],
]
const unclipped = tensorOf('f64', [4], [1, 1, 1, 0])
const vector = (values: readonly number[]): ReferenceTensor => tensorOf('f64', [3], values)
const flat = { length: 3, shards: 1, ranges: [0, 3] }

function near(t: ExecutionContext, got: ReferenceTensor, expected: readonly number[]): void {
  for (const [i, x] of expected.entries())
    t.true(Math.abs(got.data[i]! - x) <= 4e-15, `element ${i}: ${got.data[i]} for ${x}`)
}

const adamSteps = (decoupled: number): ReferenceTensor => {
  const attributes = { ...flat, decoupled, epsilon: 1e-8, weight_decay: 0.1 }
  let state = [vector(start), vector([0, 0, 0]), vector([0, 0, 0])]
  for (const [step, gradient] of gradients.entries()) {
    const [p, m, v] = state as [ReferenceTensor, ReferenceTensor, ReferenceTensor]
    state = runReference(
      'adam',
      [p, vector(gradient), m, v, unclipped],
      attributes,
      candidates({
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.99,
        correction1: 1 - 0.9 ** (step + 1),
        correction2: 1 - 0.99 ** (step + 1),
      }),
    )
  }
  return state[0]!
}

test('AdamW is torch.optim.AdamW(lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)', (t) => {
  near(t, adamSteps(1), [0.4907997714571573, -1.236835099520772, 1.9750611534668814])
})

test('Adam is torch.optim.Adam(lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)', (t) => {
  near(t, adamSteps(0), [0.4900029151283508, -1.234727453751173, 1.9778540019056163])
})

function sgdSteps(rule: Attributes): ReferenceTensor {
  let state = rule.momentum ? [vector(start), vector([NaN, NaN, NaN])] : [vector(start)]
  for (const [step, gradient] of gradients.entries()) {
    const inputs = [state[0]!, vector(gradient), state[1] ?? null, unclipped]
    const roles = { learning_rate: 0.1, first: step === 0 ? 1 : 0 }
    state = runReference('sgd', inputs, { ...flat, weight_decay: 0.01, ...rule }, candidates(roles))
  }
  return state[0]!
}

test('SGD is torch.optim.SGD(lr=0.1, weight_decay=0.01)', (t) => {
  const plain = sgdSteps({ momentum: 0, dampening: 0, nesterov: 0 })
  near(t, plain, [0.45848148950000006, -1.3112887287500001, 1.9941259679999999])
  const momentum = sgdSteps({ momentum: 0.9, dampening: 0.2, nesterov: 0 })
  near(t, momentum, [0.47519163327999997, -1.2611746864, 1.88957693952])
  const nesterov = sgdSteps({ momentum: 0.9, dampening: 0, nesterov: 1 })
  near(t, nesterov, [0.43695096198049993, -1.33691389924625, 1.889685136512])
})

test('the clip factor multiplies the gradient, and a norm that is not finite leaves everything untouched', (t) => {
  const attributes = { ...flat, momentum: 0, dampening: 0, nesterov: 0, weight_decay: 0 }
  const roles = { learning_rate: 0.5, first: 0 }
  const run = (control: readonly number[]) =>
    runReference('sgd', [vector(start), vector([1, 2, 4]), null, tensorOf('f64', [4], control)], attributes, roles)[0]!
  near(t, run([8, 0.25, 1, 0]), [0.375, -1.5, 1.5])
  near(t, run([Infinity, 1, 0, 0]), start)
})

test('slices of a unit, updated apart, are the unit updated whole; nothing outside the ranges moves', (t) => {
  const length = 4096
  const values = (seed: number): number[] => Array.from({ length }, (_, i) => Math.sin(i * seed))
  const attributes = {
    momentum: 0,
    dampening: 0,
    nesterov: 0,
    weight_decay: 0.1,
    length,
    ranges: [5, 2000, 2100, 1500],
  }
  const roles = { learning_rate: 0.5, first: 0 }
  const [p, g] = [values(1), values(2)]
  const run = (shards: number, rank: number) => {
    const part = [rank, rank + 1].map((edge) => (edge * length) / shards)
    const operand = (all: number[]) => tensorOf('f32', [length / shards], all.slice(...part))
    return runReference('sgd', [operand(p), operand(g), null, unclipped], { ...attributes, shards }, roles, {
      rank,
      ranks: shards,
    })[0]!.data
  }
  const whole = run(1, 0)
  t.deepEqual(
    [0, 1, 2, 3].flatMap((rank) => [...run(4, rank)]),
    [...whole],
  )
  for (const i of [0, 4, 2005, 2099, 3600, 4095]) t.is(whole[i], Math.fround(p[i]!), `element ${i} is outside`)
  for (const i of [5, 2004, 2100, 3599]) t.not(whole[i], Math.fround(p[i]!), `element ${i} is inside`)
})

test('a bf16 parameter is rounded to a neighbour with the expectation of the update', (t) => {
  // With a gradient and moments of zero the update is p * (1 - lr * wd), the same for all: 1 becomes 1 - 2^-9 - 2^-12 or so.
  const count = 1 << 16
  const decay = 2 ** -9 + 2 ** -12
  const rounded = (step: number, seed: number, origin = 0): Float64Array => {
    const inputs = [
      tensorOf('bf16', [count], new Float32Array(count).fill(1)),
      ...[0, 0, 0].map((value) => tensorOf('f32', [count], new Float32Array(count).fill(value))),
      tensorOf('f64', [4], [1, 1, 1, 0]),
    ]
    const attributes = {
      decoupled: 1,
      epsilon: 1e-8,
      weight_decay: decay,
      length: count,
      shards: 1,
      origin,
      ranges: [0, count],
    }
    const roles = {
      ...candidates({ learning_rate: 1, beta1: 0.9, beta2: 0.999, correction1: 0.1, correction2: 0.001 }),
      seed,
      step,
    }
    return load(runReference('adam', inputs, attributes, roles)[0]!)
  }
  // Below 1 neighbours are 2^-8 apart: 1 - 2^-8 with probability q, else 1.
  const q = decay * 2 ** 8
  const low = 1 - 2 ** -8
  const down = (values: Float64Array): boolean[] => Array.from(values, (value) => value === low)
  const first = rounded(3, 77)
  t.deepEqual([...new Set(first)].sort(), [low, 1])
  const runs = [first, rounded(4, 77), rounded(3, 78)].map(down)
  const near = (hits: number, of: number, p: number, what: string): void => {
    // Six deviations of a binomial: once in 5e8.
    const away = Math.abs(hits - of * p) / Math.sqrt(of * p * (1 - p))
    t.true(away < 6, `${what}: ${away} deviations`)
  }
  for (const run of runs) near(run.filter(Boolean).length, count, q, 'share that goes down')
  // Neighbours, steps and seeds are independent.
  const [a, b, c] = runs as [boolean[], boolean[], boolean[]]
  for (const distance of [1, 2, 4, 8])
    near(a.filter((hit, i) => hit && a[(i + distance) % count]).length, count, q * q, `elements ${distance} apart`)
  near(a.filter((hit, i) => hit && b[i]).length, count, q * q, 'steps')
  near(a.filter((hit, i) => hit && c[i]).length, count, q * q, 'seeds')
  // An element's number decides, not where its unit begins.
  t.deepEqual(rounded(3, 77, 1024).slice(0, count - 1024), first.slice(1024))
})

test('control: norm over the chunks in the order of the ranges, factor only where it shrinks', (t) => {
  const control = (maxNorm: number, sums: readonly number[], ranges: readonly number[]) =>
    Array.from(
      runReference('clip_control', [tensorOf('f64', [sums.length], sums)], { max_norm: maxNorm, ranges })[0]!.data,
    )
  t.deepEqual(control(1, [9, 100, 16], [2, 1, 0, 1]), [5, 1 / (5 + 1e-6), 1, 0])
  t.deepEqual(control(6, [9, 16], [0, 2]), [5, 1, 1, 0])
  t.deepEqual(control(0, [9, 16], [0, 2]), [5, 1, 1, 0])
  t.is(control(1, [9, Infinity], [0, 2])[2], 0)
  t.is(control(1, [NaN, 4], [0, 2])[2], 0)
  t.is(
    control(1, [1, 2 ** -53, 2 ** -53], [1, 2, 0, 1])[0],
    Math.sqrt(1 + 2 ** -52),
    'small chunks first do not vanish',
  )
})

test('chunk sums square the elements of the rank slice, 1024 at a time', (t) => {
  const gradient = tensorOf(
    'f32',
    [4096],
    Float32Array.from({ length: 4096 }, (_, i) => 1 + Math.floor(i / 1024)),
  )
  const sums = (shards: number, rank: number) =>
    Array.from(runReference('norm_chunks', [gradient], { length: 4096, shards }, {}, { rank, ranks: shards })[0]!.data)
  t.deepEqual(sums(1, 0), [1024, 4096, 9216, 16384])
  t.deepEqual(sums(2, 1), [9216, 16384])
})
