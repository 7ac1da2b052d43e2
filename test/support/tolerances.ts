// How far a kernel that computes in float32 may lie from the float64 reference, per op and element, and which ops promise the same bits.
// The rounding of a result to its own dtype comes on top (consistency.ts); that of what is kept in 16 bits on the way is here.
// A sum of n terms in any order is off by at most about 2 sqrt(n) u times the sum of the terms' magnitudes (Higham and Mary,
// "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 2019); every other rounding adds u.
import { activationKinds } from '../../kernels/ops/activation.js'
import { elements, int, lastDim, rowsOf } from '../../kernels/ops/definition.js'
import type { ReferenceTensor } from '../../kernels/reference/index.js'
import type { OpCase } from './op-cases.js'
import { type Operand, runReference } from './tensors.js'

/** Largest error of each element of an output. */
export type Bounds = (element: number) => number

/** One call: its case, its inputs and what the reference made of them. */
interface Compared {
  readonly c: OpCase
  /** The unit roundoff of the op's floats where they have 16 bits, else 0. */
  readonly half: number
  /** The unit roundoff of what becomes an operand of a product inside an op, where it has 16 bits there, else 0. */
  readonly pairs: number
  /** The unit roundoff of results of a product that a fused op keeps in 16 bits before it goes on from them, else 0. */
  readonly stored: number
  /** In float64, as are the outputs. */
  readonly inputs: readonly Operand[]
  readonly outputs: readonly ReferenceTensor[]
}

/** `bits`: every element is the same number. Else the bounds of each output. */
export type Tolerance = 'bits' | ((compared: Compared) => readonly Bounds[])

/** The unit roundoff of float32. */
const u = 2 ** -24
/** Relative error of a sum of `terms` products against the sum of their magnitudes. */
const summed = (terms: number): number => (8 + 2 * Math.sqrt(terms)) * u

const absolute = (tensor: Operand): Operand =>
  tensor && tensor.dtype !== 'i32' ? { ...tensor, data: (tensor.data as Float32Array).map((x) => Math.abs(x)) } : tensor
const at = (tensor: Operand | undefined, i: number): number => Math.abs(tensor?.data[i] ?? 0)
const largest = (tensor: Operand | undefined): number =>
  tensor ? (tensor.data as Float32Array).reduce((max, x) => Math.max(max, Math.abs(x)), 0) : 0
const rowSum = (width: number, row: number, f: (i: number) => number): number => {
  let sum = 0
  for (let i = row * width; i < (row + 1) * width; i++) sum += f(i)
  return sum
}
const perRow = <T>(rows: number, f: (row: number) => T): T[] => Array.from({ length: rows }, (_, row) => f(row))

/** The sum of the terms' magnitudes: what the op makes of its operands without signs. */
const magnitudes = ({ c, inputs }: Compared, op = c.op, count = inputs.length): ReferenceTensor =>
  runReference(op, inputs.slice(0, count).map(absolute), c.attributes)[0]!

/** A matrix product (or sum) of `terms` terms per element. */
const product =
  (terms: (inputs: readonly Operand[], outputs: readonly ReferenceTensor[]) => number): Tolerance =>
  (compared) => {
    const size = magnitudes(compared)
    const error = summed(terms(compared.inputs, compared.outputs))
    return [(i) => error * at(size, i)]
  }

/** No activation is steeper than this. */
const steepest = 1.2

const layerNorm: Tolerance = ({ inputs: [x, weight, bias], outputs: [, mean, rstd] }) => {
  const width = lastDim(x!.shape)
  const error = summed(width)
  /** Magnitude of x - mean before it cancels, in standard deviations. */
  const spread = perRow(rowsOf(x!.shape), (r) => {
    const top = Math.max(...(x!.data as Float32Array).subarray(r * width, (r + 1) * width).map(Math.abs))
    return (top + at(mean, r)) * at(rstd, r)
  })
  return [
    (i) => error * (spread[Math.floor(i / width)]! * (weight ? at(weight, i % width) : 1) + at(bias, i % width)),
    (r) => error * (spread[r]! / at(rstd, r)),
    (r) => error * at(rstd, r) * (1 + spread[r]!),
  ]
}

/** The sum over rows of an output as it is stored, of which each element is off by `bound` and by its rounding to 16 bits. */
const sumOfRows = (output: Operand | undefined, half: number, bound: Bounds): Bounds => {
  const width = lastDim(output!.shape)
  const rows = rowsOf(output!.shape)
  return (c) => {
    let sum = 0
    for (let i = c; i < rows * width; i += width) {
      sum += bound(i) * (1 + 2 * half) + (2 * half + summed(rows)) * at(output, i) + (half && 2 ** -24)
    }
    return sum
  }
}

