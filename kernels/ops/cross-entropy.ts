// Cross-entropy of next-token prediction, alone and fused with the head's matrix product so that logits never exist whole.
// A target of -1 masks its row: no loss, no gradient. Row losses are summed in float64 in row order.
import {
  type Attributes,
  byteLength,
  elements,
  expectDtype,
  expectFloat,
  expectShape,
  expectType,
  int,
  lastDim,
  type OpDefinition,
  OpError,
  required,
  showType,
  statistic,
  streamCost,
  type TensorType,
  widened,
} from './definition.js'

const scalarOf = (x: TensorType): TensorType => ({ shape: [1], dtype: statistic(x.dtype) })

/**
 * loss[1] = scale * sum over unmasked rows of (lse - logit of the target); lse per row, of masked rows too. The vocabulary is read in
 * chunks, online. A target that is neither -1 nor a class is an error of the run.
 */
export const crossEntropy: OpDefinition = {
  name: 'cross_entropy',
  opcode: 60,
  inputs: ['logits', 'targets'],
  outputs: ['loss', 'lse'],
  attributes: { scale: 'float' },
  scalars: [],
  infer: (inputs) => {
    const logits = required('cross_entropy', inputs, 0, 'logits')
    const targets = required('cross_entropy', inputs, 1, 'targets')
    expectFloat('cross_entropy', 'logits', logits)
    expectDtype('cross_entropy', 'targets', targets, 'i32')
    expectShape('cross_entropy', 'targets', targets, logits.shape.slice(0, -1))
    return [scalarOf(logits), { shape: targets.shape, dtype: scalarOf(logits).dtype }]
  },
  gradient: (builder, call, [dloss]) => [
    dloss
      ? builder.emit(
          'cross_entropy_backward',
          [call.inputs[0]!, call.inputs[1]!, call.outputs[1]!, dloss],
          call.attributes,
        )[0]!
      : null,
    null,
  ],
  cost: (inputs, outputs) => ({ ...streamCost(inputs, outputs), flops: 4 * elements(inputs[0]!.shape) }),
}

/** dlogits = scale * dloss * (softmax(logits) - onehot(target)), zero in masked rows. */
export const crossEntropyBackward: OpDefinition = {
  name: 'cross_entropy_backward',
  opcode: 61,
  inputs: ['logits', 'targets', 'lse', 'dloss'],
  outputs: ['dlogits'],
  attributes: { scale: 'float' },
  scalars: [],
  infer: (inputs) => {
    const logits = required('cross_entropy_backward', inputs, 0, 'logits')
    const lse = required('cross_entropy_backward', inputs, 2, 'lse')
    expectFloat('cross_entropy_backward', 'logits', logits)
    expectType('cross_entropy_backward', 'lse', lse, { ...scalarOf(logits), shape: logits.shape.slice(0, -1) })
    expectType(
      'cross_entropy_backward',
      'dloss',
      required('cross_entropy_backward', inputs, 3, 'dloss'),
      scalarOf(logits),
    )
    return [logits]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 4),
  inPlace: [[0, 0]],
}

function head(op: string, inputs: readonly (TensorType | null)[], attributes: Attributes) {
  const x = required(op, inputs, 0, 'x')
  const weight = required(op, inputs, 1, 'weight')
  const targets = required(op, inputs, 2, 'targets')
  expectFloat(op, 'x', x)
  expectDtype(op, 'weight', weight, x.dtype)
  expectDtype(op, 'targets', targets, 'i32')
  expectShape(op, 'targets', targets, x.shape.slice(0, -1))
  const features = int(attributes, 'transposed') ? weight.shape[0] : weight.shape[1]
  if (weight.shape.length !== 2 || features !== lastDim(x.shape)) {
    throw new OpError(op, 'shape of weight', `two dims with ${lastDim(x.shape)} features`, showType(weight))
  }
  const classes = int(attributes, 'transposed') ? weight.shape[1]! : weight.shape[0]!
  return { x, weight, classes }
}

const headCost =
  (products: number): OpDefinition['cost'] =>
  (inputs, outputs, attributes) => {
    const { x, classes } = head('linear_cross_entropy', inputs, attributes)
    const bytes = [...inputs, ...outputs].reduce((sum, type) => sum + (type ? byteLength(type) : 0), 0)
    return { flops: 2 * products * elements(x.shape) * classes, bytes }
  }

/** loss[1] of logits = x W without storing them: `rows` rows of logits at a time, in f32 whatever x is. */
export const linearCrossEntropy: OpDefinition = {
  name: 'linear_cross_entropy',
  opcode: 62,
  inputs: ['x', 'weight', 'targets'],
  outputs: ['loss'],
  attributes: { transposed: 'int', scale: 'float', rows: 'int' },
  scalars: [],
  infer: (inputs, attributes) => [scalarOf(head('linear_cross_entropy', inputs, attributes).x)],
  cost: headCost(1),
}

/**
 * loss[1], dx and dW of logits = x W with dloss known, in one pass over chunks of `rows` rows: each chunk's logits become their own
 * gradient in place, rounded to x's dtype. dW adds the chunks in order, in f32; with `wide` 1 it is f32 whatever x is.
 */
export const linearCrossEntropyGradients: OpDefinition = {
  name: 'linear_cross_entropy_gradients',
  opcode: 63,
  inputs: ['x', 'weight', 'targets', 'dloss'],
  outputs: ['loss', 'dx', 'dw'],
  attributes: { transposed: 'int', scale: 'float', rows: 'int', wide: 'option' },
  scalars: [],
  infer: (inputs, attributes) => {
    const { x, weight } = head('linear_cross_entropy_gradients', inputs, attributes)
    expectType(
      'linear_cross_entropy_gradients',
      'dloss',
      required('linear_cross_entropy_gradients', inputs, 3, 'dloss'),
      scalarOf(x),
    )
    return [scalarOf(x), x, { shape: weight.shape, dtype: widened(weight.dtype, attributes) }]
  },
  cost: headCost(3),
}

export const crossEntropies = [crossEntropy, crossEntropyBackward, linearCrossEntropy, linearCrossEntropyGradients]
