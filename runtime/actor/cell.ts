// One life of an actor on its host: mailbox, state and the one handler that runs. Handlers run one at a time; notices of ended lives
// come before user messages; an order to stop acts at once on the mailbox and the signal, even while a handler awaits.
import { Context, type ContextCell, type ContextHost } from './context.js'
import { type CreditTable, down, lifeOf } from './credits.js'
import type { ActorContext, ErasedBehaviour, Place, Terminated } from './definition.js'
import { type Address, type Clock, type Letter, type LifeSpec, letterOf, type UserMessage } from './envelope.js'
import { ActorError, asError, type Cause, deadActor, exceptionCause } from './errors.js'
import type { ActivityView } from './events.js'
import { type Frame, frames } from './frame.js'
import { createLogger, type Logger, type LogLevel } from './log.js'
import { Queue, type Room } from './queue.js'
import { noCredit, Stash } from './stash.js'
import { HandlerTimes } from './stats.js'
import type { StreamOwner, Streams } from './streams.js'
import { Timers } from './timers.js'
import type { Tracing } from './tracing.js'
import { allUnits, bytesLeft, giveBytes } from './weight.js'

/** What a cell needs of its host. */
export interface CellHost extends ContextHost {
  readonly credits: CreditTable
  readonly clock: Clock
  /** Of mailboxes. */
  readonly queues: Room
  readonly streams: Streams
  readonly tracing: Tracing | null
  /** Whole milliseconds, to within one turn of the event loop. */
  readonly now: number
  load(definition: LifeSpec['definition']): ErasedBehaviour | Promise<ErasedBehaviour>
  /** Called between two handlers; false: the turn is to end. */
  proceed(): boolean
  /** Gives the cell a turn soon. */
  schedule(cell: Cell): void
  /** Gives the cell the next turn. */
  press(cell: Cell): void
  /** Replies with a value, or with a stream of the cell. */
  answer(cell: Cell, frame: Frame, ask: NonNullable<Letter['ask']>, value: unknown): void
  reply(ask: { readonly id: number; readonly host: number }, value: unknown): void
  refuse(ask: NonNullable<Letter['ask']>, error: Error): void
  /** A letter that this life will not handle. */
  undeliverable(letter: Letter, cause: Cause | undefined): void
  over(cell: Cell): void
}

/** Letters handled before other actors get their turn. */
const mostTells = 64
/** Credits kept back at most while letters are handled. */
const mostOwed = 64
/** Numbers above are no lives: such letters hold no credit. */
const maxLife = lifeOf(-1)

type Handler = ErasedBehaviour['receive'][string]

/** Who waits for credit: `units` of bytes, or just for a message. */
interface CreditWaiter {
  readonly id: number
  readonly host: number
  readonly units: number
}

/** Nobody, as at most actors. */
const nobody: CreditWaiter[] = []

/** `failed`: waits for the guardian's order to end. */
type Status = 'starting' | 'running' | 'failed' | 'ending' | 'over'

export class Cell implements ContextCell, StreamOwner {
  readonly address: Address
  readonly parent: Address | null
  readonly worker: Place
  readonly incarnation: number
  private readonly capacity: number
  private readonly logLevel: LogLevel
  /** Set by the host while the cell waits for a turn. */
  scheduled = false
  private readonly life: number
  private readonly letters: Queue<Letter>
  private notices: Queue<Terminated> | null = null
  readonly frame: Frame
  private readonly context: ActorContext
  private creditWaiters: CreditWaiter[] = nobody
  private status: Status = 'starting'
  /** `init`, a handler or the `stop` hook is pending. */
  private busy = true
  /** Credits to give back. */
  private owed = 0
  /** The message being handled, who sent it and who awaits a reply. */
  private message: UserMessage | null = null
  private from: Address | null = null
  private ask: Letter['ask'] = null
  /** The latest type of message and its handler. */
  private type = ''
  private handler: Handler | null = null
  private cancelled = false
  private overflowing: Cause | null = null
  private cause: Cause | undefined
  private behaviour: ErasedBehaviour | null = null
  private state: unknown
  private initialised = false
  private abort: AbortController | null = null
  private askAbort: AbortController | null = null
  private clockwork: Timers | null = null
  private aside: Stash | null = null
  private times: HandlerTimes | null = null
  private logger: Logger | null = null
  /** When the running handler began, where it is timed. */
  private began: number | null = null