const layerNormBackward: Tolerance = ({ half, inputs, outputs }) => {
  const [dy, x, weight, mean, rstd, residual] = inputs
  const [rows, width] = [rowsOf(x!.shape), lastDim(x!.shape)]
  const row = (i: number) => Math.floor(i / width)
  const g = (i: number) => at(dy, i) * (weight ? at(weight, i % width) : 1)
  /** |x - mean| rstd before it cancels. */
  const h = (i: number) => (at(x, i) + at(mean, row(i))) * at(rstd, row(i))
  const meanG = perRow(rows, (r) => rowSum(width, r, g) / width)
  const meanGH = perRow(rows, (r) => rowSum(width, r, (i) => g(i) * h(i)) / width)
  const column = (f: (i: number) => number) => (c: number) =>
    perRow(rows, (r) => f(r * width + c)).reduce((a, b) => a + b, 0)
  const dx: Bounds = (i) =>
    summed(width) * (at(rstd, row(i)) * (g(i) + meanG[row(i)]! + h(i) * meanGH[row(i)]!) + at(residual, i))
  return [
    dx,
    (c) => summed(rows) * column((i) => at(dy, i) * h(i))(c),
    (c) => summed(rows) * column((i) => at(dy, i))(c),
    sumOfRows(outputs[0], half, dx),
  ]
}

/** Error of a probability's exponent: scores are sums of D products of magnitude at most |q| |k| (Cauchy and Schwarz). */
function scoreError({ attributes }: OpCase, qkv: ReferenceTensor): number {
  const hidden = lastDim(qkv.shape) / 3
  const size = hidden / int(attributes, 'heads')
  const norm = (part: number): number => {
    const squares = new Map<number, number>()
    qkv.data.forEach((x, i) => {
      const vector = Math.floor(i / size)
      if (Math.floor((i % (3 * hidden)) / hidden) === part) squares.set(vector, (squares.get(vector) ?? 0) + x * x)
    })
    return Math.sqrt(Math.max(...squares.values()))
  }
  return summed(size) * (1 + (attributes.scale as number) * norm(0) * norm(1))
}

/** Probabilities are operands of a product: of bf16, rounded. */
const attention: Tolerance = ({ c, pairs, inputs: [qkv], outputs: [o, lse] }) => {
  const sequence = qkv!.shape[1]!
  const error = scoreError(c, qkv!) + summed(sequence) + pairs
  const size = Math.max(largest(o), largest(qkv))
  return [() => error * size, (i) => error - pairs + 2 * u * at(lse, i)]
}

/** Relative to the largest gradient: terms of all sizes cancel. Probabilities and gradients of scores are operands of products. */
const attentionBackward: Tolerance = ({ c, pairs, inputs, outputs: [dqkv] }) => {
  const [dO, qkv] = inputs
  const error = scoreError(c, qkv!) + summed(qkv!.shape[1]!)
  const size = Math.max(largest(dqkv), largest(dO))
  if (pairs === 0) return [() => error * size]
  const terms = backwardTerms(c, inputs as readonly ReferenceTensor[])
  return [(i) => error * size + pairs * terms[i]!]
}

/** For each element of dqkv the sum of the magnitudes of its terms: P |dO|, |dS| |k| and |dS| |q|. */
function backwardTerms({ attributes }: OpCase, [dO, qkv, o, lse]: readonly ReferenceTensor[]): Float64Array {
  const [batch, sequence, width] = qkv!.shape as [number, number, number]
  const [heads, scale] = [int(attributes, 'heads'), attributes.scale as number]
  const [hidden, size] = [width / 3, width / 3 / heads]
  const factor = 1 / (1 - (attributes.dropout as number))
  const terms = new Float64Array(qkv!.data.length)
  const dot = (f: (d: number) => number): number => Array.from({ length: size }, (_, d) => f(d)).reduce((a, b) => a + b)
  for (let row = 0; row < batch * heads * sequence; row++) {
    const [b, h, t] = [Math.floor(row / sequence / heads), Math.floor(row / sequence) % heads, row % sequence]
    const q = (b! * sequence + t!) * width + h! * size
    const out = (b! * sequence + t!) * hidden + h! * size
    const delta = Math.abs(dot((d) => dO!.data[out + d]! * o!.data[out + d]!))
    for (let s = 0; s < (attributes.causal ? t! + 1 : sequence); s++) {
      const k = (b! * sequence + s) * width + hidden + h! * size
      const p = Math.exp(scale * dot((d) => qkv!.data[q + d]! * qkv!.data[k + d]!) - lse!.data[row]!)
      const dp = Math.abs(dot((d) => dO!.data[out + d]! * qkv!.data[k + hidden + d]!))
      const ds = scale * p * (factor * dp + delta)
      for (let d = 0; d < size; d++) {
        terms[q + d]! += ds * at(qkv, k + d)
        terms[k + d]! += ds * at(qkv, q + d)
        terms[k + hidden + d]! += factor * p * at(dO, out + d)
      }
    }
  }
  return terms
}

