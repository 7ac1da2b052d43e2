// A training run for a terminal: flags in, a run, lines out. With --json stdout carries JSON lines only.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { machine } from '../../native/index.js'
import { listCheckpoints, tagOf } from '../../runtime/checkpoint/manifest.js'
import { openSource } from '../../runtime/data/open.js'
import { chromeTrace, eventLine, lossChart, type TrainEvent } from '../../runtime/observe/index.js'
import { type Engine, initialize } from '../engine/engine.js'
import { type InitializeOptions, prepare } from '../engine/prepare.js'
import { interruptible } from './interrupt.js'
import { chooseModel } from './model.js'
import { defined, usage } from './options.js'
import { planReport, planText } from './plan.js'
import { ceilingsOfRank, profileTable } from './profile.js'
import { Screen } from './screen.js'
import type { TrainFlags } from './train.js'

type RunFlags = TrainFlags & { readonly data: readonly string[] }

/** What the flags ask the engine for. */
async function trainOptions(flags: RunFlags): Promise<{ options: InitializeOptions; notices: readonly string[] }> {
  const chosen = chooseModel(flags)
  const { model } = chosen
  // A new model is as long as --seq says; its streams are by default, and its rows of ids may be shorter.
  const seq = flags.seq === model.maxPositions ? undefined : flags.seq
  const open = (paths: readonly string[]) =>
    openSource(paths, {
      vocabulary: model.vocabSize,
      positions: model.maxPositions,
      ...defined({ seq, tokenizer: chosen.tokenizer, tokenBytes: flags.tokenBytes }),
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
      bindCoresToRank: flags.bind_cores_to_rank,
      device: flags.device,
      gpu: flags.tf32 ? { tf32: true } : undefined,
      seed: flags.seed,
      checkpointActivations: flags.checkpointActivations,
      memoryLimit: flags.memoryLimit,
      keepInFp32: flags.keepInFp32,
      restarts: flags.restarts,
      stallSeconds: flags.stallTimeout,
      chaos: flags.chaos,
      tokenizer: chosen.tokenizerText,
      checkpoints: flags.save
        ? { folder: flags.save, ...defined({ every: flags.saveEvery, keep: flags.keep }) }
        : undefined,
    }),
  }
  return { options, notices: [...data.notices, ...(evalData?.notices ?? [])] }
}

/** Steps that are profiled: up to three, after two to warm up where there are enough. */
function profileWindow(first: number, steps: number): { from: number; to: number } {
  const from = Math.max(first, Math.min(first + 2, steps - 3))
  return { from, to: Math.min(steps, from + 3) }
}

function writeProfile(engine: Engine, flags: RunFlags): void {
  const spans = engine.profile()
  try {
    writeFileSync(flags.profile!, JSON.stringify(chromeTrace(spans)))
  } catch (error) {
    throw usage('--profile', `to write ${flags.profile}`, (error as Error).message)
  }
  if (!flags.json) process.stderr.write(`\n${profileTable(spans, ceilingsOfRank(engine.prepared))}`)
}

/** Trains to the last step, stopping where an evaluation is due or a profile begins or ends. */
async function drive(engine: Engine, flags: RunFlags, signal: AbortSignal): Promise<void> {
  const { steps, evalData, evalEvery = steps } = flags
  const profile = flags.profile === undefined ? null : profileWindow(engine.step, steps)
  while (engine.step < steps && !signal.aborted) {
    if (profile?.from === engine.step) engine.startProfile()
    const evaluation = Math.ceil((engine.step + 1) / evalEvery) * evalEvery
    const stops = [steps, evaluation, profile?.from ?? 0, profile?.to ?? 0].filter((stop) => stop > engine.step)
    await engine.train({ steps: Math.min(...stops), signal })
    if (profile?.to === engine.step) writeProfile(engine, flags)
    if (evalData && !signal.aborted && engine.step % evalEvery === 0) await engine.evaluate()
  }
}

function noticesOf(engine: Engine, flags: RunFlags): string[] {
  const { save, steps } = flags
  const { reason } = machine()
  const later = save === undefined ? undefined : listCheckpoints(save).findLast(({ step }) => step > engine.step)
  return [
    ...(reason && flags.device === undefined
      ? [`${reason}; until then the reference backend, in TypeScript, trains`]
      : []),
    ...(engine.step >= steps ? [`nothing to train: step ${engine.step} of ${steps} is done`] : []),
    ...(later ? [`--save ${save} holds checkpoints past step ${engine.step} already: ${later.path}`] : []),
  ]
}

/** Refuses at once what would be refused after the last step. */
function expectGathering({ prepared: { config } }: Engine, { save16bit }: RunFlags): void {
  const { stage, gather16bitWeightsOnModelSave: gathers } = config.zero
  if (save16bit === undefined || stage < 3 || gathers) return
  throw usage('--save-16bit', '"stage3_gather_16bit_weights_on_model_save": true under ZeRO stage 3', 'false')
}

/** `deeptroupe train`. */
export async function train(flags: RunFlags): Promise<void> {
  const { options, notices } = await trainOptions(flags)
  if (flags.dryRun) {
    const prepared = prepare(options)
    process.stdout.write(flags.json ? `${JSON.stringify(planReport(prepared))}\n` : planText(prepared))
    return
  }
  const interrupt = interruptible()
  const { signal } = interrupt
  try {
    const engine = await initialize(options)
    try {
      expectGathering(engine, flags)
      const screen = new Screen(engine, flags.steps)
      const show = (event: TrainEvent): void => {
        if (flags.json) process.stdout.write(eventLine(event))
        else screen.show(event)
      }
      const notice = (message: string): void => show({ type: 'notice', message })
      const losses: number[] = []
      engine.events$.subscribe((event) => {
        show(event)
        if (event.type === 'step' && Number.isFinite(event.loss)) losses.push(event.loss)
      })
      for (const message of [...engine.prepared.notices, ...notices]) notice(message)
      if (flags.resume !== undefined) await engine.load(flags.resume)
      for (const message of noticesOf(engine, flags)) notice(message)
      await drive(engine, flags, signal)
      screen.end()
      const { save } = flags
      if (save !== undefined && (await engine.saved()) !== join(save, tagOf(engine.step))) await engine.save(save)
      if (flags.save16bit !== undefined) await engine.save16bitModel(flags.save16bit)
      if (!flags.json && losses.length > 1) process.stderr.write(`${lossChart(losses)}\n`)
    } finally {
      await engine.close()
      options.weights?.close()
    }
  } finally {
    interrupt.dispose()
  }
  process.exitCode = interrupt.exitCode() ?? 0
}
