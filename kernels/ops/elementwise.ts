// Element by element arithmetic, copies and views. A second operand may leave out leading dims (it is repeated).
import {
  type DType,
  elements,
  expectDtype,
  expectFloat,
  int,
  ints,
  type OpDefinition,
  OpError,
  required,
  sameShape,
  showType,
  streamCost,
  type TensorType,
  widened,
} from './definition.js'

function binary(op: string, inputs: readonly (TensorType | null)[]): TensorType[] {
  const a = required(op, inputs, 0, 'a')
  const b = required(op, inputs, 1, 'b')
  expectFloat(op, 'a', a)
  const accumulates = op === 'add' && a.dtype === 'f32' && (b.dtype === 'bf16' || b.dtype === 'f16')
  if (!accumulates) expectDtype(op, 'b', b, a.dtype)
  const suffix = a.shape.slice(a.shape.length - b.shape.length)
  if (b.shape.length === 0 || b.shape.length > a.shape.length || !sameShape(suffix, b.shape)) {
    throw new OpError(op, 'shape of b', `[${a.shape.join(', ')}] or its trailing dims`, showType(b))
  }
  return [a]
}

/** a + b, rounded once. Onto a in f32, b may be of 16 bits: an accumulator and what it takes in. */
export const add: OpDefinition = {
  name: 'add',
  opcode: 1,
  inputs: ['a', 'b'],
  outputs: ['sum'],
  attributes: {},
  scalars: [],
  infer: (inputs) => binary('add', inputs),
  gradient: (builder, call, [dy]) => {
    if (!dy) return [null, null]
    const rank = builder.typeOf(call.inputs[1]!).shape.length
    const { dtype } = builder.typeOf(call.inputs[1]!)
    const broadcast = rank < builder.typeOf(dy).shape.length
    const db = broadcast ? builder.emit('sum_leading', [dy], { rank })[0]! : dy
    const same = dtype === builder.typeOf(dy).dtype
    return [dy, same ? db : builder.emit('cast', [db], { dtype: dtypeNumbers.indexOf(dtype) })[0]!]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs),
  inPlace: [
    [0, 0],
    [1, 0],
  ],
}

export const multiply: OpDefinition = {
  name: 'multiply',
  opcode: 2,
  inputs: ['a', 'b'],
  outputs: ['product'],
  attributes: {},
  scalars: [],
  infer: (inputs) => binary('multiply', inputs),
  gradient: (builder, call, [dy]) => {
    if (!dy) return [null, null]
    const [a, b] = call.inputs as [never, never]
    const rank = builder.typeOf(b).shape.length
    const db = builder.emit('multiply', [dy, a])[0]!
    const broadcast = rank < builder.typeOf(dy).shape.length
    return [builder.emit('multiply', [dy, b])[0]!, broadcast ? builder.emit('sum_leading', [db], { rank })[0]! : db]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs),
  inPlace: [[0, 0]],
}

/** y = factor * x. */
export const scale: OpDefinition = {
  name: 'scale',
  opcode: 3,
  inputs: ['x'],
  outputs: ['y'],
  attributes: { factor: 'float' },
  scalars: [],
  infer: (inputs) => {
    const x = required('scale', inputs, 0, 'x')
    expectFloat('scale', 'x', x)
    return [x]
  },
  gradient: (builder, call, [dy]) => [dy ? builder.emit('scale', [dy], call.attributes)[0]! : null],
  cost: (inputs, outputs) => streamCost(inputs, outputs),
  inPlace: [[0, 0]],
}

/** Dtypes by the number that the `dtype` attribute of `cast` and `fill` holds. */
export const dtypeNumbers: readonly DType[] = ['f32', 'f64', 'bf16', 'f16', 'i32', 'u8']

