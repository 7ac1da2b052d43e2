// Bytes of scratch memory that an op's GPU kernel works in, beside its operands. An op without a rule needs none.
import {
  type Attributes,
  dtypeBytes,
  elements,
  int,
  ints,
  lastDim,
  option,
  rowsOf,
  type TensorType,
} from '../ops/definition.js'

export type WorkspaceRule = (
  inputs: readonly (TensorType | null)[],
  outputs: readonly TensorType[],
  attributes: Attributes,
) => number

/** Parts of a workspace begin on borders of 256 bytes. */
const whole = (bytes: number): number => Math.ceil(bytes / 256) * 256

/** Sums of chunks of rows, f32. */
const chunkSums = (rows: number, chunk: number, columns: number): number => Math.ceil(rows / chunk) * columns * 4

/** Rows of a chunk in the backward of a norm: about 256 chunks of many rows (`chunk_rows_of` of norm.cu). */
const normChunk = (rows: number): number => Math.max(16, Math.ceil(Math.ceil(rows / 256) / 8) * 8)

/** What a matrix product may use for split sums (`product_workspace` of products.h). */
const productBytes = 64 << 20
const product: WorkspaceRule = () => productBytes

/** Row losses in float64, one chunk of `rows` rows of logits padded to 128 classes, and f32 sums of a dw of 16 bits over several chunks. */
const head: WorkspaceRule = (inputs, outputs, attributes) => {
  const [x, weight] = inputs as [TensorType, TensorType]
  const [all, classes] = [rowsOf(x.shape), elements(weight.shape) / lastDim(x.shape)]
  const rows = Math.min(int(attributes, 'rows'), all)
  const dw = outputs[2]
  const sums = dw && dw.dtype !== 'f32' && rows < all ? elements(dw.shape) * 4 : 0
  const logits = rows * Math.ceil(classes / 128) * 128 * dtypeBytes[x.dtype]
  return whole(all * 8) + whole(logits) + whole(sums) + productBytes
}

/** Sizes of a head for which attention in 16 bits runs on tensor cores (`with_mma_types` of attention-mma.h). */
export const tensorCoreHeads: readonly number[] = [64, 80, 96, 128]

/**
 * What the tensor cores' paths lay out (kernels/gpu/attention-backward.h), in tiles of 64 or 128 queries: for each query its statistics
 * and, where there are several blocks of 128 keys, sums of dq; for each tile a flag for each of at most 8 warps; a counter. The portable
 * path keeps one number for each query.
 */
function attentionBackward(qkv: TensorType, heads: number): number {
  const [batch, sequence, width] = qkv.shape as [number, number, number]
  const [pairs, size] = [batch * heads, width / 3 / heads]
  if (dtypeBytes[qkv.dtype] !== 2 || !tensorCoreHeads.includes(size)) return pairs * sequence * 4
  const [tiles, statistics, flags] = [Math.ceil(sequence / 128), 128 * 8, 2 * 8 * 4]
  return pairs * tiles * (statistics + flags + (sequence > 128 ? 128 * size * 4 : 0)) + 4
}

/** Where each row's tokens begin and, where nobody says it, their order, from keys of 8 bytes that are sorted in tiles of 4,096 between two buffers. */
const sortedTokens = (tokens: number, rows: number, isTold: boolean): number =>
  (rows + 1) * 4 + (isTold ? 0 : Math.ceil(tokens / 4096) * 4096 * (2 * 8 + 4))

/** The sequence of chunk sums, where it lies in pieces, and levels of a tree over it, f64. */
function sumTree(ranges: readonly number[]): number {
  const count = ranges.reduce((sum, number, i) => (i % 2 === 1 ? sum + number : sum), 0)
  let terms = count
  for (let level = count; level > 1; ) {
    level = Math.ceil(level / 1024)
    terms += level
  }
  return terms * 8
}

/** A sum: the other ranks' slices of its source. */
const otherSlices: WorkspaceRule = ([source], _outputs, attributes) => {
  const ranks = int(attributes, 'ranks')
  return (ranks - 1) * whole(Math.ceil(elements(source!.shape) / ranks) * dtypeBytes[source!.dtype])
}

export const gpuWorkspace: Readonly<Record<string, WorkspaceRule>> = {
  linear: product,
  linear_input_gradient: product,
  linear_weight_gradient: product,
  linear_activation: product,
  attention_backward: (inputs, _outputs, attributes) => attentionBackward(inputs[1]!, int(attributes, 'heads')),
  /** The product's, which sums of rows take over after it. */
  linear_input_gradient_activation: (_inputs, [dpre, sum]) =>
    Math.max(productBytes, sum ? chunkSums(rowsOf(dpre!.shape), 64, lastDim(dpre!.shape)) : 0),
  sum_leading: ([x], [sum]) => {
    const width = elements(sum!.shape)
    return width === 0 ? 0 : chunkSums(elements(x!.shape) / width, 256, width)
  },
  layer_norm_backward: ([dy], _outputs, attributes) => {
    const rows = rowsOf(dy!.shape)
    return chunkSums(rows, normChunk(rows), (option(attributes, 'sum') ? 3 : 2) * lastDim(dy!.shape))
  },
  cross_entropy: (inputs) => rowsOf(inputs[0]!.shape) * 8,
  linear_cross_entropy: head,
  linear_cross_entropy_gradients: head,
  embedding_backward: ([indices, , , order], _outputs, attributes) =>
    sortedTokens(elements(indices!.shape), int(attributes, 'rows'), Boolean(order)),
  clip_control: (_inputs, _outputs, attributes) => sumTree(ints(attributes, 'ranges')),
  reduce_scatter: otherSlices,
  all_reduce: otherSlices,
  /** A byte of each rank. */
  barrier: (_inputs, _outputs, attributes) => whole(int(attributes, 'ranks')),
}
