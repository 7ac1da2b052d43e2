// What each ZeRO stage slices (arXiv 1910.02054): 0 keeps everything whole; 1 slices optimizer states, 2 gradients too, 3 parameters too.
// Here each micro-step's gradients go to their owners as they are made, so from stage 1 on nobody would read a whole accumulator, and
// stages 1 and 2 are the same. (DeepSpeed's stage 1 adds up whole gradients and reduces them once a step.)
import type { LossScaleSpec } from '../../optim/index.js'
import type { GatherOptions } from './gathers.js'
import type { FlatLayout, Unit, WeightDType } from './layout.js'

export type ZeroStage = 0 | 1 | 2 | 3

/** Which micro-step of a step a program is: the first replaces the accumulator, the last updates. */
export type MicroStep = 'only' | 'first' | 'middle' | 'last'

export interface PartitionOptions {
  readonly ranks: number
  readonly stage: ZeroStage
  readonly gathers: GatherOptions
  /** Whether collectives run beside the instructions that come after them. */
  readonly overlaps: boolean
  /** Elements of gradient that are reduced together. */
  readonly reduceBucketSize: number
  /** Elements of updated parameters that are gathered together. */
  readonly allgatherBucketSize: number
  readonly optimizer: OptimizerPlan
  /** Most global norm of the gradients; 0: no clipping. */
  readonly clipping: number
  /** Of units in 16 bits: the dtype in which gradients are made and sent, and the accumulator's. Other units have f32 for both. */
  readonly gradients: WeightDType
  readonly accumulation: WeightDType
  /** Whether f32 masters stand behind units in 16 bits: in training. */
  readonly masters: boolean
  /** ZeRO-Offload (arXiv 2101.06840): masters and states are kept and updated on the host, in training. */
  readonly offload: boolean
  readonly overflow: OverflowRule
}

/** What becomes of a step whose gradients are not finite. */
export interface OverflowRule {
  /** It is skipped; else nothing may follow it. */
  readonly skips: boolean
  /** Gradients are multiplied by the loss scale, and the update divides by it. */
  readonly scales: boolean
  readonly lossScale: LossScaleSpec
}

/** Parameters that are updated with the same settings; each group has scalars of its own (`learning_rate.0`, ...). */
export interface OptimizerGroup {
  readonly names: readonly string[]
  readonly weightDecay: number
}

export interface OptimizerPlan {
  readonly kind: 'adam' | 'sgd'
  /** Attributes of the op that are the same for every group. */
  readonly attributes: Readonly<Record<string, number>>
  readonly groups: readonly OptimizerGroup[]
  /** Units in 16 bits have no masters: what the update makes of them is rounded stochastically. */
  readonly stochasticRounding?: boolean
}

/** Names of the optimizer's state tensors of one unit, in the op's order. */
export function optimizerStates(optimizer: OptimizerPlan): readonly string[] {
  if (optimizer.kind === 'adam') return ['exp_avg', 'exp_avg_sq']
  return optimizer.attributes['momentum'] ? ['momentum_buffer'] : []
}

/** The slicing of one run: how much of each unit a rank holds. */
export class Sharding {
  constructor(
    readonly layout: FlatLayout,
    readonly options: PartitionOptions,
  ) {}

  /** What is in slices. With one rank nothing is. */
  get sliced(): { readonly parameters: boolean; readonly gradients: boolean; readonly optimizer: boolean } {
    const { ranks, stage } = this.options
    return {
      parameters: ranks > 1 && stage >= 3,
      gradients: ranks > 1 && stage >= 1,
      optimizer: ranks > 1 && stage >= 1,
    }
  }

  /** Elements of a unit's part in an arena. */
  lengthIn(arena: 'parameters' | 'gradients' | 'optimizer', unit: Unit): number {
    return this.sliced[arena] ? unit.shard : unit.length
  }

  /** Dtype of a unit's gradients as they are made and sent. */
  gradientDType(unit: Unit): WeightDType {
    return unit.dtype === 'f32' ? 'f32' : this.options.gradients
  }

  /** Dtype of a unit's accumulated gradients: with one micro-batch there is nothing to add up. */
  accumulatorDType(unit: Unit): WeightDType {
    return unit.dtype === 'f32' ? 'f32' : this.options.accumulation
  }

  /** Whether the optimizer keeps an f32 master of the unit: also of one in f32 where it works on the host. */
  hasMaster(unit: Unit): boolean {
    return this.options.masters && (unit.dtype !== 'f32' || this.options.offload)
  }
}

/** The optimizer's name for f32 masters among its states. */
export const masterState = 'master'
