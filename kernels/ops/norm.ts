// Layer normalisation over the last dim (arXiv 1607.06450), mean and reciprocal standard deviation saved per row.
import {
  expectFloat,
  expectType,
  lastDim,
  type OpDefinition,
  option,
  required,
  statistic,
  streamCost,
  type TensorType,
  widened,
} from './definition.js'

const rowStatistics = (x: TensorType): TensorType => ({ shape: x.shape.slice(0, -1), dtype: statistic(x.dtype) })
const parameterOf = (x: TensorType): TensorType => ({ shape: [lastDim(x.shape)], dtype: x.dtype })

/** y = (x - mean) * rstd * weight + bias with rstd = 1 / sqrt(var + epsilon), the biased variance. */
export const layerNorm: OpDefinition = {
  name: 'layer_norm',
  opcode: 30,
  inputs: ['x', 'weight?', 'bias?'],
  outputs: ['y', 'mean', 'rstd'],
  attributes: { epsilon: 'float' },
  scalars: [],
  infer: (inputs) => {
    const x = required('layer_norm', inputs, 0, 'x')
    expectFloat('layer_norm', 'x', x)
    for (const [i, name] of [
      [1, 'weight'],
      [2, 'bias'],
    ] as const) {
      const type = inputs[i]
      if (type) expectType('layer_norm', name, type, parameterOf(x))
    }
    return [x, rowStatistics(x), rowStatistics(x)]
  },
  gradient: (builder, call, [dy]) => {
    if (!dy) return [null, null, null]
    const [x, weight, bias] = call.inputs
    const [dx, dweight, dbias] = builder.emit(
      'layer_norm_backward',
      [dy, x!, weight ?? null, call.outputs[1]!, call.outputs[2]!, null],
      {},
    )
    return [dx!, weight ? dweight! : null, bias ? dbias! : null]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 8),
}

/**
 * dx (+ residual), dweight, dbias. With `residual`, the gradient that flows past the norm is added to dx in the same pass.
 * With `sum` 1 also the sum over all rows of dx as stored: the bias gradient of the layer before. Parameter gradients and the sum are
 * added up over fixed chunks of 64 rows, the chunks in order; with `wide` 1 they are f32 whatever x is.
 */
export const layerNormBackward: OpDefinition = {
  name: 'layer_norm_backward',
  opcode: 31,
  inputs: ['dy', 'x', 'weight?', 'mean', 'rstd', 'residual?'],
  outputs: ['dx', 'dweight', 'dbias', 'sum'],
  attributes: { wide: 'option', sum: 'option' },
  scalars: [],
  infer: (inputs, attributes) => {
    const op = 'layer_norm_backward'
    const dy = required(op, inputs, 0, 'dy')
    expectFloat(op, 'dy', dy)
    expectType(op, 'x', required(op, inputs, 1, 'x'), dy)
    if (inputs[2]) expectType(op, 'weight', inputs[2], parameterOf(dy))
    expectType(op, 'mean', required(op, inputs, 3, 'mean'), rowStatistics(dy))
    expectType(op, 'rstd', required(op, inputs, 4, 'rstd'), rowStatistics(dy))
    if (inputs[5]) expectType(op, 'residual', inputs[5], dy)
    const gradient = { shape: [lastDim(dy.shape)], dtype: widened(dy.dtype, attributes) }
    return option(attributes, 'sum') ? [dy, gradient, gradient, gradient] : [dy, gradient, gradient]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 14),
  inPlace: [
    [0, 0],
    [5, 0],
  ],
}

export const norms = [layerNorm, layerNormBackward]
