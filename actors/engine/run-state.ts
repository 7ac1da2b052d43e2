// Where a run stands, and how its ranks get to a state: from the start, from a checkpoint, from peers; and how a state becomes a
// checkpoint. The ranks' memory and these numbers change together, or the operation rejects and the run must recover.
import { readFileSync } from 'node:fs'
import type { ActorRef } from '../../runtime/actor/protocol.js'
import { CheckpointError } from '../../runtime/checkpoint/error.js'
import type { Progress, SavedScaler } from '../../runtime/checkpoint/manifest.js'
import type { RestartEvent, TrainEvent } from '../../runtime/observe/index.js'
import { type LossScaleSpec, type LossScaleState, nextLossScale, startLossScale } from '../../runtime/optim/index.js'
import type { CheckpointerProtocol } from '../checkpointer/protocol.js'
import type { SupervisorProtocol } from '../supervisor/protocol.js'
import type { Prepared } from './prepare.js'
import { stepStateOf } from './scalars.js'
import {
  type ArenaAccess,
  copyState,
  manifestOf,
  openCheckpoint,
  replicated,
  restore,
  restoreCheckpoint,
  Staging,
  snapshot,
  weightsSnapshot,
} from './store.js'
import { parameterKinds } from './tensors.js'
import { patient } from './troupe.js'

const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

/** What a run needs beside the ranks' memory to go on bit for bit. */
export interface RunProgress extends Omit<Progress, 'loss_scale'> {
  /** What the next step's gradients are scaled by, and when that changes. */
  readonly scaler: LossScaleState
}

/** What the state needs of the run around it. */
export interface RunParts {
  readonly prepared: Prepared
  readonly checkpointer: ActorRef<CheckpointerProtocol>
  supervisor(): ActorRef<SupervisorProtocol>
  /** The supervisor's actors are to be raised anew, with another order of samples. */
  reseed(order: Pick<Progress, 'seed' | 'shuffle'>): Promise<void>
  emit(event: TrainEvent): void
}

export class RunState {
  readonly staging = new Staging()
  progress: RunProgress
  /** The checkpoint that the present state can be reached from; null: the start. */
  #origin: string | null = null
  #saving: Promise<unknown> | null = null

  constructor(private readonly parts: RunParts) {
    const { seed, options } = parts.prepared
    this.progress = this.#start({ seed, shuffle: options.shuffle ?? true })
  }

  #start(order: Pick<Progress, 'seed' | 'shuffle'>): RunProgress {
    return { step: 0, applied: 0, samples: 0, ...order, scaler: startLossScale(this.#scaling) }
  }

  get #scaling(): LossScaleSpec {
    return this.parts.prepared.config.precision.lossScale
  }

  /** The state before the first step. */
  async begin(): Promise<void> {
    const { prepared } = this.parts
    const { weights } = prepared.options
    const { seed, shuffle } = this.progress
    const supervisor = this.parts.supervisor()
    const progress = this.#start({ seed, shuffle })
    const state = stepStateOf(progress)
    await supervisor.ask({ type: 'initialize', seed: weights ? null : seed, state }, patient)
    if (weights) {
      for (const kind of parameterKinds(prepared.compilation)) {
        await restore(prepared.compilation, kind, this.#access, this.staging, (name, start, target) =>
          weights.read(name, start, target),
        )
      }
      await supervisor.ask({ type: 'refresh', step: 0, state }, patient)
    }
    this.#origin = null
    this.progress = progress
  }

