// Bytes of scratch memory that an op's GPU kernel works in, beside its operands. An op without a rule needs none.
import { type Attributes, elements, int, ints, lastDim, rowsOf, type TensorType } from '../ops/definition.js'

export type WorkspaceRule = (
  inputs: readonly (TensorType | null)[],
  outputs: readonly TensorType[],
  attributes: Attributes,
) => number

/** Sums of chunks of rows, f32. */
const chunkSums = (rows: number, chunk: number, columns: number): number => Math.ceil(rows / chunk) * columns * 4

/** Keys of 8 bytes, sorted in tiles of 4,096 between two buffers, and where each row's begin. */
const sortedTokens = (tokens: number, rows: number): number => 2 * Math.ceil(tokens / 4096) * 4096 * 8 + (rows + 1) * 4

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

export const gpuWorkspace: Readonly<Record<string, WorkspaceRule>> = {
  sum_leading: ([x], [sum]) => {
    const width = elements(sum!.shape)
    return width === 0 ? 0 : chunkSums(elements(x!.shape) / width, 256, width)
  },
  layer_norm_backward: ([dy]) => chunkSums(rowsOf(dy!.shape), 64, 2 * lastDim(dy!.shape)),
  embedding_backward: ([indices], _outputs, attributes) =>
    sortedTokens(elements(indices!.shape), int(attributes, 'rows')),
  clip_control: (_inputs, _outputs, attributes) => sumTree(ints(attributes, 'ranges')),
}
