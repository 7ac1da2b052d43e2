// DeepSpeed's speed on a GPU as it was measured once, for machines that do not have it: DeepSpeed 0.14.5 with PyTorch 2.11 (CUDA 13.0) on
// NVIDIA H200s (driver 580.159, NVLink between two), 2026-11-22: bf16 with fp32 masters, AdamW, clipping, dropout 0, 1,024 tokens, the
// shapes of models.ts. It is scaled by PyTorch's compiled step (under DDP where there are two GPUs) now to that day's.
import type { ShapeName } from './models.js'
import type { PeerFinding } from './peers.js'

interface Measured {
  /** Tokens/s of PyTorch's compiled step on so many GPUs; null: not measured. */
  readonly compile: number | null
  /** Tokens/s by ZeRO stage; under ZeRO-2 with the optimizer on 16 cores of the host. */
  readonly stages: Readonly<Partial<Record<number | 'offload', number>>>
}

const measured: Readonly<Partial<Record<ShapeName, readonly [one: Measured, two: Measured]>>> = {
  d12: [
    { compile: 521_365, stages: { 1: 368_829 } },
    { compile: null, stages: {} },
  ],
  d24: [
    { compile: 196_005, stages: { 1: 156_257, 2: 152_624, 3: 115_284, offload: 79_923 } },
    { compile: 371_949, stages: { 1: 311_921, 2: 315_951, 3: 239_081 } },
  ],
  d48: [
    { compile: 47_036, stages: { 3: 28_753 } },
    { compile: null, stages: { 3: 59_292 } },
  ],
}

export const deepSpeedName = 'DeepSpeed 0.14.5, scaled'

/** DeepSpeed's tokens/s as they would be where PyTorch is as fast as in this run; null: not measured, or PyTorch is not in this run. */
export function scaledDeepSpeed(
  shape: ShapeName,
  ranks: number,
  stage: number | 'offload',
  peers: readonly PeerFinding[],
): number | null {
  const then = measured[shape]
  const speed = then?.[ranks - 1]?.stages[stage]
  if (!then || speed === undefined) return null
  // Two GPUs by two where that was measured, else by one.
  for (const count of [ranks, 1]) {
    const compile = then[count - 1]?.compile
    const now = peers.find((peer) => peer.shape === shape && peer.mode === 'compile' && peer.ranks === count)
    if (compile && now) return (speed * now.tokensPerSecond) / compile
  }
  return null
}
