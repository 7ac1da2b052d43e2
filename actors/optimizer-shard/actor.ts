// The owner of a rank's optimizer states: reserves them, hands out copies at step boundaries and restores them.
import type { RankDevice } from '../../native/device.js'
import { type Behaviour, defineActor } from '../../runtime/actor/definition.js'
import { readRegions, sharedDevice, writeRegions } from '../rank/device.js'
import type { OptimizerShardArgs, OptimizerShardProtocol } from './protocol.js'

const behaviour: Behaviour<OptimizerShardProtocol, RankDevice, OptimizerShardArgs> = {
  init(_context, { token, rank }) {
    const device = sharedDevice(token, rank)
    device.allocate('optimizer')
    return device
  },
  receive: {
    read: (device, { regions, target }) => readRegions(device, 'optimizer', regions, target),
    write: (device, { regions, bytes }) => writeRegions(device, 'optimizer', regions, bytes),
  },
}

export const optimizerShard = defineActor(import.meta.url, 'optimizerShard', behaviour)
