// What an optimizer shard is asked. It owns the optimizer states of one rank; the update itself is the tail of the rank's programs,
// which read and write those states in place.
import type { GroupToken } from '../../native/device.js'
import type { Region } from '../rank/device.js'

export interface OptimizerShardArgs {
  readonly token: GroupToken
  readonly rank: number
}

export type OptimizerShardProtocol = {
  /** Copies the regions' bytes end to end into `target`, shared memory of that length. Not while a step is under way. */
  read(message: { readonly regions: readonly Region[]; readonly target: Uint8Array }): void
  write(message: { readonly regions: readonly Region[]; readonly bytes: Uint8Array }): void
  /** All states to zero. */
  clear(): void
}
