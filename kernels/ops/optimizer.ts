// Parameter updates over flat units, in place, and the global norm that guards them.
// A unit has `length` elements. With `shards` > 1 a rank works on its slice only: elements rank * length / shards up to the next rank's.
// An operand of `length` elements is whole and its slice is taken; one of `length / shards` elements is the slice itself.
// `ranges` lists (start, count) pairs of elements in the coordinates of the whole unit; what lies outside them is left alone.
// Parameters and states are f32 (parameters of `adam` bf16, too); a gradient is f32 or of 16 bits, widened exactly.
// `control` is f64[4]: global norm, factor of gradients, 1 if the norm is finite else 0, candidate. With control[2] = 0 nothing is written.
// An update has two candidates for each run-time scalar, the second named `..._next`: the candidate, 0 or 1, says which counts (see step.ts).
import {
  type Attributes,
  type DType,
  dtypeBytes,
  elements,
  expectDtype,
  expectFloat,
  expectRanges,
  expectType,
  int,
  ints,
  type OpDefinition,
  OpError,
  required,
  showType,
  statistic,
  streamCost,
  type TensorType,
} from './definition.js'

/** The whole unit or this rank's slice of it. */
function expectPart(op: string, name: string, type: TensorType, attributes: Attributes): void {
  const [length, shards] = [int(attributes, 'length'), int(attributes, 'shards')]
  const got = elements(type.shape)
  if (got !== length && got * shards !== length) {
    throw new OpError(op, `elements of ${name}`, `${length} or ${length / shards}`, showType(type))
  }
}

const candidates = (...roles: string[]): string[] => [...roles, ...roles.map((role) => `${role}_next`)]

/** The dtype that updates are computed in, or one that `rounded` allows beside it. Returns the former. */
function expectMaster(op: string, parameter: TensorType, rounded: readonly DType[] = []): DType {
  const wide = statistic(parameter.dtype)
  if (parameter.dtype !== wide && !rounded.includes(parameter.dtype))
    throw new OpError(op, 'dtype of parameter', ['f32', ...rounded].join(' or '), parameter.dtype)
  return wide
}

function updated(
  op: string,
  inputs: readonly (TensorType | null)[],
  attributes: Attributes,
  states: number,
  rounded: readonly DType[] = [],
): TensorType[] {
  const parameter = required(op, inputs, 0, 'parameter')
  expectPart(op, 'parameter', parameter, attributes)
  expectPart(op, 'gradient', required(op, inputs, 1, 'gradient'), attributes)
  for (let i = 2; i < 2 + states; i++) expectPart(op, 'state', required(op, inputs, i, 'state'), attributes)
  expectRanges(op, 'ranges', ints(attributes, 'ranges'), int(attributes, 'length'))
  const wide = expectMaster(op, parameter, rounded)
  for (const state of inputs.slice(2, 2 + states)) expectDtype(op, 'state', state!, wide)
  expectFloat(op, 'gradient', inputs[1]!)
  const control = required(op, inputs, 2 + states, 'control')
  expectDtype(op, 'control', control, 'f64')
  return [parameter, ...Array.from({ length: states }, (_, i) => inputs[2 + i]!)]
}

/**
 * Adam (arXiv 1412.6980) and AdamW (arXiv 1711.05101, `decoupled` 1), every step one IEEE operation in f32, constants (1 - b1,
 * sqrt(correction2), 1 - lr * wd, lr / correction1 ...) computed in float64 and rounded once: g = gradient * factor; L2: g = fma(wd, p, g); m = fma(b1, m, (1 - b1) * g); v = fma(b2, v, ((1 - b2) * g) * g);
 * denominator = sqrt(v) / sqrt(correction2) + epsilon; decoupled: p = p * (1 - lr * wd);
 * p = fma(-(lr / correction1), m / denominator, p). `copy`, of 16 bits, takes the new parameter, rounded to its dtype.
 *
 * A parameter in bf16 is widened exactly and rounded stochastically (arXiv 2010.06192): to one of its two neighbours, so that its expectation is
 * p. r, 16 random bits, is added to the f32 bits of p, and of the sum the low 16 are cut off; what is not finite is rounded as ever. Element i
 * of the unit has the global number n = origin + i: r is half n % 2 (0: the low one) of word (n % 8) / 2 of Philox4x32-10 with key = (seed
 * low, seed high) and counter = (0x726f756e, n / 2^35, step, n / 8).
 */
