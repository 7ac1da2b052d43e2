// What the device can do at the most, measured through its own programs: a large bf16 product, held for seconds so that power limits show,
// and a copy far larger than any cache. And what an optimizer on the host has: memory there, and copies between the two.
import { availableParallelism } from 'node:os'
import { type ArenaName, arenaNames, encodeProgram } from '../../kernels/abi/program.js'
import {
  type ArenaSizes,
  createGroup,
  type DeviceName,
  machine,
  machineCeilings,
  openRank,
} from '../../native/index.js'
import { timeOps } from '../bench/single-op.js'
import type { Tell } from './work.js'

export interface CeilingsRequest {
  readonly device: DeviceName
  /** Edge of the square product, and MiB of the copied tensor. */
  readonly edge: number
  readonly mebibytes: number
  /** Seconds that the product is held. */
  readonly seconds: number
}

export interface HostRequest {
  readonly device: DeviceName
  /** Of each copy. */
  readonly mebibytes: number
}

export interface Ceilings {
  /** In a burst, and at the end of `seconds` of nothing else. */
  readonly burstTeraflops: number
  readonly heldTeraflops: number
  /** Read and written together. */
  readonly copyTerabytes: number
}

export async function ceilings({ device, edge, mebibytes, seconds }: CeilingsRequest, tell: Tell): Promise<void> {
  const square = { shape: [edge, edge], dtype: 'bf16' } as const
  const attributes = { transposed: 0 }
  const product = {
    tensors: { x: square, w: square },
    ops: Array.from({ length: 10 }, (_, i) => ({
      op: 'linear',
      inputs: ['x', 'w'],
      outputs: [`y${i % 2}`],
      attributes,
    })),
    scalars: {},
  }
  const flops = 2 * edge ** 3
  const rate = (runs: readonly number[][]): number =>
    (flops * runs.flat().length) / runs.flat().reduce((a, b) => a + b, 0) / 1e12
  const burst = await timeOps(product, { device, repetitions: 2 })
  const once = burst.at(-1)!.reduce((a, b) => a + b, 0)
  const held = await timeOps(product, { device, repetitions: Math.max(3, Math.ceil(seconds / once)) })
  const bytes = mebibytes * 2 ** 20
  const copied = await timeOps(
    {
      tensors: { x: { shape: [bytes / 4], dtype: 'f32' } },
      ops: [{ op: 'copy', inputs: ['x'], outputs: ['y'], attributes: {} }],
      scalars: {},
    },
    { device, repetitions: 10 },
  )
  tell({
    burstTeraflops: rate(burst),
    heldTeraflops: rate(held.slice(-Math.max(1, Math.floor(held.length / 4)))),
    copyTerabytes: (2 * bytes) / Math.min(...copied.map(([time]) => time!)) / 1e12,
  } satisfies Ceilings)
}

export interface HostRates {
  readonly cores: number
  /** Through the host's memory on all cores, two thirds read and one third written; to the host and to the device; in GB/s. */
  readonly memory: number
  readonly down: number
  readonly up: number
}

export async function hostRates({ device, mebibytes }: HostRequest, tell: Tell): Promise<void> {
  const bytes = mebibytes * 2 ** 20
  const arenas = Object.fromEntries(
    arenaNames.map((name) => [name, ['activations', 'optimizer'].includes(name) ? bytes : name === 'io' ? 64 : 0]),
  ) as ArenaSizes
  const shape = [bytes / 4]
  const tensors = (['activations', 'optimizer'] as const).map((arena: ArenaName) => ({
    arena,
    byteOffset: 0,
    dtype: 'f32' as const,
    shape,
  }))
  const debug = { phase: 'forward', flops: 0, bytes: 2 * bytes }
  const copy = { op: 'copy', attributes: {}, scalars: [], workspace: null, debug }
  const [down, up] = [
    { ...copy, inputs: [0], outputs: [1] },
    { ...copy, inputs: [1], outputs: [0] },
  ]
  const program = encodeProgram({
    name: 'copies',
    ranks: 1,
    scalars: [],
    tensors,
    instructions: [down, up, down, up, down, up],
    bindings: {},
    arenas,
  })
  const group = createGroup({ device, ranks: 1, arenas, hostArenas: ['optimizer'] })
  const cores = availableParallelism()
  const rank = openRank(group.token, { rank: 0, threads: cores })
  try {
    for (const name of arenaNames) if (name !== 'io') rank.allocate(name)
    const { seconds } = await rank.run(rank.load(program), new Float64Array(0), { profile: true })
    const fastest = (first: number): number =>
      Math.min(...[0, 2, 4].map((i) => seconds![2 * (first + i) + 1]! - seconds![2 * (first + i)]!))
    const memory = machineCeilings(machine().best!, cores)!.bytes / 1e9
    tell({ cores, memory, down: bytes / fastest(0) / 1e9, up: bytes / fastest(1) / 1e9 } satisfies HostRates)
  } finally {
    await rank.close()
    await group.close()
  }
}
