// Linear layers. Legend: M rows of x (all leading dims), K input features, N output features.
// `transposed` 0: weight_NK (torch.nn.Linear); 1: weight_KN (the Conv1D layout of GPT-2's files).
// The backward is three ops (input, weight, bias) so that each can be placed, fused or dropped by itself.
import { expectKind } from './activation.js'
import {
  type Attributes,
  byteLength,
  elements,
  expectDtype,
  expectFloat,
  expectType,
  int,
  lastDim,
  type OpCost,
  type OpDefinition,
  OpError,
  option,
  required,
  rowsOf,
  showType,
  type TensorType,
  widened,
} from './definition.js'

function product(op: string, inputs: readonly (TensorType | null)[], attributes: Attributes): TensorType {
  const x = required(op, inputs, 0, 'x')
  const weight = required(op, inputs, 1, 'weight')
  expectFloat(op, 'x', x)
  if (weight.shape.length !== 2) throw new OpError(op, 'shape of weight', 'two dims', showType(weight))
  expectDtype(op, 'weight', weight, x.dtype)
  const [rows, columns] = weight.shape as [number, number]
  const [inFeatures, outFeatures] = int(attributes, 'transposed') ? [rows, columns] : [columns, rows]
  if (lastDim(x.shape) !== inFeatures) {
    throw new OpError(op, 'last dim of x', `${inFeatures} for weight ${showType(weight)}`, showType(x))
  }
  return { shape: [...x.shape.slice(0, -1), outFeatures], dtype: x.dtype }
}

function productCost(inputs: readonly (TensorType | null)[], outputs: readonly TensorType[], mnk: number): OpCost {
  const bytes = [...inputs, ...outputs].reduce((sum, type) => sum + (type ? byteLength(type) : 0), 0)
  return { flops: 2 * mnk, bytes }
}

/** A vector over the output features. */
const biasOf = (y: TensorType): TensorType => ({ shape: [lastDim(y.shape)], dtype: y.dtype })

/** y = x W (+ bias) (+ residual), summed in f32 and rounded once. */
export const linear: OpDefinition = {
  name: 'linear',
  opcode: 20,
  inputs: ['x', 'weight', 'bias?', 'residual?'],
  outputs: ['y'],
  attributes: { transposed: 'int' },
  scalars: [],
  infer: (inputs, attributes) => {
    const y = product('linear', inputs, attributes)
    if (inputs[2]) expectType('linear', 'bias', inputs[2], biasOf(y))
    if (inputs[3]) expectType('linear', 'residual', inputs[3], y)
    return [y]
  },
  gradient: (builder, call, [dy]) => {
    if (!dy) return [null, null, null, null]
    const [x, weight, bias, residual] = call.inputs
    return [
      builder.emit('linear_input_gradient', [dy, weight!], call.attributes)[0]!,
      builder.emit('linear_weight_gradient', [x!, dy], call.attributes)[0]!,
      bias ? builder.emit('sum_leading', [dy], { rank: 1 })[0]! : null,
      residual ? dy : null,
    ]
  },
  cost: (inputs, outputs) => productCost(inputs, outputs, elements(inputs[0]!.shape) * lastDim(outputs[0]!.shape)),
  inPlace: [[3, 0]],
}

/** dx = dy W^T. */
export const linearInputGradient: OpDefinition = {
  name: 'linear_input_gradient',
  opcode: 21,
  inputs: ['dy', 'weight'],
  outputs: ['dx'],
  attributes: { transposed: 'int' },
  scalars: [],
  infer: (inputs, attributes) => [
    product('linear_input_gradient', inputs, { transposed: int(attributes, 'transposed') ? 0 : 1 }),
  ],
  cost: (inputs, outputs) => productCost(inputs, outputs, elements(inputs[0]!.shape) * lastDim(outputs[0]!.shape)),
}

/** dW = dy^T x (in the layout of `transposed`), over all rows, in fixed blocks of rows; with `wide` 1 it is f32 whatever x is. */
export const linearWeightGradient: OpDefinition = {
  name: 'linear_weight_gradient',
  opcode: 22,
  inputs: ['x', 'dy'],
  outputs: ['dw'],
  attributes: { transposed: 'int', wide: 'option' },
  scalars: [],
  infer: (inputs, attributes) => {
    const x = required('linear_weight_gradient', inputs, 0, 'x')
    const dy = required('linear_weight_gradient', inputs, 1, 'dy')
    expectFloat('linear_weight_gradient', 'x', x)
    expectDtype('linear_weight_gradient', 'dy', dy, x.dtype)
    if (rowsOf(x.shape) !== rowsOf(dy.shape)) {
      throw new OpError('linear_weight_gradient', 'rows of dy', String(rowsOf(x.shape)), showType(dy))
    }
    const [k, n] = [lastDim(x.shape), lastDim(dy.shape)]
    return [{ shape: int(attributes, 'transposed') ? [k, n] : [n, k], dtype: widened(x.dtype, attributes) }]
  },
  cost: (inputs, outputs) => productCost(inputs, outputs, elements(inputs[0]!.shape) * lastDim(inputs[1]!.shape)),
}

/** pre = x W (+ bias); y = f(pre as stored), in one pass over the product: what `linear` and `activation` give. */
export const linearActivation: OpDefinition = {
  name: 'linear_activation',
  opcode: 23,
  inputs: ['x', 'weight', 'bias?'],
  outputs: ['pre', 'y'],
  attributes: { transposed: 'int', kind: 'int' },
  scalars: [],
  infer: (inputs, attributes) => {
    const y = product('linear_activation', inputs, attributes)
    if (inputs[2]) expectType('linear_activation', 'bias', inputs[2], biasOf(y))
    expectKind('linear_activation', int(attributes, 'kind'))
    return [y, y]
  },
  cost: (inputs, outputs) => productCost(inputs, outputs, elements(inputs[0]!.shape) * lastDim(outputs[0]!.shape)),
}

/**
 * dpre = (dy W^T) * f'(pre), rounded once: the input gradient of a linear layer and the derivative of the activation before it. With
 * `sum` 1 also the sum over all rows of dpre as stored, in fixed chunks of rows: the bias gradient of the layer before, with `wide` 1 in
 * f32 whatever dy is.
 */
export const linearInputGradientActivation: OpDefinition = {
  name: 'linear_input_gradient_activation',
  opcode: 24,
  inputs: ['dy', 'weight', 'pre'],
  outputs: ['dpre', 'sum'],
  attributes: { transposed: 'int', kind: 'int', sum: 'option', wide: 'option' },
  scalars: [],
  infer: (inputs, attributes) => {
    const op = 'linear_input_gradient_activation'
    const dpre = product(op, inputs, { transposed: int(attributes, 'transposed') ? 0 : 1 })
    expectType(op, 'pre', required(op, inputs, 2, 'pre'), dpre)
    expectKind(op, int(attributes, 'kind'))
    const sum = { shape: [lastDim(dpre.shape)], dtype: widened(dpre.dtype, attributes) }
    return option(attributes, 'sum') ? [dpre, sum] : [dpre]
  },
  cost: (inputs, outputs) => productCost(inputs, outputs, elements(inputs[0]!.shape) * lastDim(outputs[0]!.shape)),
}

export const linears = [
  linear,
  linearInputGradient,
  linearWeightGradient,
  linearActivation,
  linearInputGradientActivation,
]
