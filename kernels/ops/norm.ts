// Layer normalisation over the last dim (arXiv 1607.06450), mean and reciprocal standard deviation saved per row.
import { expectFloat, expectShape, lastDim, type OpDefinition, required, rowsOf, streamCost } from './definition.js'

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
      if (type) expectShape('layer_norm', name, type, [lastDim(x.shape)])
    }
    const row: 'f32' | 'f64' = x.dtype === 'f64' ? 'f64' : 'f32'
    const stats = { shape: x.shape.slice(0, -1), dtype: row }
    return [x, stats, stats]
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
 * Parameter gradients are summed over fixed chunks of 64 rows, the chunks in order.
 */
export const layerNormBackward: OpDefinition = {
  name: 'layer_norm_backward',
  opcode: 31,
  inputs: ['dy', 'x', 'weight?', 'mean', 'rstd', 'residual?'],
  outputs: ['dx', 'dweight', 'dbias'],
  attributes: {},
  scalars: [],
  infer: (inputs) => {
    const op = 'layer_norm_backward'
    const dy = required(op, inputs, 0, 'dy')
    expectShape(op, 'x', required(op, inputs, 1, 'x'), dy.shape)
    expectShape(op, 'mean', required(op, inputs, 3, 'mean'), dy.shape.slice(0, -1))
    expectShape(op, 'rstd', required(op, inputs, 4, 'rstd'), dy.shape.slice(0, -1))
    if (inputs[5]) expectShape(op, 'residual', inputs[5], dy.shape)
    const parameter = { shape: [lastDim(dy.shape)], dtype: dy.dtype }
    return [dy, parameter, parameter]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 14),
  inPlace: [
    [0, 0],
    [5, 0],
  ],
  workspace: (inputs) => {
    const shape = inputs[0]!.shape
    return Math.ceil(rowsOf(shape) / 64) * lastDim(shape) * 2 * 4
  },
}

export const norms = [layerNorm, layerNormBackward]
