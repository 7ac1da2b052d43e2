// The model that the flags of `train` and `generate` name.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { findCheckpoint, listCheckpoints, manifestName } from '../../runtime/checkpoint/manifest.js'
import { byteTokenizer, hasTokenizer, loadTokenizer, type Tokenizer } from '../../runtime/data/tokenizer.js'
import type { LanguageModel } from '../../runtime/nn/language-model.js'
import { GPT2 } from '../../runtime/nn/models/gpt2.js'
import { modelFromFolder, type Weights } from '../../runtime/nn/models/huggingface.js'
import { EngineError } from '../engine/errors.js'
import { usage } from './options.js'

export interface ModelFlags {
  readonly model?: 'gpt2'
  readonly layers?: number
  readonly hidden?: number
  readonly heads?: number
  readonly vocab?: number
  readonly seq?: number
  readonly init?: string
  readonly dropout?: number
}

export interface ChosenModel {
  readonly model: LanguageModel
  readonly weights?: Weights
  readonly tokenizer?: Tokenizer
  /** Text of tokenizer.json. */
  readonly tokenizerText?: string
}

const fresh = { layers: 4, hidden: 256, heads: 4, vocab: 256, seq: 256 }

/** A new model by the sizes given, or a folder's. `--resume` brings the architecture of its checkpoint where no size is given. */
export function chooseModel(flags: ModelFlags & { readonly resume?: string }): ChosenModel {
  const sizes = (['layers', 'hidden', 'heads', 'vocab'] as const).filter((name) => flags[name] !== undefined)
  if (flags.init !== undefined) {
    if (sizes.length > 0) {
      throw usage(`--${sizes[0]}`, 'no size together with --init', `${flags[sizes[0]!]}`)
    }
    return openFolder('--init', flags.init, flags.dropout)
  }
  if (flags.resume !== undefined && sizes.length === 0) {
    const { weights, ...chosen } = openFolder('--resume', findCheckpoint(flags.resume), flags.dropout)
    weights?.close()
    return chosen
  }
  const { layers, hidden, heads, vocab, seq } = { ...fresh, ...definedOf(flags) }
  if (hidden % heads !== 0) throw usage('--hidden', `a multiple of --heads (${heads})`, `${hidden}`)
  const dropout = flags.dropout ?? 0
  const model = new GPT2({
    n_layer: layers,
    n_embd: hidden,
    n_head: heads,
    vocab_size: vocab,
    n_positions: seq,
    resid_pdrop: dropout,
    embd_pdrop: dropout,
    attn_pdrop: dropout,
  })
  return { model }
}

const definedOf = (flags: ModelFlags): Partial<typeof fresh> =>
  Object.fromEntries(Object.entries(flags).filter(([name, value]) => name in fresh && value !== undefined))

/** A Hugging Face folder, or a checkpoint, which is one. */
export function openFolder(flag: string, path: string, dropout?: number): ChosenModel & { readonly weights: Weights } {
  const isModel = existsSync(join(path, manifestName)) || existsSync(join(path, 'config.json'))
  const folder = isModel ? path : listCheckpoints(path).at(-1)?.path
  if (folder === undefined) {
    const got = existsSync(path) ? `${path}, which holds none` : `${path}, which is not there`
    throw usage(flag, 'a Hugging Face folder, a checkpoint or a folder of checkpoints', got)
  }
  const opened = modelFromFolder(folder)
  const tokenizer = hasTokenizer(folder) ? loadTokenizer(folder) : undefined
  const model =
    dropout === undefined
      ? opened.model
      : new GPT2({ ...opened.model.config, resid_pdrop: dropout, embd_pdrop: dropout, attn_pdrop: dropout })
  return {
    model,
    weights: opened.weights,
    ...(tokenizer && { tokenizer, tokenizerText: readFileSync(join(folder, 'tokenizer.json'), 'utf8') }),
  }
}

/** The tokenizer that a model's text goes through: its own, or bytes. */
export function tokenizerOf({ model, tokenizer }: ChosenModel): Tokenizer {
  if (tokenizer) return tokenizer
  if (model.vocabSize >= byteTokenizer.vocabSize) return byteTokenizer
  throw new EngineError(
    'ENGINE_USAGE',
    `generate: tokenizer, expected tokenizer.json in the folder or a vocabulary of at least 256 for bytes, got a vocabulary of ${model.vocabSize}`,
  )
}
