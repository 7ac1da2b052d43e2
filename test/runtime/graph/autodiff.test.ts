// Gradients of whole graphs: against finite differences in float64, and the rules of order, seed and refusal.
import test from 'ava'
import { differentiate, gradientName } from '../../../runtime/graph/autodiff.js'
import { type Graph, GraphBuilder, GraphError } from '../../../runtime/graph/ir.js'
import { trace } from '../../../runtime/graph/trace.js'
import * as functional from '../../../runtime/nn/functional.js'
import { GPT2 } from '../../../runtime/nn/models/gpt2.js'
import { Module, namedParameters, Parameter } from '../../../runtime/nn/module.js'
import type { Tensor } from '../../../runtime/nn/tensor.js'
import { interpret } from '../../support/interpret.js'
import { formulaWeights } from '../../support/weights.js'

const config = { vocab_size: 7, n_positions: 4, n_embd: 4, n_layer: 2, n_head: 2, n_inner: 6 }
const tokens = { shape: [2, 3], dtype: 'i32' } as const
const batch = { ids: [1, 5, 2, 3, 3, 0], targets: [5, 2, 6, 3, -1, 4] }

const lossOf = (model: GPT2, training: boolean): Graph =>
  trace(model, {
    inputs: { ids: tokens, targets: tokens },
    training,
    dtype: 'f64',
    body: (m, { ids, targets }) => ({ loss: m.loss(ids, targets) }),
  })

for (const [what, options, training] of [
  ['tied, tanh GELU', {}, false],
  ['tied, dropout', { resid_pdrop: 0.2, embd_pdrop: 0.1, attn_pdrop: 0.3 }, true],
  [
    'untied, erf GELU, unscaled scores',
    { tie_word_embeddings: false, activation_function: 'gelu', scale_attn_weights: false },
    false,
  ],
] as const) {
  test(`every gradient of GPT-2 agrees with finite differences (${what})`, (t) => {
    const model = new GPT2({ ...config, ...options })
    const forward = lossOf(model, training)
    const wrt = namedParameters(model).map(({ name }) => name)
    const seed = 0.25
    const graph = differentiate(forward, { loss: 'loss', wrt, seed })
    t.deepEqual(
      graph.outputs.map(({ name }) => name),
      ['loss', ...wrt.map(gradientName)],
    )
    const weights = formulaWeights(model)
    const scalars = { seed: 42, step: 3, sample: 10 }
    const results = interpret(graph, { ...weights, ...batch }, scalars)
    const h = 1e-5
    for (const [p, name] of wrt.entries()) {
      const gradient = results[gradientName(name)]!
      t.is(gradient.length, weights[name]!.length)
      // Three elements of each parameter, at places that move from one to the next.
      for (const place of [0.07, 0.41, 0.83]) {
        const i = Math.floor(((place + 0.13 * p) % 1) * gradient.length)
        const at = (delta: number): number => {
          const moved = weights[name]!.slice()
          moved[i]! += delta
          return interpret(forward, { ...weights, [name]: moved, ...batch }, scalars).loss![0]!
        }
        const difference = (seed * (at(h) - at(-h))) / (2 * h)
        t.true(Math.abs(gradient[i]! - difference) < 1e-9, `${name}[${i}]: ${gradient[i]} and ${difference}`)
      }
    }
  })
}

test('a tied weight adds the head`s gradient first, then the embedding`s', (t) => {
  const graph = differentiate(lossOf(new GPT2(config), false), {
    loss: 'loss',
    wrt: ['transformer.wte.weight'],
    seed: 1,
  })
  const sum = graph.outputs[1]!.value.node!
  t.is(sum.op, 'add')
  t.deepEqual(
    sum.inputs.map((value) => value!.node!.op),
    ['linear_weight_gradient', 'embedding_backward'],
  )
})

