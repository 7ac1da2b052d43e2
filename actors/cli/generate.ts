// `deeptroupe generate`: text from a Hugging Face folder or a checkpoint.
import type { Command } from 'commander'
import type { DeviceName } from '../../native/index.js'
import { initialize } from '../engine/engine.js'
import { generate } from '../engine/generate.js'
import { openFolder, tokenizerOf } from './model.js'
import { integer, oneOf, within } from './options.js'

export interface GenerateFlags {
  readonly model: string
  readonly prompt: string
  readonly tokens: number
  readonly temperature: number
  readonly topK: number
  readonly topP: number
  readonly seed: number
  readonly device?: DeviceName
}

export function addGenerate(program: Command, action: (flags: GenerateFlags) => Promise<void>): void {
  program
    .command('generate')
    .description('Write text with a trained model')
    .requiredOption('--model <folder>', 'Hugging Face folder, checkpoint, or folder of checkpoints')
    .requiredOption('--prompt <text>', 'text to go on from')
    .option('--tokens <n>', 'new tokens', integer(0), 100)
    .option('--temperature <t>', '0: always the likeliest token', within(0, 100), 1)
    .option('--top-k <k>', 'draw from the k likeliest tokens (0: all)', integer(0), 0)
    .option('--top-p <p>', 'draw from the likeliest tokens of this probability together', within(0, 1), 1)
    .option('--seed <n>', 'seed of the draws', integer(0), 0)
    .option('--device <name>', 'cpu or reference', oneOf('cpu', 'reference'))
    .action(action)
}

export async function runGenerate(flags: GenerateFlags): Promise<void> {
  const chosen = openFolder(flags.model)
  const tokenizer = tokenizerOf(chosen)
  const { model, weights } = chosen
  await using engine = await initialize({ model, weights, ...(flags.device && { device: flags.device }) })
  const { prompt, tokens, temperature, topK, topP, seed } = flags
  const text = await generate(engine, tokenizer, { prompt, tokens, temperature, topK, topP, seed })
  process.stdout.write(`${prompt}${text}\n`)
  weights.close()
}
