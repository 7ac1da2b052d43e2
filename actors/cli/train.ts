// `deeptroupe train`: flags in, a run, lines out. With --json stdout carries JSON lines only.
import { writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import type { DeviceName } from '../../native/index.js'
import { openSource } from '../../runtime/data/open.js'
import {
  chromeTrace,
  eventLine,
  formatLoss,
  lossChart,
  Progress,
  type TrainEvent,
} from '../../runtime/observe/index.js'
import { type Engine, initialize } from '../engine/engine.js'
import { type InitializeOptions, prepare } from '../engine/prepare.js'
import { chooseModel, type ModelFlags } from './model.js'
import { integer, oneOf, within } from './options.js'
import { planReport, planText } from './plan.js'
import { profileTable } from './profile.js'

export interface TrainFlags extends ModelFlags {
  readonly data: readonly string[]
  readonly config?: string
  readonly ranks?: number
  readonly threads?: number
  readonly steps: number
  readonly seed?: number
  readonly device?: DeviceName
  readonly checkpointActivations?: boolean
  readonly save?: string
  readonly saveEvery?: number
  readonly keep?: number
  readonly resume?: string
  readonly evalData?: readonly string[]
  readonly evalEvery?: number
  readonly shuffle: boolean
  readonly dryRun?: boolean
  readonly profile?: string
  readonly restarts?: number
  readonly tokenBytes?: 2 | 4
  readonly json?: boolean
}

export function addTrain(program: Command, action: (flags: TrainFlags) => Promise<void>): void {
  program
    .command('train')
    .description('Train a model')
    .option('--model <name>', 'architecture of a new model', oneOf('gpt2'))
    .option('--layers <n>', 'blocks (4)', integer(1))
    .option('--hidden <n>', 'hidden size (256)', integer(1))
    .option('--heads <n>', 'attention heads (4)', integer(1))
    .option('--vocab <n>', 'vocabulary (256: bytes)', integer(1))
    .option('--seq <n>', 'tokens of a sample', integer(1))
    .option('--init <folder>', 'start from a Hugging Face folder')
    .requiredOption('--data <path...>', 'text files or folders, .bin token streams, or .safetensors with input_ids')
    .option('--config <file>', 'DeepSpeed configuration (JSON)')
    .option('--ranks <n>', 'rank actors, each on a worker thread (1)', integer(1))
    .option('--threads <n>', 'native threads of each rank (the cores shared out)', integer(1))
    .option('--steps <n>', 'optimizer steps in all, resumed ones included', integer(0), 100)
    .option('--seed <n>', 'seed of weights, dropout and the order of samples (1234)', integer(0))
    .option('--device <name>', 'cpu or reference', oneOf('cpu', 'reference'))
    .option('--dropout <p>', 'dropout probability', within(0, 0.999))
    .option('--checkpoint-activations', 'recompute activations in the backward')
    .option('--save <folder>', 'write checkpoints there, at least one at the end')
    .option('--save-every <n>', 'steps between checkpoints', integer(1))
    .option('--keep <n>', 'how many of the newest checkpoints stay (all)', integer(1))
    .option('--resume <folder>', 'go on from a checkpoint, or from the newest in a folder of them')
    .option('--eval-data <path...>', 'data for evaluations')
    .option('--eval-every <n>', 'steps between evaluations', integer(1))
    .option('--shuffle', 'seeded order of samples (default)', true)
    .option('--no-shuffle', 'samples in their own order')
    .option('--dry-run', 'print the plan of memory and programs, run nothing')
    .option('--profile <file>', 'write a Chrome trace of a few steps, by instruction')
    .option('--restarts <n>', 'failures of ranks to recover from (0)', integer(0))
    .option('--token-bytes <n>', 'bytes of one id in .bin files: 2 or 4', oneOf(2, 4))
    .option('--json', 'JSON lines on stdout')
    .action(action)
}

const defined = <T extends object>(values: T): { [K in keyof T]: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never

/** What the flags ask the engine for. */
export async function trainOptions(
  flags: TrainFlags,
): Promise<{ options: InitializeOptions; notices: readonly string[] }> {
  const chosen = chooseModel(flags)
  const { model } = chosen
  const open = (paths: readonly string[]) =>
    openSource(paths, {
      vocabulary: model.vocabSize,
      positions: model.maxPositions,
      ...defined({ seq: flags.seq, tokenizer: chosen.tokenizer, tokenBytes: flags.tokenBytes }),
      minimumSamples: 1,
    })
  const data = await open(flags.data)
  const evalData = flags.evalData && (await open(flags.evalData))
  const options: InitializeOptions = {
    model,
    data,
    shuffle: flags.shuffle,
    ...defined({
      weights: chosen.weights,
      evalData,
      config: flags.config,
      ranks: flags.ranks,
      threads: flags.threads,
      device: flags.device,
      seed: flags.seed,
      checkpointActivations: flags.checkpointActivations,
      restarts: flags.restarts,
      tokenizer: chosen.tokenizerText,
      checkpoints: flags.save
        ? { folder: flags.save, ...defined({ every: flags.saveEvery, keep: flags.keep }) }
        : undefined,
    }),
  }
  return { options, notices: [...data.notices, ...(evalData?.notices ?? [])] }
}

/** Shows events as they come: lines of JSON, or a live line and notes. Returns the losses seen. */
function show(engine: Engine, flags: TrainFlags): { losses: number[]; progress: Progress } {
  const losses: number[] = []
  const progress = new Progress(process.stderr, { steps: flags.steps })
  engine.events$.subscribe((event: TrainEvent) => {
    if (event.type === 'step') losses.push(event.loss)
    if (flags.json) process.stdout.write(eventLine(event))
    else if (event.type === 'step') progress.step(event)
    else progress.note(noteOf(event))
  })
  return { losses, progress }
}

function noteOf(event: Exclude<TrainEvent, { type: 'step' }>): string {
  switch (event.type) {
    case 'eval':
      return `evaluation after step ${event.step}: loss ${formatLoss(event.loss)}, perplexity ${event.perplexity.toFixed(2)}`
    case 'checkpoint':
      return `checkpoint ${event.path}`
    case 'restart':
      return `restart ${event.attempt} after step ${event.step}: ${event.cause}`
    case 'notice':
      return event.message
  }
}

/** Steps that are profiled: up to three, after two to warm up where there are enough. */
async function profileSteps(engine: Engine, flags: TrainFlags, signal: AbortSignal): Promise<void> {
  const warm = Math.min(engine.step + 2, Math.max(engine.step, flags.steps - 3))
  await engine.train({ steps: warm, signal })
  engine.startProfile()
  await engine.train({ steps: Math.min(flags.steps, warm + 3), signal })
  const spans = engine.profile()
  writeFileSync(flags.profile!, JSON.stringify(chromeTrace(spans)))
  if (!flags.json) process.stderr.write(`\n${profileTable(spans)}`)
}

/** First SIGINT or SIGTERM: finish the step and leave; the second: leave at once. */
export function interruptible(): { signal: AbortSignal; dispose(): void } {
  const controller = new AbortController()
  const interrupt = (): void => {
    if (controller.signal.aborted) process.exit(130)
    controller.abort()
    process.stderr.write('\nleaving after this step (again: at once)\n')
  }
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt)
  return {
    signal: controller.signal,
    dispose: () => {
      process.off('SIGINT', interrupt).off('SIGTERM', interrupt)
    },
  }
}

export async function train(flags: TrainFlags): Promise<void> {
  const { options, notices } = await trainOptions(flags)
  if (flags.dryRun) {
    const prepared = prepare(options)
    process.stdout.write(flags.json ? `${JSON.stringify(planReport(prepared))}\n` : planText(prepared))
    return
  }
  const { signal, dispose } = interruptible()
  const engine = await initialize(options)
  try {
    const { losses, progress } = show(engine, flags)
    for (const message of [...engine.prepared.config.notices, ...notices]) {
      if (flags.json) process.stdout.write(eventLine({ type: 'notice', message }))
      else progress.note(message)
    }
    if (flags.resume) await engine.load(flags.resume)
    if (flags.profile) await profileSteps(engine, flags, signal)
    let saved = engine.step
    while (engine.step < flags.steps && !signal.aborted) {
      const next = flags.evalEvery ? Math.ceil((engine.step + 1) / flags.evalEvery) * flags.evalEvery : flags.steps
      await engine.train({ steps: Math.min(next, flags.steps), signal })
      if (flags.saveEvery && engine.step % flags.saveEvery === 0) saved = engine.step
      if (options.evalData && !signal.aborted && (!flags.evalEvery || engine.step % flags.evalEvery === 0))
        await engine.evaluate()
    }
    progress.end()
    if (flags.save && (saved !== engine.step || !flags.saveEvery)) await engine.save(flags.save)
    if (!flags.json && losses.length > 1) process.stderr.write(`${lossChart(losses)}\n`)
    if (signal.aborted) process.exitCode = 130
  } finally {
    await engine.close()
    options.weights?.close()
    dispose()
  }
}
