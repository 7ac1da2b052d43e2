// GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019), with Hugging Face's configuration keys and
// parameter names, so that folders go in and out unchanged. Legend: B batch, T sequence, C hidden size, V vocabulary.
import type { ActivationKind } from '../../../kernels/ops/activation.js'
import { Block } from '../block.js'
import { expectCount, expectProbability, ModelError } from '../error.js'
import { arange, crossEntropy } from '../functional.js'
import type { LanguageModel, Reduction } from '../language-model.js'
import { Dropout, Embedding, LayerNorm, Linear } from '../layers.js'
import { Module } from '../module.js'
import type { Tensor } from '../tensor.js'

/** The keys of config.json that shape the model. */
export interface GPT2Config {
  readonly vocab_size: number
  readonly n_positions: number
  readonly n_embd: number
  readonly n_layer: number
  readonly n_head: number
  /** Features within the MLP; null: 4 * n_embd. */
  readonly n_inner: number | null
  readonly activation_function: string
  readonly layer_norm_epsilon: number
  readonly resid_pdrop: number
  readonly embd_pdrop: number
  readonly attn_pdrop: number
  readonly initializer_range: number
  readonly tie_word_embeddings: boolean
  readonly scale_attn_weights: boolean
}

/** GPT-2 small, 124M parameters: Hugging Face's defaults. */
const defaults: GPT2Config = {
  vocab_size: 50257,
  n_positions: 1024,
  n_embd: 768,
  n_layer: 12,
  n_head: 12,
  n_inner: null,
  activation_function: 'gelu_new',
  layer_norm_epsilon: 1e-5,
  resid_pdrop: 0.1,
  embd_pdrop: 0.1,
  attn_pdrop: 0.1,
  initializer_range: 0.02,
  tie_word_embeddings: true,
  scale_attn_weights: true,
}

/** Keys that change the mathematics in a way that is not built, with the value at which they do nothing. */
const neutral: Readonly<Record<string, unknown>> = {
  scale_attn_by_inverse_layer_idx: false,
  reorder_and_upcast_attn: false,
  add_cross_attention: false,
  is_encoder_decoder: false,
}

/** Hugging Face's names of activations. */
const activations: Readonly<Record<string, ActivationKind>> = {
  gelu_new: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  gelu_fast: 'gelu_tanh',
  gelu: 'gelu_erf',
  relu: 'relu',
  silu: 'silu',
  swish: 'silu',
  tanh: 'tanh',
}

/** The whole configuration. Keys that do not shape the model (token ids, task parameters) are kept. Throws {@link ModelError}. */
function resolve(given: Readonly<Record<string, unknown>>): GPT2Config {
  const config = { ...given } as { -readonly [K in keyof GPT2Config]: GPT2Config[K] }
  for (const [key, value] of Object.entries(defaults)) {
    if (given[key] === undefined) Object.assign(config, { [key]: value })
  }
  const fail = (key: string, expected: string, got: unknown): never => {
    throw new ModelError(`GPT2: ${key}, expected ${expected}, got ${JSON.stringify(got)}`, { key })
  }
  for (const [key, value] of Object.entries(neutral)) {
    if (given[key] !== undefined && given[key] !== value) fail(key, `${value} (others are not supported)`, given[key])
  }
  for (const key of ['vocab_size', 'n_positions', 'n_embd', 'n_layer', 'n_head'] as const)
    expectCount('GPT2', key, config[key])
  if (config.n_inner !== null) expectCount('GPT2', 'n_inner', config.n_inner)
  for (const key of ['resid_pdrop', 'embd_pdrop', 'attn_pdrop'] as const) expectProbability('GPT2', key, config[key])
  for (const key of ['layer_norm_epsilon', 'initializer_range'] as const) {
    if (typeof config[key] !== 'number' || !(config[key] >= 0)) fail(key, 'a number of at least 0', config[key])
  }
  for (const key of ['tie_word_embeddings', 'scale_attn_weights'] as const) {
    if (typeof config[key] !== 'boolean') fail(key, 'true or false', config[key])
  }
  if (!Object.hasOwn(activations, config.activation_function)) {
    fail('activation_function', `one of ${Object.keys(activations).join(', ')}`, config.activation_function)
  }
  if (config.n_embd % config.n_head !== 0) fail('n_embd', `a multiple of n_head (${config.n_head})`, config.n_embd)
  return config
}

