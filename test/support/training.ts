// Small training runs for tests: weights and tokens by integer formulas (the same in the Python that computed figures), short runs
// that return what the bit rules speak of, and folders that vanish with the test.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Engine, initialize } from '../../actors/engine/engine.js'
import type { InitializeOptions } from '../../actors/engine/prepare.js'
import { elements } from '../../kernels/ops/definition.js'
import type { DeepSpeedConfig } from '../../runtime/config/index.js'
import { TokenSource } from '../../runtime/data/source.js'
import type { LanguageModel } from '../../runtime/nn/language-model.js'
import { GPT2 } from '../../runtime/nn/models/gpt2.js'
import { modelFromFolder, type Weights, writeModelFolder } from '../../runtime/nn/models/huggingface.js'
import { namedParameters } from '../../runtime/nn/module.js'

export interface ModelSizes {
  readonly layers?: number
  readonly hidden?: number
  readonly heads?: number
  readonly seq?: number
  readonly vocab?: number
  readonly dropout?: number
}

/** The small model of the accuracy promises: 3 x 96, 3 heads, sequence 64, vocabulary 256. */
export function smallModel({
  layers = 3,
  hidden = 96,
  heads = 3,
  seq = 64,
  vocab = 256,
  dropout = 0,
}: ModelSizes = {}): GPT2 {
  return new GPT2({
    n_layer: layers,
    n_embd: hidden,
    n_head: heads,
    n_positions: seq,
    vocab_size: vocab,
    resid_pdrop: dropout,
    embd_pdrop: dropout,
    attn_pdrop: dropout,
  })
}

/** A model of a few thousand parameters, with widths that no vector divides. */
export const tinyModel = (sizes: ModelSizes = {}): GPT2 =>
  smallModel({ layers: 2, hidden: 36, heads: 3, seq: 20, vocab: 61, ...sizes })

/** A number from 0 to below 1 for two integers, by 32-bit arithmetic. */
export function hashed(i: number, p: number): number {
  let h = (Math.imul(i + 1, 0x9e3779b1) + Math.imul(p, 0x85ebca6b)) >>> 0
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d) >>> 0
  return ((h ^ (h >>> 15)) >>> 0) / 2 ** 32
}

/** Element i of parameter p is 0.08 (hashed(i, p) - 0.5), plus 1 in the weights of layer norms. */
export function hashedWeights(model: LanguageModel): Map<string, Float32Array> {
  return new Map(
    namedParameters(model).map(({ name, parameter }, p) => {
      const base = /ln_\w+\.weight$/.test(name) ? 1 : 0
      return [
        name,
        Float32Array.from({ length: elements(parameter.shape) }, (_, i) => base + 0.08 * (hashed(i, p) - 0.5)),
      ]
    }),
  )
}

/** Token j of the stream: (7 j^2 + 3 j + floor(j / 5)) mod vocabulary. */
export const tokenAt = (j: number, vocabulary: number): number => (7 * j * j + 3 * j + Math.floor(j / 5)) % vocabulary

/** A stream of {@link tokenAt}, cut into `samples` samples. */
export function formulaSource(samples: number, seq: number, vocabulary: number): TokenSource {
  const tokens = new Uint16Array(new SharedArrayBuffer(2 * (samples * seq + 1)))
  for (let j = 0; j < tokens.length; j++) tokens[j] = tokenAt(j, vocabulary)
  return new TokenSource({ name: 'formula', tokens, samples, seq, stride: seq, vocabulary })
}

/** The stream that goes with a model, `samples` long. */
export const sourceFor = (model: LanguageModel, samples = 50): TokenSource =>
  formulaSource(samples, model.maxPositions, model.vocabSize)

/** A folder that exists while `body` runs. */
export async function withFolder<T>(body: (folder: string) => T | Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'deeptroupe-test-'))
  try {
    return await body(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A Hugging Face folder of {@link hashedWeights}. */
export function writeHashedFolder(folder: string, model: LanguageModel): void {
  const weights = hashedWeights(model)
  writeModelFolder(folder, model, (name) => weights.get(name)!)
}

/** {@link hashedWeights} by way of a folder, for `initialize`. */
export function withHashedWeights<T>(model: LanguageModel, body: (weights: Weights) => Promise<T>): Promise<T> {
  return withFolder(async (folder) => {
    writeHashedFolder(folder, model)
    const { weights } = modelFromFolder(folder)
    try {
      return await body(weights)
    } finally {
      weights.close()
    }
  })
}

/** A configuration of a test: AdamW with decay, clipping that acts. */
export function trainConfig(batch: { train: number; micro: number }, more: DeepSpeedConfig = {}): DeepSpeedConfig {
  return {
    train_batch_size: batch.train,
    train_micro_batch_size_per_gpu: batch.micro,
    optimizer: { type: 'AdamW', params: { lr: 1e-3, weight_decay: 0.1 } },
    gradient_clipping: 1,
    ...more,
  }
}

/** What must be equal to the bit, step by step. */
export interface Curve {
  readonly losses: number[]
  readonly norms: number[]
}

/** Trains up to `steps` and returns the curve of the steps done. */
export async function curveOf(engine: Engine, steps: number): Promise<Curve> {
  const curve: Curve = { losses: [], norms: [] }
  const subscription = engine.events$.subscribe((event) => {
    if (event.type !== 'step') return
    curve.losses.push(event.loss)
    curve.norms.push(event.grad_norm)
  })
  await engine.train({ steps })
  subscription.unsubscribe()
  return curve
}

/** A run from start to end. */
export async function curve(options: InitializeOptions, steps: number): Promise<Curve> {
  await using engine = await initialize(options)
  return await curveOf(engine, steps)
}

/** The largest relative difference of two rows of numbers. */
export function relativeDifference(a: readonly number[], b: readonly number[]): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  return Math.max(0, ...a.map((value, i) => Math.abs(value - b[i]!) / Math.abs(b[i]!)))
}