export const adam: OpDefinition = {
  name: 'adam',
  opcode: 100,
  inputs: ['parameter', 'gradient', 'm', 'v', 'control', 'copy?'],
  outputs: ['parameter', 'm', 'v', 'copy'],
  attributes: {
    decoupled: 'int',
    epsilon: 'float',
    weight_decay: 'float',
    length: 'int',
    shards: 'int',
    origin: 'option',
    ranges: 'ints',
  },
  scalars: [...candidates('learning_rate', 'beta1', 'beta2', 'correction1', 'correction2'), 'seed', 'step'],
  effect: true,
  aliases: [
    [0, 0],
    [2, 1],
    [3, 2],
    [5, 3],
  ],
  infer: (inputs, attributes) => {
    const results = updated('adam', inputs, attributes, 2, ['bf16'])
    if (!inputs[5]) return results
    if (inputs[0]!.dtype === 'bf16') throw new OpError('adam', 'copy', 'none of a bf16 parameter', showType(inputs[5]))
    expectPart('adam', 'copy', inputs[5], attributes)
    if (dtypeBytes[inputs[5].dtype] !== 2) throw new OpError('adam', 'dtype of copy', 'bf16 or f16', inputs[5].dtype)
    return [...results, inputs[5]]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 14),
}

/**
 * SGD as PyTorch defines it, in the same arithmetic: g = fma(wd, p, gradient * factor); with momentum: buffer = g on the first step
 * (`first` is 1), else fma(momentum, buffer, (1 - dampening) * g); g = fma(momentum, buffer, g) with nesterov, else buffer;
 * p = fma(-lr, g, p).
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
    length: 'int',
    shards: 'int',
    ranges: 'ints',
  },
  scalars: candidates('learning_rate', 'first'),
  effect: true,
  aliases: [
    [0, 0],
    [2, 1],
  ],
  infer: (inputs, attributes) => {
    const parameter = required('sgd', inputs, 0, 'parameter')
    expectPart('sgd', 'parameter', parameter, attributes)
    expectPart('sgd', 'gradient', required('sgd', inputs, 1, 'gradient'), attributes)
    expectMaster('sgd', parameter)
    expectFloat('sgd', 'gradient', inputs[1]!)
    if (inputs[2]) {
      expectPart('sgd', 'momentum', inputs[2], attributes)
      expectDtype('sgd', 'momentum', inputs[2], parameter.dtype)
    }
    expectRanges('sgd', 'ranges', ints(attributes, 'ranges'), int(attributes, 'length'))
    expectDtype('sgd', 'control', required('sgd', inputs, 3, 'control'), 'f64')
    return inputs[2] ? [parameter, inputs[2]] : [parameter]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 6),
}

/** Elements of one chunk of the global norm. Tensors and shard borders lie on chunk borders. */
export const normChunk = 1024

/**
 * Of this rank's slice: sums[i] = float64 sum of squares of elements i * 1024 to (i + 1) * 1024: eight running sums s[j] over
 * elements j, j + 8, j + 16 ... (each square rounded, then added), then ((s0+s1)+(s2+s3)) + ((s4+s5)+(s6+s7)).
 */
export const normChunks: OpDefinition = {
  name: 'norm_chunks',
  opcode: 102,
  inputs: ['gradient'],
  outputs: ['sums'],
  attributes: { length: 'int', shards: 'int' },
  scalars: [],
  infer: (inputs, attributes) => {
    const gradient = required('norm_chunks', inputs, 0, 'gradient')
    expectPart('norm_chunks', 'gradient', gradient, attributes)
    expectFloat('norm_chunks', 'gradient', gradient)
    const slice = int(attributes, 'length') / int(attributes, 'shards')
    if (slice % normChunk !== 0) throw new OpError('norm_chunks', 'slice', `a multiple of ${normChunk}`, String(slice))
    return [{ shape: [slice / normChunk], dtype: 'f64' }]
  },
  cost: (inputs, outputs) => ({ ...streamCost(inputs, outputs), flops: 2 * elements(inputs[0]!.shape) }),
}

/**
 * control from chunk sums: norm = sqrt(sum), the chunks of `ranges` ((first chunk, count) pairs) added one by one in that order (on GPUs as
 * a tree over that sequence, see kernels/README.md);
 * factor = max_norm / (norm + 1e-6) where that is below 1 and max_norm > 0, else 1. Of gradients that carry a loss scale ([1]), the norm
 * is sqrt(sum) / scale and the factor is divided by it: one multiplication unscales and clips.
 */
export const clipControl: OpDefinition = {
  name: 'clip_control',
  opcode: 103,
  inputs: ['sums', 'loss_scale?'],
  outputs: ['control'],
  attributes: { max_norm: 'float', ranges: 'ints' },
  scalars: [],
  infer: (inputs, attributes) => {
    const sums = required('clip_control', inputs, 0, 'sums')
    expectDtype('clip_control', 'sums', sums, 'f64')
    if (inputs[1]) expectType('clip_control', 'loss_scale', inputs[1], { shape: [1], dtype: 'f32' })
    expectRanges('clip_control', 'ranges', ints(attributes, 'ranges'), elements(sums.shape))
    return [{ shape: [4], dtype: 'f64' }]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 0),
}

export const optimizers = [adam, sgd, normChunks, clipControl]
