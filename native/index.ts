// Devices by name: a group is made on the main thread, each rank is opened by token in its own worker.
// Checks here hold for every device.
import { arenaNames } from '../kernels/abi/program.js'
import {
  abortCompiledGroup,
  compiledProgress,
  createCompiledGroup,
  openCompiledRank,
  renewCompiledGroup,
} from './compiled.js'
import {
  DeviceError,
  type DeviceGroup,
  type DeviceName,
  type GroupOptions,
  type GroupToken,
  type RankDevice,
  type RankOptions,
  type RankProgress,
} from './device.js'
import {
  abortReferenceGroup,
  createReferenceGroup,
  openReferenceRank,
  referenceProgress,
  renewReferenceGroup,
} from './executor/reference.js'
import { addon } from './load.js'

interface Device {
  createGroup(options: GroupOptions): DeviceGroup
  openRank(token: GroupToken, options: RankOptions): RankDevice
  abortGroup(token: GroupToken, reason: string): void
  renewGroup(token: GroupToken, patience: number): Promise<void>
  progress(token: GroupToken): RankProgress[]
}

const compiled: Device = {
  createGroup: createCompiledGroup,
  openRank: openCompiledRank,
  abortGroup: abortCompiledGroup,
  renewGroup: renewCompiledGroup,
  progress: compiledProgress,
}

const devices: Readonly<Record<DeviceName, Device>> = {
  cpu: compiled,
  cuda: compiled,
  reference: {
    createGroup: createReferenceGroup,
    openRank: openReferenceRank,
    abortGroup: abortReferenceGroup,
    renewGroup: renewReferenceGroup,
    progress: referenceProgress,
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

/** Opens one rank in this thread. A rank is opened once between two renewals of its group. */
export function openRank(token: GroupToken, options: RankOptions): RankDevice {
  expectCount('rank', options.rank, 0, token.ranks - 1)
  expectCount('threads', options.threads, 1, most)
  if (options.cores && options.cores.length !== options.threads) {
    const message = `device: cores, expected one for each of ${options.threads} threads, got ${options.cores.length}`
    throw new DeviceError('DEVICE_USAGE', message)
  }
  return devices[token.device].openRank(token, options)
}

/** {@link DeviceGroup.abort} for any thread that holds the token. Does nothing once the group is closed. */
export const abortGroup = (token: GroupToken, reason: string): void => devices[token.device].abortGroup(token, reason)

/**
 * Once all its ranks have closed, or their workers have ended: gives the group a new communicator, and its ranks can be opened again.
 * A rank finds its memory as it was where the last one to have it closed it with a `kept`; other memory is given back.
 * Rejects with {@link DeviceError} where a rank is still open after `patience` milliseconds.
 */
export const renewGroup = (token: GroupToken, patience: number): Promise<void> =>
  devices[token.device].renewGroup(token, patience)

/** How far each rank of an open group is. From any thread. */
export const groupProgress = (token: GroupToken): RankProgress[] => devices[token.device].progress(token)

/** Bytes that the native arenas of all groups of this process have now, on the CPU and on GPUs; `io` and the reference device's are JavaScript's. */
export const mappedBytes = (): number => addon().addon?.mappedBytes() ?? 0

export { type Ceilings, machineCeilings } from './compiled.js'
export * from './cores.js'
export * from './device.js'
export { type Addon, addon, type GpuDevice, type GpuMachine, type Machine, machine } from './load.js'
