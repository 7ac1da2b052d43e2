// Bytes of scratch memory that an op's C++ kernel works in with so many threads, beside its operands. An op without a rule needs none.
import {
  type Attributes,
  type DType,
  dtypeBytes,
  elements,
  int,
  lastDim,
  rowsOf,
  type TensorType,
} from '../ops/definition.js'

type WorkspaceRule = (
  inputs: readonly (TensorType | null)[],
  outputs: readonly TensorType[],
  attributes: Attributes,
  threads: number,
) => number

/**
 * One packed matrix product with a result of `dtype`: panels of 2 x 384 x 1,536 steps for all threads together, a block of 96 rows of
 * 400 for each, and f32 sums for a result of 16 bits (`packing_bytes` of kernels/cpu/gemm.h).
 */
export function packing(threads: number, dtype: DType): number {
  const sums = dtypeBytes[dtype] === 2 ? Math.max(threads * 96 * 1536, 960 * 768) : 0
  return 4 * (2 * 384 * 1536 + threads * 96 * 400 + sums)
}

const product: WorkspaceRule = (_inputs, outputs, _attributes, threads) => packing(threads, outputs[0]!.dtype)

/** Packed panels of the products, row losses in float64, and one chunk of `rows` rows of logits. */
const head: WorkspaceRule = (inputs, _outputs, attributes, threads) => {
  const [x, weight] = inputs as [TensorType, TensorType]
  const classes = weight.shape[int(attributes, 'transposed') ? 1 : 0]!
  const rows = Math.min(int(attributes, 'rows'), rowsOf(x.shape))
  return packing(threads, x.dtype) + rowsOf(x.shape) * 8 + rows * classes * 4
}

/** A packed strip of at most 8 rows of one head, 1,040 elements apart (ROW_STRIDE of kernels/cpu/attention.cpp). */
const stripElements = 8 * 1040

/**
 * The sizes behind a thread's scratch: packed copies of one head's q, k, v and do in whole panels and vectors. With them go the sums
 * of 96 queries or, backward, two blocks of 96 x 272 scores; of 16 bits, those in pairs too, and the sums of gradients of all queries
 * and of 256 keys.
 */
function tiles(qkv: TensorType, attributes: Attributes): { sequence: number; padded: number; size: number } {
  const [, sequence, width] = qkv.shape as [number, number, number]
  const headSize = width / 3 / int(attributes, 'heads')
  return { sequence, padded: Math.ceil(sequence / 32) * 32, size: Math.ceil(headSize / 16) * 16 }
}

export const cpuWorkspace: Readonly<Record<string, WorkspaceRule>> = {
  sum_leading: (inputs, outputs) => {
    const width = elements(outputs[0]!.shape)
    const rows = elements(inputs[0]!.shape) / width
    return Math.ceil(rows / 256) * width * 4
  },
  linear: product,
  linear_input_gradient: product,
  linear_weight_gradient: product,
  linear_activation: product,
  linear_input_gradient_activation: product,
  layer_norm_backward: (inputs) => {
    const { shape } = inputs[0]!
    return Math.ceil(rowsOf(shape) / 64) * lastDim(shape) * 2 * 4
  },
  attention: (inputs, _outputs, attributes, threads) => {
    const { sequence, padded, size } = tiles(inputs[0]!, attributes)
    return 4 * threads * ((padded + sequence + 96) * size + stripElements + 16)
  },
  attention_backward: (inputs, _outputs, attributes, threads) => {
    const { sequence, padded, size } = tiles(inputs[1]!, attributes)
    const halves = dtypeBytes[inputs[1]!.dtype] === 2 ? (sequence + 2 * 256) * size + 96 * 272 : 0
    return (
      4 * threads * ((2 * padded + 3 * sequence) * size + 2 * stripElements + 2 * 96 * 272 + sequence + halves + 16)
    )
  },
  cross_entropy: (inputs) => rowsOf(inputs[0]!.shape) * 8,
  linear_cross_entropy: head,
  linear_cross_entropy_gradients: head,
}