  constructor(
    private readonly host: CellHost,
    spec: LifeSpec,
  ) {
    this.address = spec.address
    this.parent = spec.parent
    this.worker = spec.worker
    this.incarnation = spec.incarnation
    this.capacity = spec.capacity
    this.logLevel = spec.logLevel
    const { slot, id, bytes } = spec.address
    this.life = host.credits.open(slot, id, spec.capacity, bytes && { slot: bytes.slot, units: allUnits(bytes) })
    this.letters = new Queue(host.queues)
    this.frame = { host, actor: this, chain: [this.address] }
    this.context = new Context(host, this)
  }

  get over(): boolean {
    return this.status === 'over'
  }

  get watches(): boolean {
    return this.behaviour?.onTerminated !== undefined
  }

  get sender(): Address | null {
    return this.message && this.from
  }

  get timers(): Timers {
    this.clockwork ??= new Timers(this.host.clock, () => this.host.schedule(this))
    return this.clockwork
  }

  get log(): Logger {
    const { system } = this.host
    const { path: actor } = this.address
    this.logger ??= createLogger({ system, worker: this.worker, actor }, this.logLevel, (level, line) =>
      this.host.report({ kind: 'event', event: { type: 'log', actor, level, line } }),
    )
    return this.logger
  }

  get signal(): AbortSignal {
    this.abort ??= new AbortController()
    if (this.cause) this.abort.abort(deadActor('signal', this.address.path, this.cause))
    return this.abort.signal
  }

  get askSignal(): AbortSignal {
    if (!this.message || !this.ask) return this.signal
    this.askAbort ??= new AbortController()
    if (this.cancelled) this.askAbort.abort(givenUp(this.address.path))
    return AbortSignal.any([this.signal, this.askAbort.signal])
  }

  expectAlive(operation: string): void {
    if (this.over) throw deadActor(operation, this.address.path, this.cause)
  }

  /** Puts the current message aside; it is not answered now. Throws `BAD_OPTION`, `MAILBOX_FULL`. */
  stash(): void {
    if (!this.message) {
      throw new ActorError('BAD_OPTION', `stash: ${this.address.path}, expected a message being handled, got none`)
    }
    this.aside ??= new Stash(this.address.path, this.capacity)
    this.aside.hold(letterOf(this.address, noCredit, this.from, this.message, this.ask))
    this.message = null
  }

  /** Puts what was stashed before all that waits. */
  unstash(): void {
    this.aside?.unstash()
    this.host.schedule(this)
  }

  /** Keeps what the definition's `survive` says of the state for the next life. */
  survive(): void {
    const survive = this.behaviour?.survive
    if (!survive) {
      const message = `survive: ${this.address.path}, expected a definition with survive, got none`
      throw new ActorError('BAD_OPTION', message)
    }
    const value = survive(this.state)
    this.host.report({ kind: 'survive', id: this.address.id, incarnation: this.incarnation, value })
  }

  view(now: number): Omit<ActivityView, 'waitsFor'> {
    const oldest = this.letters.first
    return {
      oldestMs: oldest ? Math.max(now - oldest.at, 0) : 0,
      stashed: this.aside?.size ?? 0,
      handlers: (this.times ?? new HandlerTimes()).view(),
    }
  }

  /** Loads the definition and makes the state; reports `started` or `failed`. */
  start(spec: LifeSpec): void {
    const loaded = this.host.load(spec.definition)
    if (loaded instanceof Promise) {
      loaded.then(
        (behaviour) => this.init(behaviour, spec),
        (error) => this.unstarted(error),
      )
    } else this.init(loaded, spec)
  }

  private init(behaviour: ErasedBehaviour, { args, survived }: LifeSpec): void {
    this.behaviour = behaviour
    let state: unknown
    try {
      state = frames.run(this.frame, () => behaviour.init(this.context, args, survived))
    } catch (error) {
      this.unstarted(error)
      return
    }
    if (typeof (state as PromiseLike<unknown> | undefined | null)?.then === 'function') {
      ;(state as PromiseLike<unknown>).then(
        (made) => this.started(made),
        (error) => this.unstarted(error),
      )
    } else this.started(state)
  }

  private started(state: unknown): void {
    this.state = state
    this.initialised = true
    this.busy = false
    if (this.status === 'starting') {
      this.status = 'running'
      this.host.report({ kind: 'started', id: this.address.id, incarnation: this.incarnation })
    }
    this.settled()
  }

