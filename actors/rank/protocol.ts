// What a rank is asked. A rank owns one part of the device: its arenas, its programs and, as a child, its optimizer shard. Its memory
// outlives it where it ends in order and knows what it holds.
import type { ArenaName } from '../../kernels/abi/program.js'
import type { GroupToken } from '../../native/device.js'
import type { SlotShape } from '../../runtime/data/slot.js'
import type { ProgramName } from '../../runtime/graph/compile.js'
import type { Region } from './device.js'
import type { Fault } from './fault.js'

export interface RankArgs {
  readonly token: GroupToken
  readonly rank: number
  readonly threads: number
  /** The CPU of each thread of each rank, where ranks are bound to CPUs. */
  readonly cores: readonly (readonly number[])[] | null
  /** Bytes of each program, in shared memory. */
  readonly programs: Readonly<Partial<Record<ProgramName, Uint8Array>>>
  /** Batches that the data loader fills. */
  readonly slots: readonly SharedArrayBuffer[]
  readonly batch: BatchShape
}

/** How a global batch lies in a slot, and how many micro-batches of it each rank takes. */
export interface BatchShape extends SlotShape {
  readonly accumulation: number
}

/** One training step as every rank is told of it. */
export interface StepOrder {
  /** The first step is 1. */
  readonly step: number
  readonly slot: number
  /** Run-time scalars by name: seed, step and the optimizer's. */
  readonly scalars: Readonly<Record<string, number>>
  /** Number of the batch's first sample, counted from the start of training. */
  readonly sample: number
  readonly profile: boolean
  /** What this rank is asked to suffer in this step. */
  readonly faults?: readonly Fault[]
}

export interface StepReport {
  /** Mean loss of each micro-batch, in order. */
  readonly losses: readonly number[]
  /** Global norm of the gradients before clipping. */
  readonly norm: number
  /** False: loss or norm is not finite. Where the norm is not, nothing was updated. */
  readonly finite: boolean
  /** How many updates more than the scalar `taken` says had been made before it. */
  readonly candidate: number
  /** How long this rank's native calls took, each from the end of the one before it where it waited for that. */
  readonly nativeSeconds: number
  /** For each micro-step, start and end of each instruction in seconds, when profiled. */
  readonly profile?: readonly { readonly program: ProgramName; readonly seconds: Float64Array }[]
}

/** The first instruction that made a NaN or an infinity. */
export interface Diagnosis {
  readonly rank: number
  readonly micro: number
  readonly op: string
  readonly phase: string
  readonly module?: string
  readonly source?: string
}

export type RankProtocol = {
  /** The step at whose end its parameters and optimizer states are, 0: before the first; null: none, or it is not known. */
  held(): number | null
  /**
   * The state before the first step: parameters from the seed, or with null as they are written next, and no optimizer states. `state` is
   * what the next step goes on from: kernels/ops/step.ts.
   */
  initialize(message: { readonly seed: number | null; readonly state: readonly number[] }): void
  /** All that was lost was written, as of the end of `step`: bring what ranks keep gathered up to date, and go on from `state`. */
  refresh(message: { readonly step: number; readonly state: readonly number[] }): void
  /** Begins steps, behind those that are under way; the reply is the report of the oldest. */
  step(message: { readonly orders: readonly StepOrder[] }): StepReport
  /** Repeats a step's micro-steps with every instruction checked. */
  diagnose(message: { readonly order: StepOrder }): Diagnosis | null
  /** Summed loss of this rank's rows of an evaluation batch. */
  evaluate(message: { readonly slot: number }): number
  /** Rank 0 writes the logits of one row of tokens, [tokens, vocabulary], into shared memory. */
  forward(message: { readonly tokens: Int32Array; readonly logits: Float32Array }): void
  /** Copies the regions' bytes end to end into `target`, shared memory of that length. */
  read(message: { readonly arena: ArenaName; readonly regions: readonly Region[]; readonly target: Uint8Array }): void
  write(message: { readonly arena: ArenaName; readonly regions: readonly Region[]; readonly bytes: Uint8Array }): void
}