/** Converts to another float dtype, rounding once, to nearest even; NaN stays NaN. */
export const cast: OpDefinition = {
  name: 'cast',
  opcode: 4,
  inputs: ['x'],
  outputs: ['y'],
  attributes: { dtype: 'int' },
  scalars: [],
  infer: (inputs, attributes) => {
    const x = required('cast', inputs, 0, 'x')
    expectFloat('cast', 'x', x)
    const dtype = dtypeNumbers[int(attributes, 'dtype')]
    if (!dtype || dtype === 'i32' || dtype === 'u8') {
      throw new OpError('cast', 'dtype', 'the number of a float dtype', dtype ?? String(int(attributes, 'dtype')))
    }
    return [{ shape: x.shape, dtype }]
  },
  gradient: (builder, call, [dy]) => {
    if (!dy) return [null]
    const dtype = dtypeNumbers.indexOf(builder.typeOf(call.inputs[0]!).dtype)
    return [builder.emit('cast', [dy], { dtype })[0]!]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 0),
}

/** Copies bytes; what keeps a value alive beyond its memory's next use. */
export const copy: OpDefinition = {
  name: 'copy',
  opcode: 5,
  inputs: ['x'],
  outputs: ['y'],
  attributes: {},
  scalars: [],
  infer: (inputs) => [required('copy', inputs, 0, 'x')],
  gradient: (_builder, _call, [dy]) => [dy ?? null],
  cost: (inputs, outputs) => streamCost(inputs, outputs, 0),
}

/** The same memory under another shape. */
export const reshape: OpDefinition = {
  name: 'reshape',
  opcode: 6,
  inputs: ['x'],
  outputs: ['y'],
  attributes: { shape: 'ints' },
  scalars: [],
  view: true,
  infer: (inputs, attributes) => {
    const x = required('reshape', inputs, 0, 'x')
    const shape = ints(attributes, 'shape')
    if (elements(shape) !== elements(x.shape)) {
      throw new OpError('reshape', 'elements', `${elements(shape)} for [${shape.join(', ')}]`, showType(x))
    }
    return [{ shape, dtype: x.dtype }]
  },
  gradient: (builder, call, [dy]) => [
    dy ? builder.emit('reshape', [dy], { shape: builder.typeOf(call.inputs[0]!).shape })[0]! : null,
  ],
  cost: () => ({ flops: 0, bytes: 0 }),
}

/** Elements `start` and on of its input, in memory order, under a shape of its own. */
export const slice: OpDefinition = {
  name: 'slice',
  opcode: 8,
  inputs: ['x'],
  outputs: ['y'],
  attributes: { start: 'int', shape: 'ints' },
  scalars: [],
  view: true,
  infer: (inputs, attributes) => {
    const x = required('slice', inputs, 0, 'x')
    const [start, shape] = [int(attributes, 'start'), ints(attributes, 'shape')]
    if (start < 0 || start + elements(shape) > elements(x.shape)) {
      throw new OpError('slice', 'range', `within ${showType(x)}`, `${start} to ${start + elements(shape)}`)
    }
    return [{ shape, dtype: x.dtype }]
  },
  cost: () => ({ flops: 0, bytes: 0 }),
}

/**
 * Sums over all leading dims and keeps the last `rank`. Rows are added in fixed chunks of 256, chunk sums in order, in f32; with `wide` 1
 * the sum is f32 whatever x is.
 */
export const sumLeading: OpDefinition = {
  name: 'sum_leading',
  opcode: 7,
  inputs: ['x'],
  outputs: ['sum'],
  attributes: { rank: 'int', wide: 'option' },
  scalars: [],
  infer: (inputs, attributes) => {
    const x = required('sum_leading', inputs, 0, 'x')
    expectFloat('sum_leading', 'x', x)
    const rank = int(attributes, 'rank')
    if (!(rank >= 1 && rank <= x.shape.length)) {
      throw new OpError('sum_leading', 'rank', `1 to ${x.shape.length}`, String(rank))
    }
    return [{ shape: x.shape.slice(x.shape.length - rank), dtype: widened(x.dtype, attributes) }]
  },
  cost: (inputs, outputs) => ({ ...streamCost(inputs, outputs), flops: elements(inputs[0]!.shape) }),
}

export const elementwise = [add, multiply, scale, cast, copy, reshape, slice, sumLeading]
