// The engine: a prepared run brought to life as a tree of actors, and the loop that drives it. A failure of a rank takes the whole group
// down; with restarts left a new group rises from the newest checkpoint (or from the start) and replays the lost steps.
import { readFileSync } from 'node:fs'
import { type Observable, Subject } from 'rxjs'
import type { DeviceGroup } from '../../native/index.js'
import type { ActorRef } from '../../runtime/actor/protocol.js'
import { findCheckpoint, type SavedScaler } from '../../runtime/checkpoint/manifest.js'
import type { EvalEvent, StepEvent, TraceSpan, TrainEvent } from '../../runtime/observe/index.js'
import {
  type LossScaleSpec,
  type LossScaleState,
  nextLossScale,
  OptimError,
  startLossScale,
} from '../../runtime/optim/index.js'
import { ActorSystem } from '../../transports/index.js'
import { checkpointer } from '../checkpointer/actor.js'
import type { CheckpointerProtocol } from '../checkpointer/protocol.js'
import type { Fault } from '../rank/fault.js'
import type { TrainOrder, TrainReport } from '../supervisor/protocol.js'
import { type Batch, writeBatch } from './batch.js'
import type { PlannedFault } from './chaos.js'
import { EngineError } from './errors.js'
import { FailureWatch, notFinite } from './failure.js'
import { spansOf, timingOf } from './measure.js'
import { type InitializeOptions, type Prepared, prepare } from './prepare.js'
import { stepScalars } from './scalars.js'
import { type ArenaAccess, manifestOf, openCheckpoint, restore, restoreCheckpoint, Staging, snapshot } from './store.js'
import { parameterKinds } from './tensors.js'
import { expectRoom, lower, patient, raise, slotCount, type Troupe } from './troupe.js'

const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

export interface TrainOptions {
  /** The total: a run that was resumed goes on at its next step up to this one. */
  readonly steps: number
  /** Aborted: the loop ends after the step that is under way. */
  readonly signal?: AbortSignal
}

/** A running tree of actors around one model. Made by {@link initialize}. */
export class Engine {
  readonly prepared: Prepared
  readonly #system: ActorSystem
  readonly #checkpointer: ActorRef<CheckpointerProtocol>
  readonly #events = new Subject<TrainEvent>()
  #troupe: Troupe
  #step = 0
  #applied = 0
  #samples = 0
  #scaler: LossScaleState
  #seed: number
  #shuffle: boolean
  #restarts = 0
  #saving: Promise<string> | null = null
  readonly #staging = new Staging()
  /** The call of `forward` that has the logits' shared memory. */
  #forwarding: Promise<void> = Promise.resolve()
  #profile: TraceSpan[] | null = null
  /** The checkpoint that the present state can be reached from; null: the start. */
  #origin: string | null = null
  readonly #chaos: Set<PlannedFault>
  readonly #failures: FailureWatch
  #closed: Promise<void> | null = null

  private constructor(prepared: Prepared, system: ActorSystem, saver: ActorRef<CheckpointerProtocol>, troupe: Troupe) {
    this.prepared = prepared
    this.#system = system
    this.#checkpointer = saver
    this.#troupe = troupe
    this.#scaler = startLossScale(prepared.config.precision.lossScale)
    this.#seed = prepared.seed
    this.#shuffle = prepared.options.shuffle ?? true
    this.#chaos = new Set(prepared.chaos)
    this.#failures = new FailureWatch(system.events$, prepared.ranks)
    this.#failures.of(troupe.supervisor.path)
  }

  /** Steps, evaluations, checkpoints, notices and restarts, as they happen. */
  get events$(): Observable<TrainEvent> {
    return this.#events.asObservable()
  }

  /** The actor system that the run lives in: its own stream of events, its tree. */
  get system(): ActorSystem {
    return this.#system
  }

