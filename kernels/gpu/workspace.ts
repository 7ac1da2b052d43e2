// Bytes of scratch memory that an op's GPU kernel works in, beside its operands. An op without a rule needs none.
import { type Attributes, dtypeBytes, int, type TensorType } from '../ops/definition.js'

export type WorkspaceRule = (
  inputs: readonly (TensorType | null)[],
  outputs: readonly TensorType[],
  attributes: Attributes,
) => number

/**
 * What attention-mma-backward.cu lays out: for each tile of 64 queries their statistics, a flag for each warp and, where there are
 * several blocks of 128 keys, sums of dq; and a counter. The portable path keeps one number for each query.
 */
function attentionBackward(qkv: TensorType, heads: number): number {
  const [batch, sequence, width] = qkv.shape as [number, number, number]
  const [pairs, size] = [batch * heads, width / 3 / heads]
  if (dtypeBytes[qkv.dtype] !== 2 || ![64, 80, 96, 128].includes(size)) return pairs * sequence * 4
  const [statistics, flags, sums] = [64 * 8, (size === 64 ? 4 : 8) * 4, sequence > 128 ? 64 * size * 4 : 0]
  return pairs * Math.ceil(sequence / 64) * (statistics + flags + sums) + 4
}

export const gpuWorkspace: Readonly<Record<string, WorkspaceRule>> = {
  attention_backward: (inputs, _outputs, attributes) => attentionBackward(inputs[1]!, int(attributes, 'heads')),
}
