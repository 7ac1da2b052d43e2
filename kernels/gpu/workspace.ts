// Bytes of scratch memory that an op's GPU kernel works in, beside its operands. An op without a rule needs none.
import { type Attributes, dtypeBytes, int, type TensorType } from '../ops/definition.js'

export type WorkspaceRule = (
  inputs: readonly (TensorType | null)[],
  outputs: readonly TensorType[],
  attributes: Attributes,
) => number

/**
 * What the tensor cores' paths lay out (kernels/gpu/attention-backward.h), in tiles of 64 or 128 queries: for each query its statistics
 * and, where there are several blocks of 128 keys, sums of dq; for each tile a flag for each of at most 8 warps; a counter. The portable
 * path keeps one number for each query.
 */
function attentionBackward(qkv: TensorType, heads: number): number {
  const [batch, sequence, width] = qkv.shape as [number, number, number]
  const [pairs, size] = [batch * heads, width / 3 / heads]
  if (dtypeBytes[qkv.dtype] !== 2 || ![64, 80, 96, 128].includes(size)) return pairs * sequence * 4
  const [tiles, statistics, flags] = [Math.ceil(sequence / 128), 128 * 8, 2 * 8 * 4]
  return pairs * tiles * (statistics + flags + (sequence > 128 ? 128 * size * 4 : 0)) + 4
}

export const gpuWorkspace: Readonly<Record<string, WorkspaceRule>> = {
  attention_backward: (inputs, _outputs, attributes) => attentionBackward(inputs[1]!, int(attributes, 'heads')),
}