  /** Bytes of each arena of one rank, as planned before anything ran. */
  get plan(): Prepared['compilation']['plan'] {
    return this.prepared.compilation.plan
  }

  /** Steps done so far. */
  get step(): number {
    return this.#step
  }

  /** Live and peak bytes of a rank's arenas as they were really reserved. */
  memory(rank: number): ReturnType<DeviceGroup['memory']> {
    return this.#troupe.group.memory(rank)
  }

  /** @internal Use {@link initialize}. */
  static async start(prepared: Prepared): Promise<Engine> {
    expectRoom(prepared)
    const system = await ActorSystem.start({ workers: prepared.ranks + 1 })
    try {
      const saver = await system.spawn(checkpointer, undefined, { name: 'checkpointer', worker: prepared.ranks })
      const troupe = await raise(prepared, system, prepared.seed, prepared.options.shuffle ?? true)
      const engine = new Engine(prepared, system, saver, troupe)
      try {
        await engine.#begin()
      } catch (error) {
        await engine.close()
        throw engine.#failure(error, 'initialize')
      }
      return engine
    } catch (error) {
      await system.stop()
      throw error
    }
  }

  /** Parameters as they are before the first step. */
  async #begin(): Promise<void> {
    const { weights } = this.prepared.options
    if (weights) {
      const { compilation } = this.prepared
      for (const kind of parameterKinds(compilation)) {
        await restore(compilation, kind, this.#access, this.#staging, (name, start, target) =>
          weights.read(name, start, target),
        )
      }
      await this.#troupe.supervisor.ask({ type: 'refresh' }, patient)
    } else await this.#troupe.supervisor.ask({ type: 'initialize', seed: this.#seed }, patient)
    this.#origin = null
    this.#step = 0
    this.#applied = 0
    this.#samples = 0
    this.#scaler = startLossScale(this.prepared.config.precision.lossScale)
  }

  get #access(): ArenaAccess {
    const { supervisor: ref } = this.#troupe
    return {
      read: (rank, { arena }, spans, target) =>
        ref.ask({ type: 'read', rank, arena, regions: regionsOf(spans), target }, patient),
      write: (rank, { arena }, spans, bytes) =>
        ref.ask({ type: 'write', rank, arena, regions: regionsOf(spans), bytes }, patient),
    }
  }

  /**
   * Trains up to step `steps`, with checkpoints as the policy says. Resolves with the last step's event, or null if there was
   * nothing to do. Rejects with {@link EngineError} for a loss that is not finite or a rank that failed with no restart left.
   */
  async train({ steps, signal }: TrainOptions): Promise<StepEvent | null> {
    const { checkpoints } = this.prepared.options
    let last: StepEvent | null = null
    while (this.#step < steps && !signal?.aborted) {
      try {
        last = await this.#next(null, this.#step + 1 < steps)
        if (checkpoints?.every && this.#step % checkpoints.every === 0) await this.#checkpoint(checkpoints.folder)
      } catch (error) {
        await this.#recover(error)
      }
    }
    return last
  }

  /** Work on the state of the present step. A rank that fails meanwhile costs a restart: the lost steps are replayed and it begins anew. */
  async #surviving<T>(work: () => Promise<T>): Promise<T> {
    const step = this.#step
    for (;;) {
      try {
        return await work()
      } catch (error) {
        await this.#recover(error)
        await this.train({ steps: step })
      }
    }
  }

  /** One step on the next batch of the data, or on the caller's. */
  async trainBatch(batch?: Batch): Promise<StepEvent> {
    try {
      return await this.#next(batch ?? null, false)
    } catch (error) {
      throw this.#failure(error)
    }
  }

  async #next(batch: Batch | null, more: boolean): Promise<StepEvent> {
    const { config, sequence } = this.#training()
    const started = performance.now()
    const { lr, scalars } = stepScalars(this.prepared, this.#step + 1, this.#applied, this.#seed, this.#scaler.scale)
    const { train } = config.batch
    const order: TrainOrder = {
      step: this.#step + 1,
      sample: this.#samples,
      nextSample: more ? this.#samples + train : null,
      slot: batch ? this.#ownBatch(batch) : null,
      scalars,
      profile: this.#profile !== null || config.wallClockBreakdown,
      faults: this.#faultsOf(this.#step + 1),
    }
    const report = await this.#troupe.supervisor.ask({ type: 'train', ...order }, patient)
    // Every rank has the same norm, and skipped the update by it.
    const skipped = !Number.isFinite(report.norm)
    if (!report.finite && !(skipped && config.precision.skipsOverflow)) throw await this.#notFinite(order, report)
    const scaler = await this.#scale(order, report, skipped)
    this.#step += 1
    if (!skipped) this.#applied += 1
    this.#samples += train
    const scales = config.precision.dtype === 'f16'
    const spans = order.profile ? spansOf(this.prepared.compilation, report.ranks, order.step) : []
    this.#profile?.push(...spans)
    const seconds = (performance.now() - started) / 1000
    const tokens = train * sequence
    const event: StepEvent = {
      type: 'step',
      step: this.#step,
      loss: report.loss,
      grad_norm: skipped ? -1 : report.norm,
      lr,
      skipped,
      skipped_steps: this.#step - this.#applied,
      ...(scales && { loss_scale: scaler.scale }),
      tokens,
      tokens_per_second: tokens / seconds,
      seconds,
    }
    this.#events.next(event)
    if (skipped) this.#events.next({ type: 'notice', message: this.#skipNotice(scaler) })
    if (config.wallClockBreakdown) this.#events.next(timingOf(spans, report.ranks.length, order.step))
    return event
  }

  /** Takes the loss scaler on by one step and returns the state that the step ran with. */
  async #scale(order: TrainOrder, report: TrainReport, overflow: boolean): Promise<LossScaleState> {
    const { lossScale } = this.prepared.config.precision
    const before = this.#scaler
    try {
      this.#scaler = nextLossScale(lossScale, before, overflow)
    } catch (error) {
      if (!(error instanceof OptimError)) throw error
      throw await this.#notFinite(order, report, error)
    }
    return before
  }

  #skipNotice({ scale }: LossScaleState): string {
    const { dtype } = this.prepared.config.precision
    if (dtype !== 'f16') return `step ${this.#step} skipped: the gradients are not finite`
    const { scale: now } = this.#scaler
    return `step ${this.#step} skipped: the gradients overflow at loss scale ${scale}${now === scale ? '' : `, next ${now}`}`
  }

  /** What each rank is to suffer in a step. Faults of one step are used up. */
  #faultsOf(step: number): Fault[][] {
    const faults: Fault[][] = Array.from({ length: this.prepared.ranks }, () => [])
    for (const planned of this.#chaos) {
      if (planned.step !== null && planned.step !== step) continue
      faults[planned.rank]!.push(planned.fault)
      if (planned.step !== null) this.#chaos.delete(planned)
    }
    return faults
  }

  #training(): Prepared {
    if (this.prepared.options.data) return this.prepared
    throw new EngineError('ENGINE_USAGE', 'train: data, expected `data` in the options of initialize, got none')
  }

  /** The last slot is the caller's. */
  #ownBatch(batch: Batch): number {
    const slot = slotCount - 1
    writeBatch(this.prepared, batch, this.#troupe.slots[slot]!)
    return slot
  }

  async #notFinite(order: TrainOrder, report: TrainReport, cause?: OptimError): Promise<EngineError> {
    const found = await this.#troupe.supervisor.ask({ type: 'diagnose', ...order, profile: false }, patient)
    return notFinite(order.step, report, found, cause)
  }

  /** The one error that an operation ends with. */
  #failure(error: unknown, operation = 'train'): unknown {
    const known = [error, (error as Error).cause].find((e) => e instanceof EngineError || isCheckpointError(e))
    if (known) return known
    const step = this.#step + 1
    const message = `${operation}: step ${step}, expected every rank to finish, got ${this.#failures.explain(error)}`
    return new EngineError('ENGINE_RANK_FAILED', message, { step }, { cause: error })
  }

  /** A new group from the newest checkpoint of this run, or from where it began. Throws where no restart is left or none would help. */
  async #recover(error: unknown): Promise<void> {
    const { restarts = 0 } = this.prepared.options
    for (let failure = this.#failure(error); ; ) {
      if (!(failure instanceof EngineError) || failure.code !== 'ENGINE_RANK_FAILED' || this.#restarts >= restarts)
        throw failure
      this.#restarts += 1
      await this.#settleSave()
      try {
        await this.#raiseAgain()
        if (this.#origin) await this.#restore(this.#origin)
        else await this.#begin()
        this.#events.next({ type: 'restart', step: this.#step, attempt: this.#restarts, cause: failure.message })
        return
      } catch (again) {
        failure = this.#failure(again)
      }
    }
  }

  async #raiseAgain(): Promise<void> {
    await lower(this.#troupe)
    this.#troupe = await raise(this.prepared, this.#system, this.#seed, this.#shuffle)
    this.#failures.of(this.#troupe.supervisor.path)
  }

  /** Mean loss over all of the evaluation data. */
  async evaluate(): Promise<EvalEvent> {
    if (!this.prepared.options.evalData) {
      throw new EngineError(
        'ENGINE_USAGE',
        'evaluate: data, expected `evalData` in the options of initialize, got none',
      )
    }
    const { loss, tokens } = await this.#surviving(() => this.#troupe.supervisor.ask({ type: 'evaluate' }, patient))
    const event: EvalEvent = { type: 'eval', step: this.#step, loss, perplexity: Math.exp(loss), tokens }
    this.#events.next(event)
    return event
  }

  /**
   * Logits of up to `sequence` tokens of one row, or of several rows of equal length: [rows * tokens, vocabulary], row-major.
   * Throws {@link EngineError} for ids outside the vocabulary.
   */
  async forward(ids: Int32Array | readonly number[], rows = 1): Promise<Float32Array> {
    const { sequence, options } = this.prepared
    const { vocabSize } = options.model
    const length = ids.length / rows
    if (!Number.isInteger(length) || length < 1 || length > sequence) {
      throw new EngineError(
        'ENGINE_USAGE',
        `forward: ids, expected ${rows} rows of 1 to ${sequence} tokens, got ${ids.length} ids`,
      )
    }
    const all = Int32Array.from(ids)
    const bad = all.findIndex((id) => id < 0 || id >= vocabSize)
    if (bad >= 0)
      throw new EngineError('ENGINE_USAGE', `forward: id ${bad}, expected 0 to ${vocabSize - 1}, got ${all[bad]}`)
    const logits = new Float32Array(all.length * vocabSize)
    const run = this.#forwarding.then(async () => {
      const { buffer } = this.#staging.bytes('logits', 4 * sequence * vocabSize)
      const shared = new Float32Array(buffer, 0, length * vocabSize)
      for (let row = 0; row < rows; row++) {
        const tokens = all.slice(row * length, (row + 1) * length)
        await this.#surviving(() => this.#troupe.supervisor.ask({ type: 'forward', tokens, logits: shared }, patient))
        logits.set(shared, row * length * vocabSize)
      }
    })
    this.#forwarding = run.catch(() => {})
    await run
    return logits
  }

  /** Writes a checkpoint into `folder` and resolves with its path when it is whole. */
  async save(folder: string): Promise<string> {
    await this.#surviving(() => this.#checkpoint(folder))
    return (await this.#settleSave())!
  }

  /** The newest checkpoint that was written or loaded, once the one under way is whole; null: none. */
  async saved(): Promise<string | null> {
    await this.#settleSave()
    return this.#origin
  }

  /** Copies all state, then has it written while training goes on. One checkpoint is written at a time. */
  async #checkpoint(folder: string): Promise<void> {
    await this.#settleSave()
    const { compilation, options } = this.prepared
    const started = performance.now()
    const files = await snapshot(compilation, options.model, this.#access, this.#staging, options.tokenizer)
    const progress = {
      step: this.#step,
      applied: this.#applied,
      samples: this.#samples,
      seed: this.#seed,
      shuffle: this.#shuffle,
      ...(options.data &&
        this.prepared.config.precision.dtype === 'f16' && { loss_scale: scalerProgress(this.#scaler) }),
    }
    const saving = this.#checkpointer
      .ask(
        {
          type: 'save',
          folder,
          files,
          manifest: manifestOf(compilation, progress, version),
          keep: options.checkpoints?.keep ?? 0,
        },
        patient,
      )
      .then((path) => {
        const bytes = files.reduce((sum, file) => sum + file.totalBytes, 0)
        const seconds = (performance.now() - started) / 1000
        this.#origin = path
        this.#events.next({ type: 'checkpoint', step: progress.step, path, bytes, seconds })
        return path
      })
    saving.catch(() => {})
    this.#saving = saving
  }

  async #settleSave(): Promise<string | null> {
    const saving = this.#saving
    this.#saving = null
    return saving ? await saving : null
  }

  /**
   * Goes on from a checkpoint, or from the newest in a folder of them: weights, optimizer, schedule, random numbers, position in the
   * data. Throws {@link CheckpointError} naming file and tensor where it does not fit this run.
   */
  async load(path: string): Promise<void> {
    const found = findCheckpoint(path)
    try {
      await this.#restore(found)
    } catch (error) {
      throw this.#failure(error)
    }
    this.#origin = found
  }

  async #restore(found: string): Promise<void> {
    const { compilation } = this.prepared
    const training = this.prepared.options.data !== undefined
    const { progress } = openCheckpoint(found, compilation, training)
    if (progress.seed !== this.#seed || progress.shuffle !== this.#shuffle) {
      this.#seed = progress.seed
      this.#shuffle = progress.shuffle
      await this.#raiseAgain()
      this.#events.next({
        type: 'notice',
        message: `resume: seed ${progress.seed} and shuffling ${progress.shuffle ? 'on' : 'off'}, as in ${found}`,
      })
    }
    await restoreCheckpoint(found, compilation, training, this.#access, this.#staging)
    await this.#troupe.supervisor.ask({ type: 'refresh' }, patient)
    this.#step = progress.step
    this.#applied = progress.applied
    this.#samples = progress.samples
    this.#scaler = resumeScaler(this.prepared.config.precision.lossScale, progress.loss_scale)
  }

  /** From now on every instruction is measured; {@link profile} takes what was gathered. */
  startProfile(): void {
    this.#profile ??= []
  }

  /** The instructions measured since {@link startProfile}, and stops measuring. */
  profile(): readonly TraceSpan[] {
    const spans = this.#profile ?? []
    this.#profile = null
    return spans
  }

  /** Ends everything: no thread, handle or arena is left. A checkpoint under way is finished first. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      let failed: unknown
      await this.#settleSave().catch((error: unknown) => {
        failed = error
      })
      await lower(this.#troupe)
      await this.#system.stop()
      this.#events.complete()
      if (failed) throw failed
    })()
    return this.#closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
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

/** Also one that came from another thread and is an Error by name only. */
const isCheckpointError = (error: unknown): boolean => error instanceof Error && error.name === 'CheckpointError'

/**
 * Compiles a model and raises its actors. Throws before anything starts where the configuration, the model or the data do not fit:
 * ConfigError, ModelError, GraphError, DataError, EngineError, each with one message.
 */
export async function initialize(options: InitializeOptions): Promise<Engine> {
  return Engine.start(prepare(options))
}
