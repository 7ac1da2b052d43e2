// What a trace writes down: nodes, names, origins; and what it refuses.
import test from 'ava'
import { GraphError, printGraph } from '../../../runtime/graph/ir.js'
import { trace } from '../../../runtime/graph/trace.js'
import * as functional from '../../../runtime/nn/functional.js'
import { Dropout, Linear } from '../../../runtime/nn/layers.js'
import { GPT2 } from '../../../runtime/nn/models/gpt2.js'
import { Module, Parameter } from '../../../runtime/nn/module.js'
import type { Tensor } from '../../../runtime/nn/tensor.js'

class Tiny extends Module {
  readonly fc = new Linear(2, 3)
  readonly drop = new Dropout(0.25)
  readonly gain = new Parameter([3], { kind: 'constant', value: 1 })
  override forward(x: Tensor): Tensor {
    return this.drop
      .forward(functional.relu(this.fc.forward(x)).mul(this.gain))
      .scale(0.5)
      .reshape([12])
  }
}

const x = { shape: [4, 2], dtype: 'f32' } as const
const ids = { shape: [2, 4], dtype: 'i32' } as const
const small = { vocab_size: 11, n_positions: 4, n_embd: 6, n_layer: 2, n_head: 2 }

test('a graph prints its inputs, nodes, modules and lines', (t) => {
  const graph = trace(new Tiny(), { inputs: { x }, training: true, body: (model, { x }) => ({ y: model.forward(x) }) })
  const text = printGraph(graph).replaceAll(/\S*trace\.test\.js:\d+/g, 'HERE')
  t.is(
    text,
    `%0: f32[3, 2] = parameter fc.weight
%1: f32[3] = parameter fc.bias
%2: f32[3] = parameter gain
%3: f32[4, 2] = input x
%5: f32[4, 3] = linear(%3, %0, %1, -) {transposed=0}  ; forward fc HERE
%7: f32[4, 3] = activation(%5) {kind=2}  ; forward HERE
%9: f32[4, 3] = multiply(%7, %2)  ; forward HERE
%11: f32[4, 3] = dropout(%9, -) {p=0.25 op_id=1}  ; forward drop HERE
%13: f32[4, 3] = scale(%11) {factor=0.5}  ; forward HERE
%15: f32[12] = reshape(%13) {shape=[12]}  ; forward HERE
return y = %15
`,
  )
})

test('lines are relative and point at who wrote the model', (t) => {
  const graph = trace(new Tiny(), { inputs: { x }, training: false, body: (model, { x }) => ({ y: model.forward(x) }) })
  for (const { origin } of graph.nodes) t.regex(origin.source!, /^(?!\/).*test\/runtime\/graph\/trace\.test\.js:\d+$/)
  const gpt2 = trace(new GPT2(small), {
    inputs: { ids },
    training: false,
    body: (model, { ids }) => ({ y: model.forward(ids) }),
  })
  for (const { origin } of gpt2.nodes) t.regex(origin.source!, /^(?!\/).*runtime\/nn\/models\/gpt2\.js:\d+$/)
})

test('origins name module and outermost block; tied heads are the embedding`s parameter', (t) => {
  const graph = trace(new GPT2(small), {
    inputs: { ids },
    training: false,
    body: (model, { ids }) => ({ y: model.forward(ids) }),
  })
  const where = graph.nodes.map(({ op, origin }) => `${op} ${origin.module} ${origin.block}`)
  t.true(where.includes('attention transformer.h.1.attn transformer.h.1'))
  t.true(where.includes('linear transformer.h.0.mlp.c_fc transformer.h.0'))
  t.true(where.includes('layer_norm transformer.ln_f undefined'))
  const head = graph.nodes.at(-1)!
  t.is(`${head.op} ${head.origin.module}`, 'linear lm_head')
  t.is(head.inputs[1], graph.inputs.find(({ name }) => name === 'transformer.wte.weight')!.value)
})

