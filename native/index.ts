// Devices by name: a group is made on the main thread, each rank is opened by token in its own worker.
// Checks here hold for every device.
import { arenaNames } from '../kernels/abi/program.js'
import { abortCpuGroup, createCpuGroup, openCpuRank } from './cpu.js'
import {
  DeviceError,
  type DeviceGroup,
  type DeviceName,
  type GroupOptions,
  type GroupToken,
  type RankDevice,
  type RankOptions,
} from './device.js'
import { abortReferenceGroup, createReferenceGroup, openReferenceRank } from './executor/reference.js'

interface Device {
  createGroup(options: GroupOptions): DeviceGroup
  openRank(token: GroupToken, options: RankOptions): RankDevice
  abortGroup(token: GroupToken, reason: string): void
}

const devices: Readonly<Record<DeviceName, Device>> = {
  cpu: { createGroup: createCpuGroup, openRank: openCpuRank, abortGroup: abortCpuGroup },
  reference: {
    createGroup: createReferenceGroup,
    openRank: openReferenceRank,
    abortGroup: abortReferenceGroup,
  },
}

function expectCount(what: string, value: number, least: number, most: number): void {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return
  throw new DeviceError('DEVICE_USAGE', `device: ${what}, expected an integer from ${least} to ${most}, got ${value}`)
}

/** Ranks of one process, and threads of one rank, at most. */
const most = 1024

/** Makes the ranks of one communicator. Throws {@link DeviceError} for impossible numbers or where the device is missing. */
export function createGroup(options: GroupOptions): DeviceGroup {
  expectCount('ranks', options.ranks, 1, most)
  for (const arena of arenaNames) expectCount(`bytes of arena ${arena}`, options.arenas[arena], 0, 2 ** 47)
  return devices[options.device].createGroup(options)
}

/** Opens one rank in this thread. A rank is opened once. */
export function openRank(token: GroupToken, options: RankOptions): RankDevice {
  expectCount('rank', options.rank, 0, token.ranks - 1)
  expectCount('threads', options.threads, 1, most)
  return devices[token.device].openRank(token, options)
}

/** {@link DeviceGroup.abort} for any thread that holds the token. Does nothing once the group is closed. */
export const abortGroup = (token: GroupToken, reason: string): void => devices[token.device].abortGroup(token, reason)

export * from './device.js'
export { type Addon, addon, type Machine, machine } from './load.js'