  private unstarted(error: unknown): void {
    this.busy = false
    this.fail(error)
  }

  deliver(letter: Letter): void {
    if (lifeOf(letter.life) !== this.life || (this.status !== 'starting' && this.status !== 'running')) {
      this.host.undeliverable(letter, this.cause)
      return
    }
    letter.at = this.host.now
    if (this.letters.size >= this.capacity) this.dropOldest()
    this.letters.push(letter)
    this.host.schedule(this)
  }

  notify(notice: Terminated): void {
    this.notices ??= new Queue()
    this.notices.push(notice)
    this.host.press(this)
  }

  /** Makes room for a letter that came without a credit. */
  private dropOldest(): void {
    const letter = this.letters.shift()!
    if (letter.ask) {
      this.giveBack(letter)
      this.host.refuse(letter.ask, this.pushedOut.error!)
    } else this.host.undeliverable(letter, this.pushedOut)
  }

  /** Why a letter gave way to a newer one; the same for all. */
  private get pushedOut(): Cause {
    if (!this.overflowing) {
      const { path } = this.address
      const { capacity } = this
      const message = `send: ${path}, expected room in its mailbox of ${capacity}, got a newer message in place of this one`
      const error = new ActorError('MAILBOX_FULL', message, { to: path, capacity })
      this.overflowing = { kind: 'exception', message, error }
    }
    return this.overflowing
  }

  /** Answers when the mailbox has room, or is closed. */
  awaitCredit(id: number, host: number, units: number): void {
    this.awaitMore({ id, host, units })
    const { slot, id: actor } = this.address
    if (this.host.credits.left(slot, actor) !== 0) this.wakeCreditWaiters()
  }

  /** The asker gave up: a waiting letter goes, a running handler is told. */
  cancel(ask: number, host: number): void {
    const matches = (letter: Letter): boolean => letter.ask?.id === ask && letter.ask.host === host
    if (this.message && this.ask?.id === ask && this.ask.host === host) {
      this.cancelled = true
      this.askAbort?.abort(givenUp(this.address.path))
    } else {
      const letter = this.letters.remove(matches)
      if (letter) this.giveBack(letter)
      else this.aside?.remove(matches)
    }
  }

  /** Handles one notice or letter. True: there is more to do now. */
  turn(): boolean {
    if (this.busy || this.status !== 'running') return false
    const behaviour = this.behaviour!
    const notice = this.notices?.shift()
    if (notice) {
      this.perform(null, null, null, this.frame, () => behaviour.onTerminated?.(this.state, notice, this.context))
    } else {
      const letter = this.tick() ?? this.aside?.take() ?? this.letters.shift()
      if (!letter) return false
      if (letter.life !== noCredit) this.giveBack(letter)
      if (letter.ask) this.handle(letter)
      else {
        frames.run(this.frame, runTells, this, letter)
        this.settleCredit()
      }
    }
    return !this.busy && this.status === 'running' && this.waiting > 0
  }

  /** Handles a letter and those behind it, for a while, as long as nobody asks. */
  tells(first: Letter): void {
    let letter = first
    for (let n = 1; ; n++) {
      const handler = this.handlerOf(letter.message.type)
      if (handler) this.run(handler, letter.from, letter.message)
      else this.unknown(letter)
      if (n >= mostTells || this.busy || this.status !== 'running' || !this.host.proceed()) return
      if (this.status !== 'running' || this.waiting > this.letters.size) return
      const next = this.letters.first
      if (!next || next.ask || this.address.bytes) return
      this.letters.shift()
      this.owed += next.life <= maxLife ? 1 : 0
      if (this.owed >= mostOwed || this.creditWaiters.length > 0) this.settleCredit()
      letter = next
    }
  }

  /**
   * Handles a message that just arrived, within the actor's frame; false: something is before it, or it is not to be handled.
   * `rest` follows, when no more such messages come for now.
   */
  handleNow(life: number, from: Address | null, message: UserMessage): boolean {
    if (this.busy || life !== this.life || this.status !== 'running' || this.waiting > 0) return false
    // What follows may be to take its place, or what it weighs is to be given back.
    if (this.address.overflow === 'drop-oldest' || this.address.bytes) return false
    const handler = this.handlerOf(message.type)
    if (!handler) return false
    if (++this.owed >= mostOwed || this.creditWaiters.length > 0) this.settleCredit()
    this.run(handler, from, message)
    return true
  }