test('dropout exists only while training, with stable numbers', (t) => {
  const numbers = (training: boolean): [string, unknown][] =>
    trace(new GPT2(small), { inputs: { ids }, training, body: (model, { ids }) => ({ y: model.forward(ids) }) })
      .nodes.filter(({ attributes }) => attributes.op_id !== undefined)
      .map(({ op, attributes }) => [op, attributes.op_id])
  t.deepEqual(numbers(true), [
    ['dropout', 1],
    ['attention', 2],
    ['dropout', 3],
    ['dropout', 4],
    ['attention', 5],
    ['dropout', 6],
    ['dropout', 7],
  ])
  t.deepEqual(numbers(false), [
    ['attention', 0],
    ['attention', 0],
  ])
})

test('a trace is repeatable, leaves no mark on the model and can be taken in float64', (t) => {
  const model = new Tiny()
  const body = (m: Tiny, { x }: { x: Tensor }) => ({ y: m.forward(x) })
  const take = (): string => printGraph(trace(model, { inputs: { x }, training: true, body }))
  t.is(take(), take())
  t.false(Object.hasOwn(model, 'forward') || Object.hasOwn(model.fc, 'forward'))
  const wide = trace(model, { inputs: { x }, training: true, dtype: 'f64', body })
  t.true(wide.inputs.every(({ value }) => value.type.dtype === 'f64'))
  t.is(wide.outputs[0]!.value.type.dtype, 'f64')
})

test('ops outside of a trace, tensors of another trace and traces within traces are refused', (t) => {
  const model = new Tiny()
  let stray: Tensor | undefined
  trace(model, {
    inputs: { x },
    training: false,
    body: (m, { x }) => {
      stray = x
      return { y: m.forward(x) }
    },
  })
  t.throws(() => stray!.scale(2), { instanceOf: GraphError, message: /^scale: call, expected inside of trace\(\)/ })
  t.throws(() => trace(model, { inputs: { x }, training: false, body: (_m, { x }) => ({ y: x.add(stray!) }) }), {
    instanceOf: GraphError,
    message: /^add: operand, expected a tensor of this trace, got one of another/,
  })
  t.throws(() => trace(model, { inputs: { x }, training: false, body: () => ({ y: stray! }) }), {
    message: /^output y: operand, expected a tensor of this trace/,
  })
  t.throws(() => trace(model, { inputs: { x }, training: false, body: () => ({}) }), {
    message: /^trace: outputs, expected/,
  })
  const inner = (): never => {
    trace(model, { inputs: { x }, training: false, body: (m, { x }) => ({ y: m.forward(x) }) })
    throw new Error('not reached')
  }
  t.throws(() => trace(model, { inputs: { x }, training: false, body: inner }), {
    message: /expected none inside another/,
  })
  t.false(Object.hasOwn(model, 'forward'))
})

test('an operand that does not fit names op, module and line', (t) => {
  const wrong = { shape: [4, 5], dtype: 'f32' } as const
  t.throws(
    () => trace(new Tiny(), { inputs: { x: wrong }, training: false, body: (m, { x }) => ({ y: m.forward(x) }) }),
    {
      instanceOf: GraphError,
      message:
        /^linear: last dim of x, expected 2 for weight f32\[3, 2\], got f32\[4, 5\] \(fc, \S*trace\.test\.js:\d+\)$/,
    },
  )
})

test('a parameter that no property reaches is refused', (t) => {
  class Hidden extends Module {
    readonly #gain = new Parameter([2], { kind: 'constant', value: 1 })
    override forward(x: Tensor): Tensor {
      return x.mul(this.#gain)
    }
  }
  t.throws(() => trace(new Hidden(), { inputs: { x }, training: false, body: (m, { x }) => ({ y: m.forward(x) }) }), {
    instanceOf: GraphError,
    message: /^trace: parameter \[2\], expected one that is a property of the model's modules/,
  })
})
