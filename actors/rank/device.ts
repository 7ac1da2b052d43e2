// The devices that are open on this worker, so that a rank and its optimizer shard share one.
import type { ArenaName } from '../../kernels/abi/program.js'
import type { GroupToken, RankDevice } from '../../native/device.js'

/** A stretch of an arena. */
export interface Region {
  readonly byteOffset: number
  readonly bytes: number
}

const open = new Map<string, RankDevice>()
const keyOf = (token: GroupToken, rank: number): string => `${token.device} ${token.id} ${rank}`

export function shareDevice(token: GroupToken, rank: number, device: RankDevice): void {
  open.set(keyOf(token, rank), device)
}

export function forgetDevice(token: GroupToken, rank: number): void {
  open.delete(keyOf(token, rank))
}

/** The device that the rank opened on this worker. */
export function sharedDevice(token: GroupToken, rank: number): RankDevice {
  const device = open.get(keyOf(token, rank))
  if (!device) throw new Error(`optimizer shard: device of rank ${rank}, expected one open on this worker, got none`)
  return device
}

/** Copies the regions' bytes end to end into `target`. */
export function readRegions(
  device: RankDevice,
  arena: ArenaName,
  regions: readonly Region[],
  target: Uint8Array,
): void {
  let at = 0
  for (const region of regions) {
    device.read(arena, region.byteOffset, target.subarray(at, at + region.bytes))
    at += region.bytes
  }
}

export function writeRegions(
  device: RankDevice,
  arena: ArenaName,
  regions: readonly Region[],
  bytes: Uint8Array,
): void {
  let at = 0
  for (const region of regions) {
    device.write(arena, region.byteOffset, bytes.subarray(at, at + region.bytes))
    at += region.bytes
  }
}