  rest(): void {
    this.settleCredit()
  }

  /** The same for an ask; no `rest` follows. */
  answerNow(letter: Letter): boolean {
    if (this.busy || letter.life !== this.life || this.status !== 'running' || this.waiting > 0) return false
    if (this.address.overflow === 'drop-oldest') return false
    this.giveBack(letter)
    this.handle(letter)
    return true
  }

  /** Ends this life: the mailbox closes and the signal fires now, the hook runs when the running handler is done or, forced, never. */
  stop(cause: Cause, force: boolean): void {
    if (this.status === 'over') return
    if (this.status !== 'ending') {
      this.close(cause)
      this.status = 'ending'
      if (!this.busy && !force) this.finish()
    }
    if (force) this.end(null)
  }

  /** The life is over without more ado, for its host is. */
  drop(): void {
    this.clockwork?.clear()
  }

  private get waiting(): number {
    return this.letters.size + (this.notices?.size ?? 0) + (this.clockwork?.size ?? 0) + (this.aside?.waiting ?? 0)
  }

  /** The message of a timer that is due. */
  private tick(): Letter | undefined {
    const message = this.clockwork?.take()
    const { address } = this
    return message && letterOf(address, noCredit, address, message)
  }

  private handlerOf(type: PropertyKey): Handler | null {
    if (type === this.type) return this.handler
    const { receive } = this.behaviour!
    if (typeof type !== 'string' || !Object.hasOwn(receive, type)) return null
    this.type = type
    this.handler = receive[type]!
    return this.handler
  }

  private handle(letter: Letter): void {
    const { message, from, ask } = letter
    const handler = this.handlerOf(message.type)
    if (!handler) {
      this.unknown(letter)
      return
    }
    const frame = ask ? { host: this.host, actor: this, chain: [...ask.chain, this.address] } : this.frame
    const run = (): unknown => handler.call(this.behaviour!.receive, this.state, message, this.context)
    const trace = ask?.trace
    const { tracing } = this.host
    const type = message.type as string
    this.perform(
      message,
      from,
      ask,
      frame,
      trace && tracing ? () => tracing.handle(this.address, type, trace, run) : run,
    )
  }

  private unknown(letter: Letter): void {
    const { type } = letter.message
    const known = Object.keys(this.behaviour!.receive).join(', ')
    const message = `receive: type of a message to ${this.address.path}, expected one of ${known}, got ${String(type)}`
    const error = new ActorError('UNKNOWN_MESSAGE', message, { actor: this.address.path, type })
    // Its credit was given back when its turn came.
    if (letter.ask) this.host.refuse(letter.ask, error)
    else this.host.undeliverable({ ...letter, life: noCredit }, { kind: 'exception', message, error })
  }

  /** Handles a tell within the actor's frame. */
  private run(handler: Handler, from: Address | null, message: UserMessage): void {
    this.begin(message, from, null)
    let result: unknown
    try {
      result = handler.call(this.behaviour!.receive, this.state, message, this.context)
    } catch (error) {
      this.threw(message, null, error)
      return
    }
    if (result === undefined) this.handled(null, this.frame, undefined)
    else this.settle(message, null, this.frame, result)
  }

  private perform(
    message: UserMessage | null,
    from: Address | null,
    ask: Letter['ask'],
    frame: Frame,
    run: () => unknown,
  ): void {
    this.begin(message, from, ask)
    let result: unknown
    try {
      result = frames.run(frame, run)
    } catch (error) {
      this.threw(message, ask, error)
      return
    }
    this.settle(message, ask, frame, result)
  }

  private begin(message: UserMessage | null, from: Address | null, ask: Letter['ask']): void {
    this.message = message
    this.from = from
    this.ask = ask
    this.cancelled = false
    this.askAbort = null
    this.busy = true
    this.times ??= new HandlerTimes()
    this.began = this.times.begin() ? this.host.clock.now() : null
  }

  /** A handler has returned: its reply, or a promise of it. */
  private settle(message: UserMessage | null, ask: Letter['ask'], frame: Frame, result: unknown): void {
    if (typeof (result as PromiseLike<unknown> | undefined)?.then === 'function') {
      ;(result as PromiseLike<unknown>).then(
        (value) => this.handled(ask, frame, value),
        (error) => this.threw(message, ask, error),
      )
    } else this.handled(ask, frame, result)
  }

