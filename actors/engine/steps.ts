// The steps of a run, sent to the supervisor up to two at a time, so that the ranks go from one to the next while messages travel. What
// depends on a step before is decided by the ranks' programs; the reports come in order, and with each the run's progress moves on.
import type { ActorRef } from '../../runtime/actor/protocol.js'
import type { StepEvent, TraceSpan, TrainEvent } from '../../runtime/observe/index.js'
import { OptimError } from '../../runtime/optim/index.js'
import type { Fault } from '../rank/fault.js'
import type { SupervisorProtocol, TrainOrder, TrainReport } from '../supervisor/protocol.js'
import { type Batch, writeBatch } from './batch.js'
import type { PlannedFault } from './chaos.js'
import { EngineError } from './errors.js'
import { notFinite, skipNotice } from './failure.js'
import { spansOf, timingOf } from './measure.js'
import type { Prepared } from './prepare.js'
import type { RunState } from './run-state.js'
import { stepScalars } from './scalars.js'
import { patient, slotCount, type Troupe } from './troupe.js'

/** Steps under way at most: there are as many candidates for what an update depends on. */
const mostUnderWay = 2

/** What the steps need of the run around them. */
export interface StepsParts {
  readonly prepared: Prepared
  readonly state: RunState
  troupe(): Troupe
  /** Where spans are gathered, if they are. */
  spans(): TraceSpan[] | null
  emit(event: TrainEvent): void
}

interface Sent {
  readonly order: TrainOrder
  /** Milliseconds of `performance.now()`. */
  readonly at: number
}

export interface StepLimits {
  /** The last step that may be sent now. */
  readonly upTo: number
  /** Whether batches of the data are wanted after it. */
  readonly more: boolean
}

export class Steps {
  /** Under way, the oldest first. */
  #sent: Sent[] = []
  /** When the latest report came. */
  #reported = 0
  /** Callers take turns. */
  #turn: Promise<unknown> = Promise.resolve()
  /** The last step that was made with a batch of the caller's. */
  foreign = 0
  readonly #chaos: Set<PlannedFault>

  constructor(private readonly parts: StepsParts) {
    this.#chaos = new Set(parts.prepared.chaos)
  }

  /** The last step that was sent. */
  get sent(): number {
    return this.#sent.at(-1)?.order.step ?? this.parts.state.progress.step
  }

  /** After a failure nothing is under way. */
  forget(): void {
    this.#sent = []
  }

  /** The event of the next step, once it is done; null: it is past `upTo`. Rejects with EngineError where it is not finite. */
  next(limits: StepLimits, batch: Batch | null = null): Promise<StepEvent | null> {
    const turn = this.#turn.then(() => this.#next(limits, batch))
    this.#turn = turn.catch(() => {})
    return turn
  }

  async #next({ upTo, more }: StepLimits, batch: Batch | null): Promise<StepEvent | null> {
    const { state } = this.parts
    if (state.progress.step >= upTo) return null
    const orders: TrainOrder[] = []
    while (this.sent < upTo && this.#mayFollow(this.sent + 1)) {
      const order = this.#order(this.sent + 1, batch, more || this.sent + 1 < upTo)
      orders.push(order)
      this.#sent.push({ order, at: performance.now() })
    }
    const report = await this.#ask(orders)
    const { order, at } = this.#sent.shift()!
    const since = Math.max(at, this.#reported)
    this.#reported = performance.now()
    return await this.#finish(order, report, (this.#reported - since) / 1000)
  }

