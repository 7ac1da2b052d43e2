// PyTorch on the same shapes in the same run: `test/bench/peers/gpt2_gpu.py` and `attention_gpu.py`.
import type { PyTorch } from '../bench/peers.js'
import { fullBatch, type Shape, type ShapeName, sequence, shapes, type TrainMode, vocabulary } from './models.js'

/**
 * How PyTorch trains: `precision` autocast keeps fp32 parameters, bf16 has parameters and states in bf16 without masters; fp32 and tf32
 * have everything in fp32, products in full or with 10 bits of mantissa.
 */
export const peerModes = {
  compile: { compile: true, precision: 'autocast' },
  eager: { compile: false, precision: 'autocast' },
  'compile-bf16': { compile: true, precision: 'bf16' },
  'compile-fp32': { compile: true, precision: 'fp32' },
  'compile-tf32': { compile: true, precision: 'tf32' },
} as const
export type PeerMode = keyof typeof peerModes

/** What stands beside ours, by how ours trains. */
export const besides: Readonly<Record<TrainMode, readonly PeerMode[]>> = {
  bf16: ['compile', 'eager', 'compile-bf16'],
  stochastic: ['compile-bf16'],
  fp32: ['compile-fp32'],
  tf32: ['compile-tf32'],
}

export interface PeerFinding {
  readonly shape: ShapeName
  readonly mode: PeerMode
  readonly ranks: number
  readonly tokensPerSecond: number
  readonly ms: number
  /** `torch.cuda.max_memory_allocated`. */
  readonly peak: number
}

/** One of PyTorch's ways on one shape; a message where it fails. */
export async function runPeer(
  torch: PyTorch,
  shape: ShapeName,
  mode: PeerMode,
  ranks: number,
): Promise<PeerFinding | string> {
  if (torch.name === null) return torch.reason
  const { batch: whole, ...sizes }: Shape = shapes[shape]
  const batch = mode === 'compile-fp32' || mode === 'compile-tf32' ? fullBatch(whole) : whole
  const request = { ...sizes, batch, seq: sequence, vocab: vocabulary, warm: 5, steps: 10, ranks, ...peerModes[mode] }
  try {
    const { lines } = await torch.run('gpt2_gpu.py', request, 8)
    const { seconds, peak } = lines.at(-1) as { seconds: number; peak: number }
    return { shape, mode, ranks, ms: seconds * 1e3, tokensPerSecond: (batch * ranks * sequence) / seconds, peak }
  } catch (error) {
    return (error as Error).message.split('\n').slice(-3).join(' ')
  }
}

/** Milliseconds of scaled_dot_product_attention, by what our kernel's row is called. */
export interface AttentionPeer {
  readonly kernel: string
  readonly backend: string
  readonly ms: number
}

export async function attentionPeers(torch: PyTorch): Promise<AttentionPeer[] | string> {
  if (torch.name === null) return torch.reason
  try {
    return (await torch.run('attention_gpu.py', { tokens: 16384, width: 2048 }, 8)).lines as never
  } catch (error) {
    return (error as Error).message.split('\n').slice(-3).join(' ')
  }
}
