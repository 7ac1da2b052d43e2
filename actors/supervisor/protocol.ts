// What the supervisor of a run is asked. It owns the ranks (one group: they fall together) and the data loader, and falls with them.
import type { ArenaName } from '../../kernels/abi/program.js'
import type { DataLoaderArgs } from '../data-loader/protocol.js'
import type { Region } from '../rank/device.js'
import type { Fault } from '../rank/fault.js'
import type { Diagnosis, RankArgs, StepReport } from '../rank/protocol.js'

export interface SupervisorArgs {
  /** What every rank gets; its number is added. */
  readonly ranks: Omit<RankArgs, 'rank'>
  /** null: no training, only `forward`. */
  readonly loader: DataLoaderArgs | null
  /** Worker of the data loader; rank r lives on worker r. */
  readonly serviceWorker: number
  /** A rank that makes no progress for so long has failed, and so has a data loader without an answer. */
  readonly stallSeconds: number
}

/** One step, before it is dealt out to ranks. */
export interface TrainOrder {
  readonly step: number
  readonly sample: number
  /** A batch that lies in this slot already; null: the data loader's. */
  readonly slot: number | null
  /** Sample of the step after it, to fetch ahead; null: none follows. */
  readonly nextSample: number | null
  readonly scalars: Readonly<Record<string, number>>
  readonly profile: boolean
  /** What each rank is asked to suffer in this step. */
  readonly faults?: readonly (readonly Fault[])[]
}

export interface TrainReport {
  /** Mean loss over the global batch: the micro-batches' losses added in order of k. */
  readonly loss: number
  readonly norm: number
  readonly finite: boolean
  /** How many updates more than the scalar `taken` says had been made before it, on every rank. */
  readonly candidate: number
  readonly ranks: readonly StepReport[]
}

export type SupervisorProtocol = {
  /** `state` is what programs go on from: kernels/ops/step.ts. */
  initialize(message: { readonly seed: number | null; readonly state: readonly number[] }): void
  refresh(message: { readonly step: number; readonly state: readonly number[] }): void
  /** What each rank holds, as it says. */
  held(): readonly (number | null)[]
  /** Begins steps, behind those that are under way; the reply is the report of the oldest. */
  train(message: { readonly orders: readonly TrainOrder[] }): TrainReport
  /** Repeats a step, with nothing else under way. */
  diagnose(message: { readonly order: TrainOrder }): readonly Diagnosis[]
  evaluate(): { readonly loss: number; readonly tokens: number }
  /** Logits of one row of tokens, [tokens, vocabulary], into shared memory. */
  forward(message: { readonly tokens: Int32Array; readonly logits: Float32Array }): void
  read(message: {
    readonly rank: number
    readonly arena: ArenaName
    readonly regions: readonly Region[]
    readonly target: Uint8Array
  }): void
  write(message: {
    readonly rank: number
    readonly arena: ArenaName
    readonly regions: readonly Region[]
    readonly bytes: Uint8Array
  }): void
}
