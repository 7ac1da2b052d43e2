// What the device can do at the most, measured through its own programs: a large bf16 product, held for seconds so that power limits show,
// and a copy far larger than any cache.
import type { DeviceName } from '../../native/index.js'
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