const softmax: Tolerance = ({ inputs: [x], outputs: [y] }) => {
  const error = summed(lastDim(x!.shape))
  return [(i) => at(y, i) * (error - (at(y, i) > 0 ? 4 * u * Math.log(at(y, i)) : 0)) + 2 ** -149]
}

const softmaxBackward: Tolerance = ({ inputs: [dy, y] }) => {
  const width = lastDim(y!.shape)
  const dots = perRow(rowsOf(y!.shape), (r) => rowSum(width, r, (i) => at(dy, i) * at(y, i)))
  return [(i) => summed(width) * at(y, i) * (at(dy, i) + dots[Math.floor(i / width)]!)]
}

const crossEntropy: Tolerance = ({ c, inputs: [logits], outputs: [loss, lse] }) => {
  const classes = lastDim(logits!.shape)
  const row = (r: number) => summed(classes) + 2 * u * at(lse, r)
  const rows = perRow(lse!.data.length, row).reduce((a, b) => a + b, 0)
  return [() => u * at(loss, 0) + (c.attributes.scale as number) * rows, row]
}

/** |factor| (p + onehot) times the error of the exponent, per logit. */
function logitGradientBounds(
  factor: number,
  logits: ReferenceTensor,
  lse: ReferenceTensor,
  targets: ReferenceTensor,
  logitError: Bounds,
): Bounds {
  const classes = lastDim(logits.shape)
  return (i) => {
    const row = Math.floor(i / classes)
    const target = targets.data[row]!
    if (target < 0) return 0
    const probability = Math.exp(logits.data[i]! - lse.data[row]!)
    const exponent = 8 * u + logitError(i) + 2 * u * (at(logits, i) + at(lse, row))
    return Math.abs(factor) * (probability + (target === i % classes ? 1 : 0)) * exponent
  }
}

const crossEntropyBackward: Tolerance = ({ c, inputs: [logits, targets, lse, dloss] }) => [
  logitGradientBounds((c.attributes.scale as number) * at(dloss, 0), logits!, lse!, targets!, () => 0),
]

/** Logits are sums of K products; their errors pass through the softmax into the loss and, by two more products, the gradients. */
const linearCrossEntropy: Tolerance = ({ c, half, stored, inputs, outputs }) => {
  const [x, weight, targets, dloss] = inputs
  const { attributes } = c
  const scale = attributes.scale as number
  const logits = runReference('linear', [x!, weight!, null, null], attributes)[0]!
  const lse = runReference('cross_entropy', [logits, targets!], { scale })[1]!
  const [terms, classes] = [lastDim(x!.shape), lastDim(logits.shape)]
  const sizes = runReference('linear', [absolute(x!), absolute(weight!), null, null], attributes)[0]!
  const logitErrors = perRow(rowsOf(x!.shape), (r) => {
    const top = (sizes.data as Float32Array)
      .subarray(r * classes, (r + 1) * classes)
      .reduce((a, b) => Math.max(a, b), 0)
    const largestLogit = (logits.data as Float32Array)
      .subarray(r * classes, (r + 1) * classes)
      .reduce((a, b) => Math.max(a, Math.abs(b)), 0)
    return 2 * (summed(terms) * top + stored * largestLogit)
  })
  const rows = logitErrors.reduce((sum, error, r) => sum + error + summed(classes) + 2 * u * at(lse, r), 0)
  const loss: Bounds = () => u * at(outputs[0], 0) + scale * rows
  if (!dloss) return [loss]
  const bounds = logitGradientBounds(
    scale * at(dloss, 0),
    logits,
    lse,
    targets!,
    (i) => logitErrors[Math.floor(i / classes)]!,
  )
  const size = elements(logits.shape)
  const [dlogits] = runReference('cross_entropy_backward', [logits, targets!, lse, dloss], { scale })
  // Gradients of logits are kept in the dtype of x: the two roundings may fall apart.
  const kept = (i: number): number => (half ? 2 * half * (at(dlogits, i) + bounds(i)) + 2 ** -24 : 0)
  const errors = { ...logits, data: Float64Array.from({ length: size }, (_, i) => bounds(i) + kept(i)) }
  // A dw of 16 bits is rounded after each chunk of rows.
  const chunks = half && !attributes.wide ? Math.ceil(rowsOf(x!.shape) / int(attributes, 'rows')) : 0
  const pass = (d: Operand): ReferenceTensor[] => [
    ...runReference('linear_input_gradient', [absolute(d), absolute(weight!)], attributes),
    ...runReference('linear_weight_gradient', [absolute(x!), absolute(d)], attributes),
  ]
  const [dxError, dwError] = pass(errors)
  const [dxSize, dwSize] = pass(dlogits!)
  return [
    loss,
    (i) => at(dxError, i) + summed(classes) * at(dxSize, i),
    (i) => at(dwError, i) + (summed(rowsOf(x!.shape)) + chunks * half) * at(dwSize, i),
  ]
}

