// The engine: a prepared run brought to life as a tree of actors, and the loop that drives it. A failure takes the supervisor and its
// ranks down; with restarts left they rise again, the state is regained, and the lost steps are replayed.
import { type Observable, Subject } from 'rxjs'
import { type DeviceGroup, groupProgress, type RankProgress } from '../../native/index.js'
import type { ActorRef } from '../../runtime/actor/protocol.js'
import { findCheckpoint } from '../../runtime/checkpoint/manifest.js'
import {
  type EvalEvent,
  formatBytes,
  type StepEvent,
  type TraceSpan,
  type TrainEvent,
} from '../../runtime/observe/index.js'
import { ActorSystem } from '../../transports/index.js'
import { checkpointer } from '../checkpointer/actor.js'
import type { CheckpointerProtocol } from '../checkpointer/protocol.js'
import type { Batch } from './batch.js'
import { expectDevice } from './device.js'
import { EngineError } from './errors.js'
import { endsLife, FailureWatch } from './failure.js'
import { type InitializeOptions, type Prepared, prepare } from './prepare.js'
import { expectRoom } from './room.js'
import { RunState } from './run-state.js'
import { Steps } from './steps.js'
import { lower, patient, raise, type Troupe, withRestarts } from './troupe.js'

export interface TrainOptions {
  /** The total: a run that was resumed goes on at its next step up to this one. */
  readonly steps: number
  /** Aborted: the loop ends after the steps that are under way. */
  readonly signal?: AbortSignal
}

/** A running tree of actors around one model. Made by {@link initialize}. */
export class Engine {
  readonly prepared: Prepared
  readonly #system: ActorSystem
  readonly #checkpointer: ActorRef<CheckpointerProtocol>
  readonly #events = new Subject<TrainEvent>()
  #troupe: Troupe
  readonly #state: RunState
  #restarts = 0
  /** The recovery under way. */
  #recovering: Promise<void> = Promise.resolve()
  /** The call of `forward` that has the logits' shared memory. */
  #forwarding: Promise<void> = Promise.resolve()
  #profile: TraceSpan[] | null = null
  readonly #steps: Steps
  readonly #failures: FailureWatch
  #closed: Promise<void> | null = null

