// Text from a model, a token at a time, the whole window computed anew for each.
import type { Tokenizer } from '../../runtime/data/tokenizer.js'
import { type SamplingOptions, sampleToken, uniform } from '../../runtime/nn/sample.js'
import type { Engine } from './engine.js'

export interface GenerateOptions extends SamplingOptions {
  readonly prompt: string
  /** New tokens. */
  readonly tokens: number
  readonly seed?: number
  readonly signal?: AbortSignal
}

/** The prompt's continuation, without the prompt. An empty prompt starts from token 0. */
export async function generate(engine: Engine, tokenizer: Tokenizer, options: GenerateOptions): Promise<string> {
  const { sequence, options: prepared } = engine.prepared
  const { vocabSize } = prepared.model
  const random = uniform(options.seed ?? 0)
  const start = tokenizer.encode(options.prompt)
  const ids = start.length > 0 ? [...start] : [0]
  for (let i = 0; i < options.tokens && !options.signal?.aborted; i++) {
    const window = ids.slice(-sequence)
    const logits = await engine.forward(window)
    ids.push(sampleToken(logits.subarray((window.length - 1) * vocabSize), options, random))
  }
  return tokenizer.decode(ids.slice(Math.max(1, start.length)))
}