/** Every op that a backend computes. */
export const tolerances: Readonly<Record<string, Tolerance>> = {
  add: 'bits',
  multiply: 'bits',
  scale: ({ outputs: [y] }) => [(i) => 2 * u * at(y, i)],
  cast: 'bits',
  copy: 'bits',
  sum_leading: product(([x], [sum]) => x!.data.length / sum!.data.length),
  activation: ({ c, inputs: [x], outputs: [y] }) => {
    const cancels = activationKinds[int(c.attributes, 'kind')]!.startsWith('gelu')
    return [(i) => 8 * u * (cancels ? at(x, i) : at(y, i))]
  },
  activation_backward: ({ inputs: [dy, x] }) => [(i) => 8 * u * at(dy, i) * (1 + at(x, i) ** 3)],
  linear: product(([x]) => lastDim(x!.shape)),
  linear_input_gradient: product(([dy]) => lastDim(dy!.shape)),
  linear_weight_gradient: product(([x]) => rowsOf(x!.shape)),
  linear_activation: (compared) => {
    const size = magnitudes({ ...compared, inputs: [...compared.inputs, null] }, 'linear')
    const error = summed(lastDim(compared.inputs[0]!.shape))
    // y goes on from pre as it is stored: the two roundings may fall apart.
    const kept = 2 * compared.half * (1 + error)
    return [(i) => error * at(size, i), (i) => (steepest * (error + kept) + 8 * u) * at(size, i)]
  },
  linear_input_gradient_activation: (compared) => {
    const { stored, outputs } = compared
    const [dy, , pre] = compared.inputs
    const [dpre] = outputs
    const size = magnitudes(compared, 'linear_input_gradient', 2)
    const error = summed(lastDim(dy!.shape))
    // The product as it is kept before the derivative's turn.
    const kept = (i: number) => (stored ? 2 * stored * at(dpre, i) + steepest * 2 ** -24 : 0)
    const bound: Bounds = (i) => (steepest * error + 8 * u * (1 + at(pre, i) ** 3)) * at(size, i) + kept(i)
    return [bound, sumOfRows(dpre, compared.half, bound)]
  },
  layer_norm: layerNorm,
  layer_norm_backward: layerNormBackward,
  attention,
  attention_backward: attentionBackward,
  softmax,
  softmax_backward: softmaxBackward,
  cross_entropy: crossEntropy,
  cross_entropy_backward: crossEntropyBackward,
  linear_cross_entropy: linearCrossEntropy,
  linear_cross_entropy_gradients: linearCrossEntropy,
  dropout: 'bits',
  embedding: 'bits',
  embedding_backward: 'bits',
  arange: 'bits',
  fill: 'bits',
  bucket: 'bits',
  initialize_constant: 'bits',
  /** The logarithm, sine and cosine of two libraries differ in their last float64 bit. */
  initialize_normal: ({ c, outputs: [unit] }) => [(i) => 2 * u * (at(unit, i) + Math.abs(c.attributes.mean as number))],
  adam: 'bits',
  sgd: 'bits',
  norm_chunks: 'bits',
  clip_control: 'bits',
  loss_scale: 'bits',
  step_control: 'bits',
}

/** A product may be rounded to 16 bits before bias and residual are added, and the first sum before the second. */
const roundedBefore =
  (name: 'linear' | 'linear_activation'): Tolerance =>
  (compared) => {
    const { half, inputs, outputs } = compared
    const [pre] = outputs
    const width = lastDim(pre!.shape)
    const within = (tolerances[name] as Exclude<Tolerance, 'bits'>)(compared)
    const residual = name === 'linear' ? inputs[3] : null
    const early = (i: number): number => 2 * half * (at(pre, i) + at(inputs[2], i % width) + at(residual, i))
    const has = inputs[2] || residual
    return within.map((bound, o) => (i: number) => bound(i) + (has ? (o === 0 ? 1 : steepest) * early(i) : 0))
  }

/** Where the GPU promises less: it adds many chunk sums in a tree, and its products are a library's. */
export const gpuTolerances: Readonly<Record<string, Tolerance>> = {
  linear: roundedBefore('linear'),
  linear_activation: roundedBefore('linear_activation'),
  clip_control: ({ outputs: [control] }) => [(i) => 2 ** -44 * at(control, i)],
}