/** Everything but the head. */
class Transformer extends Module {
  readonly wte: Embedding
  readonly wpe: Embedding
  readonly drop: Dropout
  readonly h: readonly Block[]
  readonly ln_f: LayerNorm

  constructor(config: GPT2Config) {
    super()
    const { n_embd, n_head, n_inner, n_layer, layer_norm_epsilon: epsilon, initializer_range: std } = config
    this.wte = new Embedding(config.vocab_size, n_embd, { std })
    this.wpe = new Embedding(config.n_positions, n_embd, { std })
    this.drop = new Dropout(config.embd_pdrop)
    const block = {
      epsilon,
      inner: n_inner ?? 4 * n_embd,
      activation: activations[config.activation_function]!,
      dropout: config.resid_pdrop,
      attentionDropout: config.attn_pdrop,
      ...(!config.scale_attn_weights && { scale: 1 }),
      linear: { transposed: true, std },
      projection: { transposed: true, std: std / Math.sqrt(2 * n_layer) },
    }
    this.h = Array.from({ length: n_layer }, () => new Block(n_embd, n_head, block))
    this.ln_f = new LayerNorm(n_embd, epsilon)
  }

  override forward(ids_BT: Tensor): Tensor {
    const tokens_BTC = this.wte.forward(ids_BT)
    const positions_TC = this.wpe.forward(arange(ids_BT.shape[1]!))
    let x_BTC = this.drop.forward(tokens_BTC.add(positions_TC))
    for (const block of this.h) x_BTC = block.forward(x_BTC)
    return this.ln_f.forward(x_BTC)
  }
}

/** GPT-2 with its language-model head. Weights start normal (0.02), residual projections at 0.02 / sqrt(2 layers). */
export class GPT2 extends Module implements LanguageModel {
  readonly config: GPT2Config & Readonly<Record<string, unknown>>
  readonly transformer: Transformer
  readonly lm_head: Linear

  /** @throws ModelError for sizes that do not fit and for keys that ask for what is not built. */
  constructor(config: Partial<GPT2Config> & Readonly<Record<string, unknown>> = {}) {
    super()
    const resolved = resolve(config)
    this.config = { ...resolved, model_type: 'gpt2', architectures: ['GPT2LMHeadModel'] }
    this.transformer = new Transformer(resolved)
    this.lm_head = new Linear(resolved.n_embd, resolved.vocab_size, {
      bias: false,
      std: resolved.initializer_range,
      ...(resolved.tie_word_embeddings && { weight: this.transformer.wte.weight }),
    })
  }

  get vocabSize(): number {
    return this.config.vocab_size
  }

  get maxPositions(): number {
    return this.config.n_positions
  }

  override forward(ids_BT: Tensor): Tensor {
    const [, length] = ids_BT.shape
    if (ids_BT.shape.length !== 2 || length! > this.maxPositions) {
      const expected = `[batch, sequence of at most ${this.maxPositions} (n_positions)]`
      throw new ModelError(`GPT2: shape of ids, expected ${expected}, got [${ids_BT.shape.join(', ')}]`)
    }
    return this.lm_head.forward(this.transformer.forward(ids_BT))
  }

  loss(ids_BT: Tensor, targets_BT: Tensor, reduction: Reduction = 'mean'): Tensor {
    return crossEntropy(this.forward(ids_BT), targets_BT, reduction === 'sum' ? { scale: 1 } : {})
  }
}