  private constructor(prepared: Prepared, system: ActorSystem, saver: ActorRef<CheckpointerProtocol>, troupe: Troupe) {
    this.prepared = prepared
    this.#system = system
    this.#checkpointer = saver
    this.#troupe = troupe
    this.#state = new RunState({
      prepared,
      checkpointer: saver,
      supervisor: () => this.#troupe.supervisor,
      reseed: (order) => this.#raiseAgain(order),
      emit: (event) => this.#events.next(event),
    })
    this.#steps = new Steps({
      prepared,
      state: this.#state,
      troupe: () => this.#troupe,
      spans: () => this.#profile,
      emit: (event) => this.#events.next(event),
    })
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
    return this.#state.progress.step
  }

  /** How many instructions each rank has done since it was raised, and whether it waits in a collective for others. */
  progress(): RankProgress[] {
    return groupProgress(this.#troupe.group.token)
  }

  /** Live and peak bytes of a rank's arenas as they were really reserved. */
  memory(rank: number): ReturnType<DeviceGroup['memory']> {
    return this.#troupe.group.memory(rank)
  }

  /** @internal Use {@link initialize}. */
  static async start(prepared: Prepared): Promise<Engine> {
    expectDevice(prepared.device, prepared.ranks)
    expectRoom(prepared)
    const system = await ActorSystem.start({ workers: prepared.ranks + 1 })
    try {
      const { seed, options } = prepared
      const { restarts = 0, shuffle = true } = options
      const place = { name: 'checkpointer', worker: prepared.ranks, ...withRestarts(restarts) }
      const saver = await system.spawn(checkpointer, undefined, place)
      const troupe = await raise(prepared, system, { seed, shuffle, restarts })
      const engine = new Engine(prepared, system, saver, troupe)
      try {
        await engine.#state.begin()
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

  /**
   * Trains up to step `steps`, with checkpoints as the policy says. Resolves with the last step's event, or null if there was
   * nothing to do. Rejects with {@link EngineError} for a loss that is not finite or a rank that failed with no restart left.
   */
  async train({ steps, signal }: TrainOptions): Promise<StepEvent | null> {
    const { checkpoints } = this.prepared.options
    const every = checkpoints?.every || Number.POSITIVE_INFINITY
    let last: StepEvent | null = null
    for (;;) {
      // At a checkpoint nothing is under way.
      const boundary = Math.min(steps, (Math.floor(this.step / every) + 1) * every)
      const upTo = signal?.aborted ? this.#steps.sent : boundary
      if (this.step >= upTo) return last
      this.#training()
      const since = this.#restarts
      try {
        last = (await this.#steps.next({ upTo, more: upTo < steps })) ?? last
        if (checkpoints && this.step % every === 0) await this.#state.checkpoint(checkpoints.folder)
      } catch (error) {
        await this.#recover(error, since)
      }
    }
  }

  /** Work on the state of the present step. A failure meanwhile costs a restart: the lost steps are replayed and the work begins anew. */
  async #surviving<T>(work: () => Promise<T>): Promise<T> {
    const { step } = this
    for (;;) {
      const since = this.#restarts
      try {
        return await work()
      } catch (error) {
        await this.#recover(error, since)
        await this.train({ steps: step })
      }
    }
  }

  /**
   * One step on the next batch of the data, or on the caller's. After a failure it is repeated; steps on the caller's batches that were
   * lost are not, for the engine keeps no batch: then it rejects with {@link EngineError}, and the run is back at the step it names.
   */
  async trainBatch(batch?: Batch): Promise<StepEvent> {
    this.#training()
    return await this.#surviving(async () => {
      const limits = { upTo: this.step + 1, more: false }
      return (await this.#steps.next(limits, batch ?? null))!
    })
  }

  #training(): Prepared {
    if (this.prepared.options.data) return this.prepared
    throw new EngineError('ENGINE_USAGE', 'train: data, expected `data` in the options of initialize, got none')
  }

  /** The one error that an operation ends with. */
  #failure(error: unknown, operation = 'train'): unknown {
    const known = [error, (error as Error).cause].find((e) => e instanceof EngineError || isCheckpointError(e))
    if (known) return known
    const step = this.step + 1
    const message = `${operation}: step ${step}, expected every rank to finish, got ${this.#failures.explain(error)}`
    return new EngineError('ENGINE_RANK_FAILED', message, { step }, { cause: error })
  }

  /** Regains the state that a failure has cost. Rejects where no restart is left or none would help. */
  async #recover(error: unknown, since: number): Promise<void> {
    // Operations side by side fail together: the first recovers for all that began before.
    const recovery = this.#recovering.then(() => (this.#restarts === since ? this.#recoverNow(error) : undefined))
    this.#recovering = recovery.catch(() => {})
    await recovery
  }

  async #recoverNow(error: unknown): Promise<void> {
    for (let [failure, cause] = [this.#failure(error), error]; ; ) {
      if (!(failure instanceof EngineError) || failure.code !== 'ENGINE_RANK_FAILED' || !endsLife(cause)) throw failure
      const { supervisor } = this.#troupe
      const ready = Promise.all([supervisor.ready(), this.#checkpointer.ready()])
      const alive = await ready.then(
        () => true,
        () => false,
      )
      if (!alive) throw failure
      this.#restarts += 1
      this.#steps.forget()
      this.#failures.of(supervisor.path)
      try {
        await this.#state.settle()
        const source = await this.#state.regain()
        this.#events.next({
          type: 'restart',
          step: this.step,
          source,
          attempt: this.#restarts,
          cause: (failure as Error).message,
        })
        if (this.step < this.#steps.foreign) throw this.#lostBatches(failure)
        return
      } catch (again) {
        ;[failure, cause] = [this.#failure(again), again]
      }
    }
  }

  #lostBatches({ message }: Error): EngineError {
    const { step } = this
    const text = `${message}; the run is back at step ${step}: only the caller has the batches of the steps up to ${this.#steps.foreign}`
    this.#steps.foreign = step
    return new EngineError('ENGINE_RANK_FAILED', text, { step })
  }

  async #raiseAgain({ seed, shuffle }: { readonly seed: number; readonly shuffle: boolean }): Promise<void> {
    await lower(this.#troupe)
    const restarts = Math.max(0, (this.prepared.options.restarts ?? 0) - this.#restarts)
    this.#troupe = await raise(this.prepared, this.#system, { seed, shuffle, restarts })
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
    const event: EvalEvent = { type: 'eval', step: this.step, loss, perplexity: Math.exp(loss), tokens }
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
      const { buffer } = this.#state.staging.bytes('logits', 4 * sequence * vocabSize)
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
    return await this.#surviving(async () => {
      await this.#state.checkpoint(folder)
      return (await this.#state.settle())!
    })
  }

  /**
   * DeepSpeed's `save_16bit_model`: writes a Hugging Face folder of the whole weights in the dtypes that the run computes in, which is
   * fp32 in a run in fp32 and for modules that are kept in it. Resolves with true when it is whole; with false, and a notice says
   * why, under ZeRO stage 3 without `stage3_gather_16bit_weights_on_model_save`. It is nothing to resume from: see {@link save}.
   * Rejects with {@link CheckpointError} where the folder cannot be written or holds a checkpoint; the run goes on.
   */
  async save16bitModel(folder: string): Promise<boolean> {
    const { zero } = this.prepared.config
    if (zero.stage === 3 && !zero.gather16bitWeightsOnModelSave) {
      const message = `save16bitModel: ${folder} not written: under ZeRO stage 3 weights are gathered for it only with stage3_gather_16bit_weights_on_model_save`
      this.#events.next({ type: 'notice', message })
      return false
    }
    const bytes = await this.#surviving(() => this.#state.exportWeights(folder))
    const message = `weights of step ${this.step} in ${folder}, ${formatBytes(bytes)}`
    this.#events.next({ type: 'notice', message })
    return true
  }

  /** The newest checkpoint that was written or loaded, once the one under way is whole; null: none. */
  async saved(): Promise<string | null> {
    return await this.#surviving(() => this.#state.settle())
  }

  /**
   * Goes on from a checkpoint, or from the newest in a folder of them: weights, optimizer, schedule, random numbers, position in the
   * data. Throws {@link CheckpointError} naming file and tensor where it does not fit this run.
   */
  async load(path: string): Promise<void> {
    const found = findCheckpoint(path)
    await this.#surviving(() => this.#state.restore(found))
    this.#steps.foreign = 0
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
      await this.#state.settle().catch((error: unknown) => {
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

/** Also one that came from another thread and is an Error by name only. */
const isCheckpointError = (error: unknown): boolean => error instanceof Error && error.name === 'CheckpointError'

/**
 * Compiles a model and raises its actors. Throws before anything starts where the configuration, the model or the data do not fit:
 * ConfigError, ModelError, GraphError, DataError, EngineError, each with one message.
 */
export async function initialize(options: InitializeOptions): Promise<Engine> {
  return Engine.start(prepare(options))
}
