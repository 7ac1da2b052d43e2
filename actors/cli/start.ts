// `npm start`: the quick start. Trains a small GPT on real text under ZeRO-2 with two ranks, shows it, saves it, lets it write.
import { existsSync } from 'node:fs'
import { join, relative } from 'node:path'
import { machine } from '../../native/index.js'
import { projectRoot } from '../../native/paths.js'
import { openSource } from '../../runtime/data/open.js'
import { byteTokenizer } from '../../runtime/data/tokenizer.js'
import { GPT2 } from '../../runtime/nn/models/gpt2.js'
import { countParameters } from '../../runtime/nn/module.js'
import { formatBytes, formatCount, formatLoss, lossChart, Progress } from '../../runtime/observe/index.js'
import { initialize } from '../engine/engine.js'
import { generate } from '../engine/generate.js'
import { interruptible } from './interrupt.js'

export interface StartFlags {
  readonly data?: readonly string[]
}

const folder = join('checkpoints', 'start')

/** Sized for two cores and about a minute and a half; without the addon, for the reference backend. */
const sizes = {
  cpu: { layers: 4, hidden: 192, heads: 6, sequence: 128, micro: 8, steps: 800 },
  reference: { layers: 1, hidden: 32, heads: 2, sequence: 32, micro: 4, steps: 150 },
}

/** Training ends after this long on a machine that is slower than expected. */
const limitSeconds = 165

export async function start(flags: StartFlags): Promise<void> {
  const write = (text: string): void => void process.stdout.write(text)
  const { best, reason } = machine()
  const size = sizes[best ? 'cpu' : 'reference']
  if (!best) write(`${reason}\nUntil then a smaller model is trained with the reference backend, in TypeScript.\n`)
  const own = ['README.md', 'kernels', 'native', 'runtime', 'transports', 'actors', 'examples', 'test'].map((path) =>
    join(projectRoot, path),
  )
  const paths = flags.data ?? own.filter(existsSync)
  const model = new GPT2({
    vocab_size: byteTokenizer.vocabSize,
    n_positions: size.sequence,
    n_embd: size.hidden,
    n_layer: size.layers,
    n_head: size.heads,
    resid_pdrop: 0,
    embd_pdrop: 0,
    attn_pdrop: 0,
  })
  const data = await openSource(paths, { vocabulary: model.vocabSize, positions: model.maxPositions })
  const interrupt = interruptible()
  const { signal } = interrupt
  const { steps } = size
  await using engine = await initialize({
    model,
    data,
    ranks: 2,
    seed: 1,
    config: {
      train_micro_batch_size_per_gpu: size.micro,
      optimizer: { type: 'AdamW', params: { lr: 2e-3, betas: [0.9, 0.95], weight_decay: 0.1 } },
      scheduler: {
        type: 'WarmupCosineLR',
        params: {
          total_num_steps: steps,
          warmup_num_steps: 20,
          warmup_min_ratio: 0.1,
          warmup_type: 'linear',
          cos_min_ratio: 0.1,
        },
      },
      zero_optimization: { stage: 2 },
    },
  })
  const { config, device, isa } = engine.prepared
  write(
    `GPT-2 with ${formatCount(countParameters(model))} parameters on ${formatBytes(data.samples * data.seq)} of text (${paths.map((path) => relative(process.cwd(), path) || '.').join(', ')})\n` +
      `2 rank actors on worker threads, ZeRO stage ${config.zero.stage}, ${device}${isa ? ` (${isa})` : ''}, ${config.batch.train} x ${size.sequence} tokens a step\n`,
  )
  const losses: number[] = []
  const progress = new Progress(process.stdout, { steps })
  engine.events$.subscribe((event) => {
    if (event.type !== 'step') return
    losses.push(event.loss)
    progress.step(event)
  })
  const began = performance.now()
  await engine.train({ steps, signal: AbortSignal.any([signal, AbortSignal.timeout(limitSeconds * 1000)]) })
  progress.end()
  const seconds = (performance.now() - began) / 1000
  if (engine.step < steps && !signal.aborted) write(`stopped after ${limitSeconds} s, at step ${engine.step}\n`)
  if (losses.length > 1) write(`${lossChart(losses)}\n`)
  const path = await engine.save(folder)
  write(
    `loss ${formatLoss(losses[0] ?? Number.NaN)} -> ${formatLoss(losses.at(-1) ?? Number.NaN)} in ${seconds.toFixed(0)} s; checkpoint ${path}\n`,
  )
  if (!signal.aborted) {
    const prompt = 'import { '
    const text = await generate(engine, byteTokenizer, { prompt, tokens: 400, temperature: 0.7, topK: 40, seed: 1 })
    write(`\nThe model writes:\n\n${prompt}${text}\n\n`)
    write(`More: npx deeptroupe generate --model ${folder} --prompt 'export const ' --tokens 200\n`)
  }
  interrupt.dispose()
  process.exitCode = interrupt.exitCode() ?? 0
}
