// What the compiler and the checks of programs ask of whatever runs a program's ops. Pure: it needs no machine of that kind.
import type { Attributes, OpDefinition, TensorType } from './definition.js'
import type { FusionName } from './fusion.js'

export interface Backend {
  /** The fused instructions that it has. */
  readonly fusions: readonly FusionName[]
  /** Bytes of which every address of a plan is a multiple. */
  readonly alignment: number
  /** Whether collectives run beside the instructions that come after them. */
  readonly overlaps: boolean
  /** Whether `embedding_backward` is to be told the order of the tokens, which the data loader knows. */
  readonly tokenOrder: boolean
  /** Bytes of scratch memory that one call of the op works in, beside its operands. */
  workspace(
    op: OpDefinition,
    inputs: readonly (TensorType | null)[],
    outputs: readonly TensorType[],
    attributes: Attributes,
  ): number
  /** How many of `rows` rows of logits over `classes` the fused head makes at a time. */
  logitRows(rows: number, classes: number): number
  /** In words, why a call takes a slower path than most; null where it does not. */
  slowPath(op: OpDefinition, inputs: readonly (TensorType | null)[], attributes: Attributes): string | null
}