test('backward nodes carry the module, block and line of their forward', (t) => {
  const graph = differentiate(lossOf(new GPT2(config), false), {
    loss: 'loss',
    wrt: ['transformer.wpe.weight'],
    seed: 1,
  })
  const forward = graph.nodes.find(({ op }) => op === 'attention')!
  const backward = graph.nodes.filter(({ op }) => op === 'attention_backward').at(-1)!
  t.deepEqual(backward.origin, { ...forward.origin, phase: 'backward' })
  t.is(backward.origin.block, 'transformer.h.0')
})

class Unused extends Module {
  readonly used = new Parameter([2], { kind: 'constant', value: 1 })
  readonly unused = new Parameter([3], { kind: 'constant', value: 1 })
  override forward(x: Tensor): Tensor {
    const y = x.mul(this.used)
    return functional.crossEntropy(y.add(y.mul(this.used)), functional.arange(2), { scale: 1 })
  }
}

test('several uses are summed, a parameter without use gets zeros, the seed is the gradient of the loss', (t) => {
  const forward = trace(new Unused(), {
    inputs: { x: { shape: [2, 2], dtype: 'f32' } },
    training: false,
    dtype: 'f64',
    body: (m, { x }) => ({ loss: m.forward(x) }),
  })
  const graph = differentiate(forward, { loss: 'loss', wrt: ['unused', 'used', 'x'], seed: 3 })
  const [x, u] = [
    [0.3, -0.7, 1.1, 0.2],
    [0.5, -1.5],
  ] as const
  const results = interpret(graph, { x, used: u, unused: [1, 2, 3] })
  // logits z = x (u + u^2); dz = 3 (softmax - onehot); du = sum over rows of dz x (1 + 2 u); dx = dz (u + u^2).
  const dz = [0, 1].flatMap((row) => {
    const z = [0, 1].map((j) => x[2 * row + j]! * (u[j]! + u[j]! ** 2))
    const total = Math.exp(z[0]!) + Math.exp(z[1]!)
    return z.map((value, j) => 3 * (Math.exp(value) / total - (j === row ? 1 : 0)))
  })
  const close = (a: ArrayLike<number>, b: number[]): void => {
    t.is(a.length, b.length)
    b.forEach((value, i) => {
      t.true(Math.abs(a[i]! - value) < 1e-12, `${a[i]} and ${value}`)
    })
  }
  close(
    results['gradient:used']!,
    [0, 1].map((j) => (dz[j]! * x[j]! + dz[2 + j]! * x[2 + j]!) * (1 + 2 * u[j]!)),
  )
  close(
    results['gradient:x']!,
    dz.map((value, i) => value * (u[i % 2]! + u[i % 2]! ** 2)),
  )
  t.deepEqual([...results['gradient:unused']!], [0, 0, 0])
})

test('refuses unknown names, a loss of several elements and ops without a gradient', (t) => {
  const builder = new GraphBuilder()
  const p = builder.input('p', 'parameter', { shape: [1], dtype: 'f32' })
  const wide = builder.input('wide', 'input', { shape: [4], dtype: 'f32' })
  const origin = { phase: 'forward', module: 'gate', source: 'model.ts:7' } as const
  builder.output('loss', builder.emit('softmax_backward', [p, p], {}, origin)[0]!)
  builder.output('wide', wide)
  const graph = builder.finish()
  t.throws(() => differentiate(graph, { loss: 'los', wrt: ['p'], seed: 1 }), {
    instanceOf: GraphError,
    message: /loss los/,
  })
  t.throws(() => differentiate(graph, { loss: 'loss', wrt: ['q'], seed: 1 }), { message: /parameter q/ })
  t.throws(() => differentiate(graph, { loss: 'wide', wrt: ['p'], seed: 1 }), { message: /one element, got f32\[4\]/ })
  t.throws(() => differentiate(graph, { loss: 'loss', wrt: ['p'], seed: 1 }), {
    instanceOf: GraphError,
    message: 'differentiate: softmax_backward, expected an op with a gradient, got one without (gate, model.ts:7)',
  })
})
