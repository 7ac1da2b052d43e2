// The owner of a rank's optimizer states: reserves them, hands out copies at step boundaries and restores them.
import type { GroupToken, RankDevice } from '../../native/device.js'
import { type Behaviour, defineActor } from '../../runtime/actor/definition.js'
import { readRegions, sharedDevice, writeRegions } from '../rank/device.js'
import type { OptimizerShardArgs, OptimizerShardProtocol } from './protocol.js'

interface ShardState {
  readonly token: GroupToken
  readonly device: RankDevice
}

/** Bytes that are zeroed at once. */
const chunk = 1 << 20

const behaviour: Behaviour<OptimizerShardProtocol, ShardState, OptimizerShardArgs> = {
  init(_context, { token, rank }) {
    const device = sharedDevice(token, rank)
    if (device.kept === null) device.allocate('optimizer')
    return { token, device }
  },
  receive: {
    read: ({ device }, { regions, target }) => readRegions(device, 'optimizer', regions, target),
    write: ({ device }, { regions, bytes }) => writeRegions(device, 'optimizer', regions, bytes),
    clear({ device, token }) {
      const total = token.arenas.optimizer
      const zeros = new Uint8Array(Math.min(chunk, total))
      for (let at = 0; at < total; at += chunk) device.write('optimizer', at, zeros.subarray(0, total - at))
    },
  },
}

export const optimizerShard = defineActor(import.meta.url, 'optimizerShard', behaviour)