  /**
   * A step of `samples` samples is done, or was skipped for gradients that overflowed. Throws OptimError, and nothing has changed,
   * where the loss scaler could go no lower.
   */
  advance(samples: number, skipped: boolean): void {
    const { step, applied, samples: before, scaler, ...order } = this.progress
    const next = nextLossScale(this.#scaling, scaler, skipped)
    this.progress = {
      step: step + 1,
      applied: applied + (skipped ? 0 : 1),
      samples: before + samples,
      ...order,
      scaler: next,
    }
  }

  /**
   * Makes the ranks whole after a failure, with as few lost steps as may be: where every rank kept its memory, as it is; where the
   * stage keeps all state on every rank and one still has it, from that peer; else from the newest checkpoint, else from the start.
   */
  async regain(): Promise<RestartEvent['source']> {
    const { compilation } = this.parts.prepared
    const supervisor = this.parts.supervisor()
    const held = await supervisor.ask({ type: 'held' }, patient)
    const { step } = this.progress
    const lost = [...held.keys()].filter((rank) => held[rank] !== step)
    if (lost.length === 0) return 'kept'
    const peer = held.indexOf(step)
    if (peer >= 0 && replicated(compilation)) {
      for (const rank of lost) await copyState(compilation, this.#access, this.staging, peer, rank)
      await supervisor.ask({ type: 'refresh', step, state: stepStateOf(this.progress) }, patient)
      return 'peers'
    }
    if (this.#origin === null) {
      await this.begin()
      return 'start'
    }
    await this.restore(this.#origin)
    return 'checkpoint'
  }

  /** Weights, optimizer, schedule, random numbers and position in the data as in a checkpoint. Rejects with CheckpointError. */
  async restore(path: string): Promise<void> {
    const { compilation, options } = this.parts.prepared
    const training = options.data !== undefined
    const { loss_scale: saved, ...counts } = openCheckpoint(path, compilation, training).progress
    const progress: RunProgress = { ...counts, scaler: resumeScaler(this.#scaling, saved) }
    const { seed, shuffle } = this.progress
    if (progress.seed !== seed || progress.shuffle !== shuffle) {
      await this.parts.reseed(progress)
      const order = `seed ${progress.seed} and shuffling ${progress.shuffle ? 'on' : 'off'}`
      this.parts.emit({ type: 'notice', message: `resume: ${order}, as in ${path}` })
    }
    await restoreCheckpoint(path, compilation, training, this.#access, this.staging)
    const state = stepStateOf(progress)
    await this.parts.supervisor().ask({ type: 'refresh', step: progress.step, state }, patient)
    this.progress = progress
    this.#origin = path
  }

  /** Copies all state, then has it written while training goes on. One checkpoint is written at a time. */
  async checkpoint(folder: string): Promise<void> {
    await this.settle()
    const { checkpointer, prepared } = this.parts
    const { compilation, options, config } = prepared
    const { scaler, ...counts } = this.progress
    const scales = options.data !== undefined && config.precision.dtype === 'f16'
    const progress: Progress = { ...counts, ...(scales && { loss_scale: scalerProgress(scaler) }) }
    const started = performance.now()
    const files = await snapshot(compilation, options.model, this.#access, this.staging, options.tokenizer)
    const manifest = manifestOf(compilation, progress, version)
    const saving = checkpointer
      .ask({ type: 'save', folder, files, manifest, keep: options.checkpoints?.keep ?? 0 }, patient)
      .then((path) => {
        const bytes = files.reduce((sum, file) => sum + file.totalBytes, 0)
        const seconds = (performance.now() - started) / 1000
        this.#origin = path
        this.parts.emit({ type: 'checkpoint', step: progress.step, path, bytes, seconds })
        return path
      })
    saving.catch(() => {})
    this.#saving = saving
  }

  /**
   * Writes the weights that the model computes with as a Hugging Face folder; resolves with its bytes when it is whole. Rejects with
   * CheckpointError where the folder cannot be written or holds a checkpoint.
   */
  async exportWeights(folder: string): Promise<number> {
    await this.settle()
    const { checkpointer, prepared } = this.parts
    const { compilation, options, config } = prepared
    const { dtype } = config.precision
    const files = await weightsSnapshot(
      compilation,
      options.model,
      dtype,
      this.#access,
      this.staging,
      options.tokenizer,
    )
    const writing = checkpointer.ask({ type: 'export', folder, files }, patient)
    // The next checkpoint waits, for it uses the same memory; what fails here is this caller's.
    this.#saving = writing.catch(() => {})
    const problem = await writing
    if (problem !== null)
      throw new CheckpointError('CHECKPOINT_IO', `save16bitModel: folder ${folder}, ${problem}`, { file: folder })
    return files.reduce((sum, file) => sum + file.totalBytes, 0)
  }

  /** Waits for the checkpoint under way; resolves with the newest one of this run, null: none. */
  async settle(): Promise<string | null> {
    const saving = this.#saving
    this.#saving = null
    await saving
    return this.#origin
  }

  get #access(): ArenaAccess {
    const ref = this.parts.supervisor()
    return {
      read: (rank, { arena }, spans, target) =>
        ref.ask({ type: 'read', rank, arena, regions: regionsOf(spans), target }, patient),
      write: (rank, { arena }, spans, bytes) =>
        ref.ask({ type: 'write', rank, arena, regions: regionsOf(spans), bytes }, patient),
    }
  }
}

const scalerProgress = ({ scale, iteration, lastOverflow, hysteresis }: LossScaleState): SavedScaler => ({
  scale,
  iteration,
  last_overflow: lastOverflow,
  hysteresis,
})

/** A scale that the configuration fixes stays what it says; hysteresis never exceeds the configured one. */
function resumeScaler(spec: LossScaleSpec, saved: SavedScaler | undefined): LossScaleState {
  if (!saved || !spec.dynamic) return startLossScale(spec)
  const { scale, iteration, last_overflow: lastOverflow, hysteresis } = saved
  return { scale, iteration, lastOverflow, hysteresis: Math.min(hysteresis, spec.hysteresis) }
}

const regionsOf = (spans: readonly { byteOffset: number; bytes: number }[]) =>
  spans.map(({ byteOffset, bytes }) => ({ byteOffset, bytes }))
