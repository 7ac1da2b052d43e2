// The GPT-2 shapes that are timed, T = 1024, dropout 0, vocabulary 50304.
import { GPT2 } from '../../runtime/nn/models/gpt2.js'

export interface Shape {
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  /** Rows of a GPU's batch. */
  readonly batch: number
}

export const sequence = 1024
export const vocabulary = 50304

export const shapes = {
  d12: { layers: 12, hidden: 768, heads: 12, batch: 64 },
  d24: { layers: 24, hidden: 1024, heads: 16, batch: 32 },
  d48: { layers: 48, hidden: 1600, heads: 25, batch: 16 },
  /** For a look at the suite itself. */
  tiny: { layers: 2, hidden: 128, heads: 2, batch: 2 },
} satisfies Record<string, Shape>

export type ShapeName = keyof typeof shapes

/**
 * How ours trains: in bf16 with fp32 masters or, rounding stochastically, without; in fp32, its products in full or with 10 bits of
 * mantissa.
 */
export type TrainMode = 'bf16' | 'stochastic' | 'fp32' | 'tf32'

/** Rows of a batch in fp32: attention then runs without tensor cores, many times slower. */
export const fullBatch = (batch: number): number => Math.max(1, batch >> 3)

export const modelOf = ({ layers, hidden, heads }: Shape, seq = sequence, vocab = vocabulary): GPT2 =>
  new GPT2({
    n_layer: layers,
    n_embd: hidden,
    n_head: heads,
    n_positions: seq,
    vocab_size: vocab,
    resid_pdrop: 0,
    embd_pdrop: 0,
    attn_pdrop: 0,
  })

/** Floating-point operations of a token, as PaLM counts them (arXiv 2204.02311, appendix B), no half for the causal mask. */
export const flopsPerToken = ({ layers, hidden }: Shape): number =>
  6 * (12 * layers * hidden ** 2 + vocabulary * hidden) + 12 * layers * hidden * sequence