  private handled(ask: Letter['ask'], frame: Frame, value: unknown): void {
    if (this.over) return
    this.ran()
    // A letter that was stashed is answered when it is handled again.
    if (ask) {
      if (this.message) this.host.answer(this, frame, ask, value)
      this.ask = null
    }
    this.message = null
    this.settled()
  }

  private threw(handling: UserMessage | null, ask: Letter['ask'], thrown: unknown): void {
    if (this.over) return
    this.ran()
    this.message = null
    // The mailbox closes and the guardian knows before the asker does, so that `ready()` then waits for the next life.
    this.fail(thrown)
    if (!ask) return
    const { path } = this.address
    const type = String(handling?.type)
    const cause = asError(thrown)
    const message = `ask: ${path} failed at "${type}": ${cause.message}`
    this.host.refuse(ask, new ActorError('HANDLER_FAILED', message, { actor: path, type }, { cause }))
  }

  /** No handler runs any more. */
  private ran(): void {
    this.busy = false
    if (this.began !== null) this.times?.note(this.host.clock.now() - this.began)
  }

  /** This life has failed. */
  fail(thrown: unknown): void {
    if (this.status === 'ending') this.finish()
    if (this.status !== 'starting' && this.status !== 'running') return
    const cause = exceptionCause(thrown)
    this.close(cause)
    this.status = 'failed'
    this.host.report({ kind: 'failed', id: this.address.id, incarnation: this.incarnation, cause })
  }

  private settled(): void {
    if (this.status === 'ending') this.finish()
    else if (this.status === 'running' && this.waiting > 0) this.host.schedule(this)
  }

  /** No more messages: those that wait are undeliverable. */
  private close(cause: Cause): void {
    if (this.cause) return
    this.cause = cause
    const { slot, bytes } = this.address
    this.host.credits.close(slot, this.capacity)
    if (bytes) this.host.credits.close(bytes.slot, 0)
    this.clockwork?.clear()
    this.host.streams.lifeOver(this.address, cause)
    for (const letter of this.aside?.drain() ?? []) this.host.undeliverable(letter, cause)
    for (let letter = this.letters.shift(); letter; letter = this.letters.shift())
      this.host.undeliverable(letter, cause)
    this.wakeCreditWaiters()
    this.abort?.abort(deadActor('signal', this.address.path, cause))
  }

  private finish(): void {
    this.busy = true
    const { behaviour, cause } = this
    if (!this.initialised || !behaviour?.stop) {
      this.end(null)
      return
    }
    const hook = async (): Promise<unknown> => behaviour.stop?.(this.state, this.context, cause!)
    frames.run(this.frame, hook).then(
      () => this.end(null),
      (error) => this.end(asError(error)),
    )
  }

  private end(stopError: Error | null): void {
    if (this.over) return
    this.status = 'over'
    if (this.message && this.ask) this.host.refuse(this.ask, deadActor('ask', this.address.path, this.cause))
    this.host.over(this)
    this.host.report({ kind: 'ended', id: this.address.id, incarnation: this.incarnation, stopError })
  }

  /** Gives back the credits of letters handled in one go. */
  private settleCredit(): void {
    if (this.owed === 0) return
    const { owed } = this
    this.owed = 0
    this.host.credits.give(this.address.slot, this.life, owed)
    this.wakeCreditWaiters()
  }

  private giveBack(letter: Letter): void {
    this.host.credits.give(this.address.slot, letter.life)
    giveBytes(this.host.credits, letter)
    this.wakeCreditWaiters()
  }

  private wakeCreditWaiters(): void {
    if (this.creditWaiters.length === 0) return
    const waiters = this.creditWaiters
    this.creditWaiters = nobody
    const left = bytesLeft(this.host.credits, this.address)
    for (const { id, host, units } of waiters) {
      if (left === down || units <= left) this.host.reply({ id, host }, undefined)
      else this.awaitMore({ id, host, units })
    }
  }

  private awaitMore(waiter: CreditWaiter): void {
    if (this.creditWaiters === nobody) this.creditWaiters = [waiter]
    else this.creditWaiters.push(waiter)
  }
}

const runTells = (cell: Cell, first: Letter): void => cell.tells(first)

const givenUp = (path: string): ActorError => new ActorError('ABORTED', `ask: the asker of ${path} gave up`)
