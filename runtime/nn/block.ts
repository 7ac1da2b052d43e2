// The pre-norm transformer block and its two halves. Property names are GPT-2's, so that weights of that family keep their names.
// Legend: B batch, T sequence, C hidden size.
import type { ActivationKind } from '../../kernels/ops/activation.js'
import { expectCount, expectProbability, ModelError } from './error.js'
import * as functional from './functional.js'
import { Dropout, LayerNorm, Linear, type LinearOptions } from './layers.js'
import { Module } from './module.js'
import type { Tensor } from './tensor.js'

export interface AttentionLayerOptions {
  /** Dropout of the attention weights; default 0. */
  readonly attentionDropout?: number
  /** Dropout of the output; default 0. */
  readonly dropout?: number
  /** Factor on scores; default 1 / sqrt(head size). */
  readonly scale?: number
  /** The packed projection to q, k and v. */
  readonly linear?: LinearOptions
  /** The projection back to the residual stream. */
  readonly projection?: LinearOptions
}

/** Causal self-attention with one packed projection to q, k and v: [B, T, C] to [B, T, C]. */
export class CausalSelfAttention extends Module {
  readonly c_attn: Linear
  readonly c_proj: Linear
  readonly resid_dropout: Dropout
  readonly #options: functional.AttentionOptions

  /** Throws {@link ModelError} where `hidden` is no multiple of `heads`. */
  constructor(hidden: number, heads: number, options: AttentionLayerOptions = {}) {
    super()
    const { attentionDropout = 0, dropout = 0, scale, linear, projection } = options
    expectCount('CausalSelfAttention', 'hidden', hidden)
    expectCount('CausalSelfAttention', 'heads', heads)
    expectProbability('CausalSelfAttention', 'attentionDropout', attentionDropout)
    if (hidden % heads !== 0) {
      throw new ModelError(`CausalSelfAttention: hidden size, expected a multiple of ${heads} heads, got ${hidden}`, {
        key: 'hidden',
      })
    }
    this.c_attn = new Linear(hidden, 3 * hidden, linear)
    this.c_proj = new Linear(hidden, hidden, projection ?? linear)
    this.resid_dropout = new Dropout(dropout)
    this.#options = { heads, causal: true, dropout: attentionDropout, ...(scale !== undefined && { scale }) }
  }

  override forward(x_BTC: Tensor): Tensor {
    const o_BTC = functional.attention(this.c_attn.forward(x_BTC), this.#options)
    return this.resid_dropout.forward(this.c_proj.forward(o_BTC))
  }
}

export interface MLPOptions {
  /** Default `gelu_tanh`. */
  readonly activation?: ActivationKind
  /** Dropout of the output; default 0. */
  readonly dropout?: number
  readonly linear?: LinearOptions
  /** The projection back to the residual stream. */
  readonly projection?: LinearOptions
}

/** Linear, activation, linear: [B, T, C] to [B, T, C] through `inner` features. */
export class MLP extends Module {
  readonly c_fc: Linear
  readonly c_proj: Linear
  readonly dropout: Dropout
  readonly #activation: ActivationKind

  constructor(hidden: number, inner: number, options: MLPOptions = {}) {
    super()
    const { activation = 'gelu_tanh', dropout = 0, linear, projection } = options
    this.c_fc = new Linear(hidden, inner, linear)
    this.c_proj = new Linear(inner, hidden, projection ?? linear)
    this.dropout = new Dropout(dropout)
    this.#activation = activation
  }

  override forward(x_BTC: Tensor): Tensor {
    const h = functional.activation(this.c_fc.forward(x_BTC), this.#activation)
    return this.dropout.forward(this.c_proj.forward(h))
  }
}

export interface BlockOptions extends AttentionLayerOptions, MLPOptions {
  /** Features within the MLP; default 4 * hidden. */
  readonly inner?: number
  /** Of the layer norms; default 1e-5. */
  readonly epsilon?: number
}

/** x + attention(norm(x)), then x + mlp(norm(x)): [B, T, C] to [B, T, C]. */
export class Block extends Module {
  readonly ln_1: LayerNorm
  readonly attn: CausalSelfAttention
  readonly ln_2: LayerNorm
  readonly mlp: MLP

  constructor(hidden: number, heads: number, options: BlockOptions = {}) {
    super()
    this.ln_1 = new LayerNorm(hidden, options.epsilon)
    this.attn = new CausalSelfAttention(hidden, heads, options)
    this.ln_2 = new LayerNorm(hidden, options.epsilon)
    this.mlp = new MLP(hidden, options.inner ?? 4 * hidden, options)
  }

  override forward(x_BTC: Tensor): Tensor {
    const h_BTC = x_BTC.add(this.attn.forward(this.ln_1.forward(x_BTC)))
    return h_BTC.add(this.mlp.forward(this.ln_2.forward(h_BTC)))
  }
}
