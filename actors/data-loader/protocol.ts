// What the data loader is asked: to fill a slot. A slot is free again when the supervisor asks for it anew: slots are the credits.
import type { SlotShape } from '../../runtime/data/slot.js'
import type { SourceHandle } from '../../runtime/data/source.js'

export interface DataLoaderArgs {
  readonly source: SourceHandle
  readonly evaluation: SourceHandle | null
  readonly seed: number
  readonly shuffle: boolean
  readonly slots: readonly SharedArrayBuffer[]
  readonly batch: SlotShape
}

export type DataLoaderProtocol = {
  /** Samples `sample` and on, counted from the start of training, into a slot. */
  fill(message: { readonly slot: number; readonly sample: number }): void
  /** Evaluation samples `first` to `first + rows`, in their own order, masked past the end; resolves with the targets to count. */
  fillEvaluation(message: { readonly slot: number; readonly first: number; readonly rows: number }): number
}
