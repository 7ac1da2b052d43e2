// Bytes of scratch memory that an op's GPU kernel works in, beside its operands. An op without a rule needs none.
import type { Attributes, TensorType } from '../ops/definition.js'

export type WorkspaceRule = (
  inputs: readonly (TensorType | null)[],
  outputs: readonly TensorType[],
  attributes: Attributes,
) => number

export const gpuWorkspace: Readonly<Record<string, WorkspaceRule>> = {}
