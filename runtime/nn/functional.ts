// Operations on symbolic tensors. Each appends one op of the table in `kernels/ops` to the running trace, whose shape rules apply;
// a shape that does not fit is a GraphError that names the module and the user's line.
import { type ActivationKind, activationKinds } from '../../kernels/ops/activation.js'
import { rowsOf } from '../../kernels/ops/definition.js'
import { expectCount, expectProbability } from './error.js'
import { recorderFor } from './recorder.js'
import { record, type Tensor, type TensorLike } from './tensor.js'

/**
 * x W^T + bias for a weight [out, in], or x W + bias for a `transposed` one [in, out] (GPT-2's Conv1D). x is [..., in], the result
 * [..., out].
 */
export function linear(
  x: TensorLike,
  weight: TensorLike,
  bias: TensorLike | null = null,
  options: { readonly transposed?: boolean } = {},
): Tensor {
  return record('linear', [x, weight, bias, null], { transposed: options.transposed ? 1 : 0 })
}

/** Rows of `weight` [n, d] by `indices` (i32, any shape): [..., d]. */
export function embedding(weight: TensorLike, indices: Tensor): Tensor {
  return record('embedding', [weight, indices])
}

/** (x - mean) / sqrt(var + epsilon) * weight + bias over the last dim, with the biased variance (arXiv 1607.06450). */
export function layerNorm(
  x: TensorLike,
  weight: TensorLike | null = null,
  bias: TensorLike | null = null,
  epsilon = 1e-5,
): Tensor {
  return record('layer_norm', [x, weight, bias], { epsilon })
}

/** The non-linearity of that name: `gelu_tanh`, `gelu_erf`, `relu`, `silu` or `tanh`. */
export function activation(x: TensorLike, kind: ActivationKind): Tensor {
  return record('activation', [x], { kind: activationKinds.indexOf(kind) })
}

/** x/2 (1 + erf(x / sqrt 2)) (arXiv 1606.08415). */
export const gelu = (x: TensorLike): Tensor => activation(x, 'gelu_erf')
/** x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GPT-2's `gelu_new`. */
export const geluTanh = (x: TensorLike): Tensor => activation(x, 'gelu_tanh')
export const relu = (x: TensorLike): Tensor => activation(x, 'relu')
/** x sigmoid(x). */
export const silu = (x: TensorLike): Tensor => activation(x, 'silu')
export const tanh = (x: TensorLike): Tensor => activation(x, 'tanh')

export interface AttentionOptions {
  readonly heads: number
  /** Whether a position sees only itself and those before it. */
  readonly causal: boolean
  /** Factor on scores; default 1 / sqrt(head size). */
  readonly scale?: number
  /** Probability of dropping an attention weight while training; default 0. */
  readonly dropout?: number
}

/** softmax(scale * q k^T) v per head, from qkv [B, T, 3 * C] with q, k and v of all heads side by side: [B, T, C]. */
export function attention(qkv: TensorLike, { heads, causal, scale, dropout = 0 }: AttentionOptions): Tensor {
  const recorder = recorderFor('attention')
  expectCount('attention', 'heads', heads)
  expectProbability('attention', 'dropout', dropout)
  const drops = recorder.training && dropout > 0
  return record('attention', [qkv], {
    heads,
    causal: causal ? 1 : 0,
    scale: scale ?? 1 / Math.sqrt(qkv.shape.at(-1)! / 3 / heads),
    dropout: drops ? dropout : 0,
    op_id: drops ? recorder.nextOpId() : 0,
  })
}

/** While training: elements are zero with probability p, the others divided by 1 - p. The first dim of x is the batch. */
export function dropout(x: Tensor, p: number): Tensor {
  const recorder = recorderFor('dropout')
  expectProbability('dropout', 'p', p)
  return recorder.training && p > 0 ? record('dropout', [x, null], { p, op_id: recorder.nextOpId() }) : x
}

/** exp(x - max) / sum over the last dim. */
export function softmax(x: TensorLike): Tensor {
  return record('softmax', [x])
}

/**
 * scale * sum over rows of -log softmax(logits)[target]: a tensor of one element. logits is [..., classes], targets (i32) [...]; rows
 * whose target is -1 count nothing. `scale` is by default 1 / rows, masked ones included: the mean where none is masked.
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: { readonly scale?: number } = {}): Tensor {
  return record('cross_entropy', [logits, targets], { scale: options.scale ?? 1 / rowsOf(logits.shape) })
}

/** 0, 1, ... count - 1 as i32. */
export function arange(count: number): Tensor {
  return record('arange', [], { count })
}
