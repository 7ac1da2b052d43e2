// Trains a small GPT on a text, writes a little of its own, and says how far the loss fell.
// node dist/examples/train-gpt.js [FILE OR FOLDER]
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { byteTokenizer, generate, initialize, nn, openSource } from '../actors/index.js'

/** The project's own README. */
function ownReadme(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder)
  return join(folder, 'README.md')
}

const steps = 150
const path = process.argv[2] ?? ownReadme()

const model = new nn.GPT2({
  vocab_size: byteTokenizer.vocabSize,
  n_positions: 64,
  n_embd: 96,
  n_layer: 2,
  n_head: 4,
  resid_pdrop: 0,
  embd_pdrop: 0,
  attn_pdrop: 0,
})
const data = await openSource([path], { vocabulary: model.vocabSize, positions: model.maxPositions })

await using engine = await initialize({
  model,
  data,
  ranks: 2,
  seed: 1,
  config: {
    train_micro_batch_size_per_gpu: 8,
    gradient_clipping: 1,
    optimizer: { type: 'AdamW', params: { lr: 3e-3, weight_decay: 0.1 } },
    scheduler: { type: 'WarmupCosineLR', params: { total_num_steps: steps, warmup_num_steps: 10, cos_min_ratio: 0.1 } },
    zero_optimization: { stage: 2 },
  },
})

const first = await engine.trainBatch()
const last = await engine.train({ steps })
const text = await generate(engine, byteTokenizer, { prompt: 'The ', tokens: 120, temperature: 0.7, seed: 1 })
console.log(`The ${text}\n`)
const share = last!.loss / first.loss
console.log(
  `loss ${first.loss.toFixed(3)} -> ${last!.loss.toFixed(3)} in ${steps} steps: ${share.toFixed(2)} of the start`,
)
