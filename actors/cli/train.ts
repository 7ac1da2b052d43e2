// `deeptroupe train`: its flags, and which of them go together. The run itself is loaded when it is asked for.
import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import type { Command } from 'commander'
import type { DeviceName } from '../../native/device.js'
import type { ModelFlags } from './model.js'
import { byteSize, integer, oneOf, option, pattern, usage, within } from './options.js'

export interface TrainFlags extends ModelFlags {
  readonly data?: readonly string[]
  readonly config?: string
  readonly ranks?: number
  readonly threads?: number
  readonly bind_cores_to_rank?: boolean
  readonly steps: number
  readonly seed?: number
  readonly device?: DeviceName
  readonly tf32?: boolean
  readonly checkpointActivations?: boolean
  readonly memoryLimit?: number
  readonly keepInFp32?: RegExp
  readonly save?: string
  readonly saveEvery?: number
  readonly keep?: number
  readonly save16bit?: string
  readonly resume?: string
  readonly evalData?: readonly string[]
  readonly evalEvery?: number
  readonly shuffle: boolean
  readonly dryRun?: boolean
  readonly profile?: string
  readonly restarts?: number
  readonly stallTimeout?: number
  readonly chaos?: string
  readonly tokenBytes?: 2 | 4
  readonly json?: boolean
}

export function addTrain(program: Command): void {
  program
    .command('train')
    .description('Train a model')
    .addOption(option('--model <name>', 'architecture of a new model', oneOf('gpt2')))
    .addOption(option('--layers <n>', 'blocks (4)', integer(1)))
    .addOption(option('--hidden <n>', 'hidden size (256)', integer(1)))
    .addOption(option('--heads <n>', 'attention heads (4)', integer(1)))
    .addOption(option('--vocab <n>', 'vocabulary (256: bytes)', integer(1)))
    .addOption(option('--seq <n>', 'tokens of a sample', integer(1)))
    .option('--init <folder>', 'start from a Hugging Face folder')
    .option('--data <path...>', 'text files or folders, .bin token streams, or .safetensors with input_ids')
    .option('--config <file>', 'DeepSpeed configuration (JSON)')
    .addOption(option('--ranks <n>', 'rank actors, each on a worker thread (1)', integer(1)))
    .addOption(option('--threads <n>', 'native threads of each rank on the CPU (the cores shared out)', integer(1)))
    .option('--bind_cores_to_rank', 'keep every native thread of every rank on a CPU of its own')
    .addOption(option('--steps <n>', 'optimizer steps in all, resumed ones included', integer(0), 100))
    .addOption(option('--seed <n>', 'seed of weights, dropout and the order of samples (1234)', integer(0)))
    .addOption(
      option(
        '--device <name>',
        'cpu, cuda (a GPU for each rank) or reference (cpu)',
        oneOf('cpu', 'cuda', 'reference'),
      ),
    )
    .option('--tf32', 'on cuda, products in fp32 with 10 bits of mantissa: faster, less exact')
    .addOption(option('--dropout <p>', 'dropout probability', within(0, 0.999)))
    .option('--checkpoint-activations', 'recompute activations in the backward')
    .addOption(
      option(
        '--memory-limit <size>',
        'recompute as much as fits all ranks, on GPUs each, into this, e.g. 3GiB',
        byteSize,
      ),
    )
    .addOption(option('--keep-in-fp32 <regex>', 'modules that stay in fp32 under bf16 or fp16, by path', pattern))
    .option('--save <folder>', 'write checkpoints there, at least one at the end')
    .addOption(option('--save-every <n>', 'steps between checkpoints', integer(1)))
    .addOption(option('--keep <n>', 'how many of the newest checkpoints stay (all)', integer(1)))
    .option(
      '--save-16bit <folder>',
      'at the end, write the weights there in the dtype of the run, as a Hugging Face folder',
    )
    .option('--resume <folder>', 'go on from a checkpoint, or from the newest in a folder of them')
    .option('--eval-data <path...>', 'data for evaluations')
    .addOption(option('--eval-every <n>', 'steps between evaluations (one at the end)', integer(1)))
    .option('--shuffle', 'seeded order of samples (default)', true)
    .option('--no-shuffle', 'samples in their own order')
    .option('--dry-run', 'print the plan of memory and programs, run nothing')
    .option('--profile <file>', 'write a Chrome trace of a few steps, by instruction')
    .addOption(option('--restarts <n>', 'failures to recover from (0)', integer(0)))
    .addOption(
      option('--stall-timeout <s>', 'seconds without progress after which a rank has failed (60)', within(0.1, 86_400)),
    )
    .option('--chaos <faults>', 'faults to suffer: kill:rank=1@step=20,stall:rank=0@step=7:2s,slow:rank=1:x3')
    .addOption(option('--token-bytes <n>', 'bytes of one id in .bin files: 2 or 4 (2)', oneOf(2, 4)))
    .option('--json', 'JSON lines on stdout')
    .action(async (flags: TrainFlags) => {
      const data = checkTogether(flags)
      const { train } = await import('./run.js')
      await train({ ...flags, data })
    })
}

/** Refuses flags that would do nothing, and places that cannot be written, before anything starts. Returns the data's paths. */
function checkTogether(flags: TrainFlags): readonly string[] {
  const { data, device, evalData, evalEvery, save, saveEvery, save16bit, keep, profile, tf32, tokenBytes } = flags
  if (!data) throw usage('--data', 'at least one file or folder', 'none')
  if (tf32 && device !== 'cuda') throw usage('--tf32', '--device cuda with it', device ?? 'no --device')
  if (evalEvery !== undefined && !evalData) throw usage('--eval-every', '--eval-data with it', 'none')
  if (saveEvery !== undefined && save === undefined) throw usage('--save-every', '--save with it', 'none')
  if (keep !== undefined && save === undefined) throw usage('--keep', '--save with it', 'none')
  const streams = [...data, ...(evalData ?? [])].some((path) => path.endsWith('.bin'))
  if (tokenBytes !== undefined && !streams) throw usage('--token-bytes', 'a .bin file in --data', data.join(', '))
  if (save !== undefined) expectFolder('--save', save)
  if (save16bit !== undefined) expectFolder('--save-16bit', save16bit)
  if (profile !== undefined) {
    if (existsSync(profile) && statSync(profile).isDirectory())
      throw usage('--profile', 'a file', `the folder ${profile}`)
    expectFolder('--profile', dirname(profile))
  }
  return data
}

/** A folder that is there and can be written, or that can be made. */
function expectFolder(flag: string, path: string): void {
  const whole = resolve(path)
  if (!existsSync(whole)) {
    expectFolder(flag, dirname(whole))
    return
  }
  if (!statSync(whole).isDirectory()) throw usage(flag, 'a folder', `the file ${path}`)
  try {
    accessSync(whole, constants.W_OK)
  } catch {
    throw usage(flag, 'a folder that can be written', `${path}, which cannot`)
  }
}
