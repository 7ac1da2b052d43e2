// `deeptroupe generate`: text from a Hugging Face folder or a checkpoint.
import type { Command } from 'commander'
import type { DeviceName } from '../../native/device.js'
import { integer, oneOf, option, usage, within } from './options.js'

interface GenerateFlags {
  readonly model?: string
  readonly prompt?: string
  readonly tokens: number
  readonly temperature: number
  readonly topK: number
  readonly topP: number
  readonly seed: number
  readonly device?: DeviceName
}

export function addGenerate(program: Command): void {
  program
    .command('generate')
    .description('Write text with a trained model')
    .option('--model <folder>', 'Hugging Face folder, checkpoint, or folder of checkpoints')
    .option('--prompt <text>', 'text to go on from')
    .addOption(option('--tokens <n>', 'new tokens', integer(0), 100))
    .addOption(option('--temperature <t>', '0: always the likeliest token', within(0, 100), 1))
    .addOption(option('--top-k <k>', 'draw from the k likeliest tokens (0: all)', integer(0), 0))
    .addOption(option('--top-p <p>', 'draw from the likeliest tokens of this probability together', within(0, 1), 1))
    .addOption(option('--seed <n>', 'seed of the draws', integer(0), 0))
    .addOption(option('--device <name>', 'cpu, cuda or reference (cpu)', oneOf('cpu', 'cuda', 'reference')))
    .action(run)
}

async function run(flags: GenerateFlags): Promise<void> {
  if (flags.model === undefined) throw usage('--model', 'a folder', 'none')
  if (flags.prompt === undefined) throw usage('--prompt', 'text', 'none')
  const { openFolder, tokenizerOf } = await import('./model.js')
  const { initialize } = await import('../engine/engine.js')
  const { generate } = await import('../engine/generate.js')
  const { prompt, tokens, temperature, topK, topP, seed } = flags
  const chosen = openFolder('--model', flags.model)
  const tokenizer = tokenizerOf(chosen)
  const { model, weights } = chosen
  const sequence = Math.min(model.maxPositions, Math.max(1, tokenizer.encode(prompt).length) + tokens)
  await using engine = await initialize({ model, weights, sequence, ...(flags.device && { device: flags.device }) })
  for (const notice of engine.prepared.notices) process.stderr.write(`${notice}\n`)
  const text = await generate(engine, tokenizer, { prompt, tokens, temperature, topK, topP, seed })
  process.stdout.write(`${prompt}${text}\n`)
  weights.close()
}
