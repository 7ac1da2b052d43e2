// What must hold for every row of the op table, whichever op it is.
import test from 'ava'
import { cpuBackend } from '../../../kernels/cpu/backend.js'
import { OpError, type TensorType } from '../../../kernels/ops/definition.js'
import { opNamed, opOfCode, ops } from '../../../kernels/ops/index.js'
import { opCases } from '../../support/op-cases.js'
import { RandomTensors } from '../../support/tensors.js'

const bare = (name: string): string => name.replace('?', '')

test('names and opcodes are unique and found', (t) => {
  t.is(new Set(ops.map((op) => op.name)).size, ops.length)
  t.is(new Set(ops.map((op) => op.opcode)).size, ops.length)
  for (const op of ops) {
    t.is(opNamed(op.name), op)
    t.is(opOfCode(op.opcode), op)
    t.true(op.opcode > 0 && op.opcode < 512, `${op.name}: opcode ${op.opcode} fits the kernel table`)
  }
  t.is(opOfCode(511), undefined)
  t.throws(() => opNamed('no_such_op'), { message: /no_such_op/ })
})

test('at most one list attribute, declared last', (t) => {
  for (const op of ops) {
    const kinds = Object.values(op.attributes)
    t.true(
      kinds.slice(0, -1).every((kind) => kind !== 'ints'),
      op.name,
    )
  }
})

test('aliases and in-place pairs name operands that exist; an alias renames its operand', (t) => {
  for (const op of ops) {
    for (const [input, output] of [...(op.inPlace ?? []), ...(op.aliases ?? [])]) {
      t.true(input < op.inputs.length && output < op.outputs.length, op.name)
    }
    for (const [input, output] of op.aliases ?? []) t.is(bare(op.inputs[input]!), op.outputs[output]!, op.name)
  }
})

test('inference, cost and workspace accept every case, and an absent required input is an OpError', (t) => {
  for (const c of opCases.filter((c) => !c.compareOnly)) {
    const op = opNamed(c.op)
    const inputs = c.inputs(new RandomTensors('f32')) as (TensorType | null)[]
    const outputs = op.infer(inputs, c.attributes)
    const { flops, bytes } = op.cost(inputs, outputs, c.attributes)
    t.true(Number.isFinite(flops) && flops >= 0 && Number.isFinite(bytes) && bytes >= 0, c.title)
    const [one, two] = [1, 2].map((threads) => cpuBackend(threads!).workspace(op, inputs, outputs, c.attributes))
    t.true(Number.isSafeInteger(one) && two! >= one!, `${c.title}: workspace ${one}, ${two}`)
    for (const [i, name] of op.inputs.entries()) {
      if (name.endsWith('?') || op.effect) continue
      if (i === 0) t.throws(() => op.infer(inputs.with(0, null), c.attributes), { instanceOf: OpError }, c.title)
    }
  }
})

test('operands that do not fit are OpErrors that say what was expected', (t) => {
  const f32 = (...shape: number[]): TensorType => ({ shape, dtype: 'f32' })
  const i32 = (...shape: number[]): TensorType => ({ shape, dtype: 'i32' })
  const fails = (op: string, inputs: (TensorType | null)[], attributes: object, message: RegExp): void => {
    t.throws(() => opNamed(op).infer(inputs, attributes as never), { instanceOf: OpError, message })
  }
  fails('add', [f32(3, 4), f32(3)], {}, /add: shape of b, expected \[3, 4\] or its trailing dims, got f32\[3\]/)
  fails('add', [f32(3, 4), f32()], {}, /shape of b/)
  fails('add', [i32(3), i32(3)], {}, /dtype of a, expected a float, got i32/)
  fails('cast', [f32(3)], { dtype: 4 }, /dtype, expected the number of a float dtype, got i32/)
  fails('cast', [f32(3)], { dtype: 17 }, /got 17/)
  fails('reshape', [f32(3, 4)], { shape: [5] }, /elements, expected 5 for \[5\], got f32\[3, 4\]/)
  fails('slice', [f32(4)], { start: 2, shape: [3] }, /range, expected within f32\[4\], got 2 to 5/)
  fails('sum_leading', [f32(3, 4)], { rank: 3 }, /rank, expected 1 to 2, got 3/)
  fails('activation', [f32(3)], { kind: 9 }, /kind, expected 0 to 4, got 9/)
  fails('linear', [f32(2, 3), f32(5, 4), null, null], { transposed: 0 }, /last dim of x, expected 4/)
  fails('linear', [f32(2, 3), f32(5, 3), f32(4), null], { transposed: 0 }, /shape of bias, expected \[5\]/)
  fails('linear', [f32(2, 3), f32(5, 3), null, f32(2, 4)], { transposed: 0 }, /shape of residual/)
  fails('layer_norm', [f32(2, 3), f32(2), null], { epsilon: 0 }, /shape of weight, expected \[3\]/)
  fails('attention', [f32(1, 4, 10)], { heads: 2 }, /shape of qkv/)
  fails('cross_entropy', [f32(2, 3), i32(3)], { scale: 1 }, /shape of targets, expected \[2\]/)
  fails('cross_entropy', [f32(2, 3), f32(2)], { scale: 1 }, /dtype of targets, expected i32, got f32/)
  fails('embedding', [f32(5), i32(3)], {}, /shape of weight, expected two dims/)
  fails('embedding_backward', [i32(3), f32(3, 2), f32(4, 2)], { rows: 5 }, /shape of base, expected \[5, 2\]/)
  fails('norm_chunks', [f32(1000)], { length: 1000, shards: 1 }, /slice, expected a multiple of 1024, got 1000/)
})

test('ops that address parts of a unit refuse ranges outside it', (t) => {
  const unit = { shape: [1024], dtype: 'f32' as const }
  const control = { shape: [4], dtype: 'f64' as const }
  const adam = { decoupled: 1, epsilon: 1e-8, weight_decay: 0, length: 1024, shards: 1 }
  for (const ranges of [[1000, 25], [-1, 2], [0]]) {
    t.throws(() => opNamed('adam').infer([unit, unit, unit, unit, control], { ...adam, ranges }), {
      message: /adam: ranges/,
    })
    t.throws(() => opNamed('bucket').infer([], { length: 1024, gaps: ranges }), { message: /bucket: gaps/ })
    t.throws(() => opNamed('clip_control').infer([{ shape: [10], dtype: 'f64' }], { max_norm: 1, ranges }), {
      message: /clip_control: ranges/,
    })
  }
  t.throws(() => opNamed('initialize_constant').infer([unit], { start: 1000, count: 25, shards: 1, value: 0 }), {
    message: /initialize_constant: elements/,
  })
  t.notThrows(() => opNamed('initialize_constant').infer([unit], { start: 1000, count: 25, shards: 2, value: 0 }))
})
