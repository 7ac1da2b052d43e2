// Parameter updates over flat units, in place, and the global norm that guards them.
// `ranges` lists (start, count) pairs of elements in the coordinates of the whole unit. Where `shards` > 1 the operands are
// this rank's slice of the unit (elements rank * length to (rank + 1) * length); the kernel works on the intersection.
// `control` is f64[4]: global norm, clip factor, 1 if the norm is finite else 0, spare. With control[2] = 0 nothing is written.
import { elements, expectDtype, expectShape, type OpDefinition, required, streamCost, type TensorType } from './definition.js'

function updated(op: string, inputs: readonly (TensorType | null)[], states: number): TensorType[] {
  const parameter = required(op, inputs, 0, 'parameter')
  expectShape(op, 'gradient', required(op, inputs, 1, 'gradient'), parameter.shape)
  for (let i = 2; i < 2 + states; i++) expectShape(op, 'state', required(op, inputs, i, 'state'), parameter.shape)
  const control = required(op, inputs, 2 + states, 'control')
  expectDtype(op, 'control', control, 'f64')
  return [parameter, ...Array.from({ length: states }, (_, i) => inputs[2 + i]!)]
}

/**
 * Adam (arXiv 1412.6980) and AdamW (arXiv 1711.05101, `decoupled` 1), every step one IEEE operation in f32, constants rounded
 * from float64: g = gradient * factor; L2: g = fma(wd, p, g); m = fma(b1, m, (1 - b1) * g); v = fma(b2, v, ((1 - b2) * g) * g);
 * denominator = sqrt(v) / sqrt(correction2) + epsilon; decoupled: p = p * (1 - lr * wd);
 * p = fma(-(lr / correction1), m / denominator, p).
 */
export const adam: OpDefinition = {
  name: 'adam',
  opcode: 100,
  inputs: ['parameter', 'gradient', 'm', 'v', 'control'],
  outputs: ['parameter', 'm', 'v'],
  attributes: { decoupled: 'int', epsilon: 'float', weight_decay: 'float', shards: 'int', ranges: 'ints' },
  scalars: ['learning_rate', 'beta1', 'beta2', 'correction1', 'correction2'],
  effect: true,
  aliases: [
    [0, 0],
    [2, 1],
    [3, 2],
  ],
  infer: (inputs) => updated('adam', inputs, 2),
  cost: (inputs, outputs) => streamCost(inputs, outputs, 14),
}

/**
 * SGD as PyTorch defines it: g = gradient * factor + wd * p; with momentum: buffer = g on the first step (`first` is 1), else
 * momentum * buffer + (1 - dampening) * g; g = g + momentum * buffer with nesterov, else buffer; p -= lr * g.
 */
export const sgd: OpDefinition = {
  name: 'sgd',
  opcode: 101,
  inputs: ['parameter', 'gradient', 'momentum?', 'control'],
  outputs: ['parameter', 'momentum'],
  attributes: {
    momentum: 'float',
    dampening: 'float',
    nesterov: 'int',
    weight_decay: 'float',
    shards: 'int',
    ranges: 'ints',
  },
  scalars: ['learning_rate', 'first'],
  effect: true,
  aliases: [
    [0, 0],
    [2, 1],
  ],
  infer: (inputs) => {
    const parameter = required('sgd', inputs, 0, 'parameter')
    expectShape('sgd', 'gradient', required('sgd', inputs, 1, 'gradient'), parameter.shape)
    return inputs[2] ? [parameter, inputs[2]] : [parameter]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 6),
}

/** Elements of one chunk of the global norm. Tensors and shard borders lie on chunk borders. */
export const normChunk = 1024

/**
 * sums[i] = float64 sum of squares of elements i * 1024 to (i + 1) * 1024: eight running sums s[j] over elements j, j + 8, j + 16 ...
 * (each square rounded, then added), then ((s0+s1)+(s2+s3)) + ((s4+s5)+(s6+s7)).
 */
export const normChunks: OpDefinition = {
  name: 'norm_chunks',
  opcode: 102,
  inputs: ['gradient'],
  outputs: ['sums'],
  attributes: {},
  scalars: [],
  infer: (inputs) => {
    const gradient = required('norm_chunks', inputs, 0, 'gradient')
    return [{ shape: [Math.ceil(elements(gradient.shape) / normChunk)], dtype: 'f64' }]
  },
  cost: (inputs, outputs) => ({ ...streamCost(inputs, outputs), flops: 2 * elements(inputs[0]!.shape) }),
}

/**
 * control from chunk sums: norm = sqrt(sum), the chunks of `ranges` ((first chunk, count) pairs) added one by one in that order;
 * factor = max_norm / (norm + 1e-6) where that is below 1 and max_norm > 0, else 1.
 */
export const clipControl: OpDefinition = {
  name: 'clip_control',
  opcode: 103,
  inputs: ['sums'],
  outputs: ['control'],
  attributes: { max_norm: 'float', ranges: 'ints' },
  scalars: [],
  infer: (inputs) => {
    expectDtype('clip_control', 'sums', required('clip_control', inputs, 0, 'sums'), 'f64')
    return [{ shape: [4], dtype: 'f64' }]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 0),
}

export const optimizers = [adam, sgd, normChunks, clipControl]