  async #ask(orders: readonly TrainOrder[]): Promise<TrainReport> {
    try {
      return await this.#supervisor.ask({ type: 'train', orders }, patient)
    } catch (error) {
      this.forget()
      throw error
    }
  }

  get #supervisor(): ActorRef<SupervisorProtocol> {
    return this.parts.troupe().supervisor
  }

  get #profiles(): boolean {
    return this.parts.spans() !== null || this.parts.prepared.config.wallClockBreakdown
  }

  /** Whether a step may be sent behind those under way. One that is measured or struck has nothing before it. */
  #mayFollow(step: number): boolean {
    const before = this.#sent.at(-1)
    if (!before) return true
    if (this.#sent.length === mostUnderWay || before.order.profile || this.#profiles) return false
    return ![...this.#chaos].some((fault) => fault.step === null || fault.step === step)
  }

  #order(step: number, batch: Batch | null, more: boolean): TrainOrder {
    const { prepared, state } = this.parts
    const { train } = prepared.config.batch
    const { progress } = state
    const sample = progress.samples + (step - progress.step - 1) * train
    return {
      step,
      sample,
      nextSample: more ? sample + train : null,
      slot: batch ? this.#ownBatch(batch) : null,
      scalars: stepScalars(prepared, step, progress),
      profile: this.#profiles,
      faults: this.#faultsOf(step),
    }
  }

  /** The last slot is the caller's. */
  #ownBatch(batch: Batch): number {
    const slot = slotCount - 1
    writeBatch(this.parts.prepared, batch, this.parts.troupe().slots[slot]!)
    return slot
  }

  /** What each rank is to suffer in a step. Faults of one step are used up. */
  #faultsOf(step: number): Fault[][] {
    const faults: Fault[][] = Array.from({ length: this.parts.prepared.ranks }, () => [])
    for (const planned of this.#chaos) {
      if (planned.step !== null && planned.step !== step) continue
      faults[planned.rank]!.push(planned.fault)
      if (planned.step !== null) this.#chaos.delete(planned)
    }
    return faults
  }

  /** Moves the run on by a step that is done, and tells of it. */
  async #finish(order: TrainOrder, report: TrainReport, seconds: number): Promise<StepEvent> {
    const { prepared, state, emit, spans: gathered } = this.parts
    const { config, sequence, schedule, compilation } = prepared
    const { step } = order
    const { applied, scaler } = state.progress
    // Every rank has the same norm, and skipped the update by it.
    const skipped = !Number.isFinite(report.norm)
    if (!report.finite && !(skipped && config.precision.skipsOverflow)) throw await this.#notFinite(order, report)
    expectUpdates(step, applied, order.scalars['taken']! + report.candidate)
    await this.#advance(order, report, skipped)
    const { applied: updates, scaler: next } = state.progress
    const scales = config.precision.dtype === 'f16'
    if (order.slot !== null) this.foreign = step
    const spans = order.profile ? spansOf(compilation, report.ranks, step) : []
    gathered()?.push(...spans)
    const tokens = config.batch.train * sequence
    const event: StepEvent = {
      type: 'step',
      step,
      loss: report.loss,
      grad_norm: skipped ? -1 : report.norm,
      lr: schedule.at(applied).lr[0]!,
      skipped,
      skipped_steps: step - updates,
      ...(scales && { loss_scale: scaler.scale }),
      tokens,
      tokens_per_second: tokens / seconds,
      seconds,
      // Reports arrive a little early or late.
      native_seconds: Math.min(seconds, Math.max(...report.ranks.map(({ nativeSeconds }) => nativeSeconds))),
    }
    emit(event)
    if (skipped) emit(skipNotice(step, scales ? [scaler.scale, next.scale] : null))
    if (config.wallClockBreakdown) emit(timingOf(spans, report.ranks.length, step))
    return event
  }

  /** Counts a step as done, or ends the run where the loss scaler could go no lower. */
  async #advance(order: TrainOrder, report: TrainReport, skipped: boolean): Promise<void> {
    const { state, prepared } = this.parts
    try {
      state.advance(prepared.config.batch.train, skipped)
    } catch (error) {
      if (!(error instanceof OptimError)) throw error
      throw await this.#notFinite(order, report, error)
    }
  }

  /** What is under way behind the step updates nothing; then the step is repeated as it was. */
  async #notFinite(order: TrainOrder, report: TrainReport, cause?: OptimError): Promise<EngineError> {
    for (; this.#sent.length > 0; this.#sent.shift()) await this.#ask([])
    const found = await this.#supervisor.ask({ type: 'diagnose', order: { ...order, profile: false } }, patient)
    return notFinite(order.step, report, found, cause)
  }
}

/** The programs count updates for themselves. */
function expectUpdates(step: number, expected: number, got: number): void {
  if (got === expected) return
  const message = `train: updates before step ${step}, expected ${expected} in the ranks' programs, got ${got}`
  throw new EngineError('ENGINE_RANK_FAILED', message, { step })
}
