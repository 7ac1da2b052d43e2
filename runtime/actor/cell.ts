// One life of an actor on its host: mailbox, state and the one handler that runs. Handlers run one at a time; notices of ended lives
// come before user messages; an order to stop acts at once on the mailbox and the signal, even while a handler awaits.
import { Context, type ContextCell, type ContextHost } from './context.js'
import type { CreditTable } from './credits.js'
import type { ActorContext, ErasedBehaviour, Place, Terminated } from './definition.js'
import type { Address, Letter, LifeSpec } from './envelope.js'
import { ActorError, asError, type Cause, deadActor, exceptionCause } from './errors.js'
import { type Frame, frames } from './frame.js'
import { Queue } from './queue.js'

/** What a cell needs of its host. */
export interface CellHost extends ContextHost {
  readonly credits: CreditTable
  load(definition: LifeSpec['definition']): Promise<ErasedBehaviour>
  /** Gives the cell a turn soon. */
  schedule(cell: Cell): void
  reply(ask: NonNullable<Letter['ask']>, value: unknown): void
  refuse(ask: NonNullable<Letter['ask']>, error: Error): void
  /** A letter that this life will not handle. */
  undeliverable(letter: Letter, cause: Cause | undefined): void
  over(cell: Cell): void
}

/** `failed`: waits for the guardian's order to end. */
type Status = 'starting' | 'running' | 'failed' | 'ending' | 'over'

export class Cell implements ContextCell {
  readonly address: Address
  /** Set by the host while the cell waits for a turn. */
  scheduled = false
  private readonly life: number
  private readonly letters = new Queue<Letter>()
  private readonly notices = new Queue<Terminated>()
  private readonly frame: Frame
  private readonly context: ActorContext
  private creditWaiters: { id: number; host: number }[] = []
  private status: Status = 'starting'
  /** `init`, a handler or the `stop` hook is pending. */
  private busy = true
  private current: Letter | null = null
  private cancelled = false
  private cause: Cause | undefined
  private behaviour: ErasedBehaviour | null = null
  private state: unknown
  private initialised = false
  private abort: AbortController | null = null
  private askAbort: AbortController | null = null

  constructor(
    private readonly host: CellHost,
    private readonly spec: LifeSpec,
  ) {
    this.address = spec.address
    this.life = host.credits.open(spec.address.slot, spec.address.id, spec.capacity)
    this.frame = { host, actor: this, chain: [this.address] }
    this.context = new Context(host, this)
  }

  get over(): boolean {
    return this.status === 'over'
  }

  get incarnation(): number {
    return this.spec.incarnation
  }

  get parent(): Address | null {
    return this.spec.parent
  }

  get worker(): Place {
    return this.spec.worker
  }

  get watches(): boolean {
    return this.behaviour?.onTerminated !== undefined
  }

  get sender(): Address | null {
    return this.current?.from ?? null
  }

  get signal(): AbortSignal {
    this.abort ??= new AbortController()
    if (this.cause) this.abort.abort(deadActor('signal', this.address.path, this.cause))
    return this.abort.signal
  }

  get askSignal(): AbortSignal {
    if (!this.current?.ask) return this.signal
    this.askAbort ??= new AbortController()
    if (this.cancelled) this.askAbort.abort(givenUp(this.address.path))
    return AbortSignal.any([this.signal, this.askAbort.signal])
  }

  expectAlive(operation: string): void {
    if (this.over) throw deadActor(operation, this.address.path, this.cause)
  }

  /** Loads the definition and makes the state; reports `started` or `failed`. */
  async start(): Promise<void> {
    try {
      const behaviour = await this.host.load(this.spec.definition)
      this.behaviour = behaviour
      this.state = await frames.run(this.frame, async () => behaviour.init(this.context, this.spec.args))
      this.initialised = true
    } catch (error) {
      this.busy = false
      this.fail(error)
      return
    }
    this.busy = false
    if (this.status === 'starting') {
      this.status = 'running'
      this.host.report({ kind: 'started', id: this.address.id, incarnation: this.incarnation })
    }
    this.settled()
  }

  deliver(letter: Letter): void {
    if (letter.life !== this.life || (this.status !== 'starting' && this.status !== 'running')) {
      this.host.undeliverable(letter, this.cause)
      return
    }
    this.letters.push(letter)
    this.host.schedule(this)
  }

  notify(notice: Terminated): void {
    this.notices.push(notice)
    this.host.schedule(this)
  }

  /** Answers when the mailbox has room, or is closed. */
  awaitCredit(id: number, host: number): void {
    this.creditWaiters.push({ id, host })
    const { slot, id: actor } = this.address
    if (this.host.credits.left(slot, actor) !== 0) this.wakeCreditWaiters()
  }

  /** The asker gave up: a waiting letter goes, a running handler is told. */
  cancel(ask: number, host: number): void {
    const matches = (letter: Letter): boolean => letter.ask?.id === ask && letter.ask.host === host
    if (this.current && matches(this.current)) {
      this.cancelled = true
      this.askAbort?.abort(givenUp(this.address.path))
    } else {
      const letter = this.letters.remove(matches)
      if (letter) this.giveBack(letter)
    }
  }

  /** Handles one notice or letter. True: there is more to do now. */
  turn(): boolean {
    if (this.busy || this.status !== 'running') return false
    const behaviour = this.behaviour!
    const notice = this.notices.shift()
    if (notice) {
      this.perform(null, this.frame, () => behaviour.onTerminated?.(this.state, notice, this.context))
    } else {
      const letter = this.letters.shift()
      if (!letter) return false
      this.giveBack(letter)
      this.handle(behaviour, letter)
    }
    return !this.busy && this.status === 'running' && this.notices.size + this.letters.size > 0
  }

  /** Ends this life: the mailbox closes and the signal fires now, the hook runs when the running handler is done or, forced, never. */
  stop(cause: Cause, force: boolean): void {
    if (this.status === 'over') return
    if (this.status !== 'ending') {
      this.close(cause)
      this.status = 'ending'
      if (!this.busy && !force) void this.finish()
    }
    if (force) this.end(null)
  }

  private handle(behaviour: ErasedBehaviour, letter: Letter): void {
    const { type } = letter.message
    if (typeof type !== 'string' || !Object.hasOwn(behaviour.receive, type)) {
      const known = Object.keys(behaviour.receive).join(', ')
      const message = `receive: type of a message to ${this.address.path}, expected one of ${known}, got ${String(type)}`
      const error = new ActorError('UNKNOWN_MESSAGE', message, { actor: this.address.path, type })
      if (letter.ask) this.host.refuse(letter.ask, error)
      else this.host.undeliverable(letter, { kind: 'exception', message, error })
      return
    }
    const frame = letter.ask ? { ...this.frame, chain: [...letter.ask.chain, this.address] } : this.frame
    this.perform(letter, frame, () => behaviour.receive[type]!(this.state, letter.message, this.context))
  }

  private perform(letter: Letter | null, frame: Frame, run: () => unknown): void {
    this.current = letter
    this.cancelled = false
    this.askAbort = null
    this.busy = true
    let result: unknown
    try {
      result = frames.run(frame, run)
    } catch (error) {
      this.threw(letter, error)
      return
    }
    if (typeof (result as PromiseLike<unknown> | undefined)?.then === 'function') {
      ;(result as PromiseLike<unknown>).then(
        (value) => this.handled(letter, value),
        (error) => this.threw(letter, error),
      )
    } else this.handled(letter, result)
  }

  private handled(letter: Letter | null, value: unknown): void {
    if (this.over) return
    this.busy = false
    this.current = null
    if (letter?.ask) this.host.reply(letter.ask, value)
    this.settled()
  }

  private threw(letter: Letter | null, thrown: unknown): void {
    if (this.over) return
    this.busy = false
    this.current = null
    // The mailbox closes and the guardian knows before the asker does, so that `ready()` then waits for the next life.
    this.fail(thrown)
    if (!letter?.ask) return
    const { path } = this.address
    const type = String(letter.message.type)
    const cause = asError(thrown)
    const message = `ask: ${path} failed at "${type}": ${cause.message}`
    this.host.refuse(letter.ask, new ActorError('HANDLER_FAILED', message, { actor: path, type }, { cause }))
  }

  private fail(thrown: unknown): void {
    if (this.status === 'ending') void this.finish()
    if (this.status !== 'starting' && this.status !== 'running') return
    const cause = exceptionCause(thrown)
    this.close(cause)
    this.status = 'failed'
    this.host.report({ kind: 'failed', id: this.address.id, incarnation: this.incarnation, cause })
  }

  private settled(): void {
    if (this.status === 'ending') void this.finish()
    else if (this.status === 'running') this.host.schedule(this)
  }

  /** No more messages: those that wait are undeliverable. */
  private close(cause: Cause): void {
    if (this.cause) return
    this.cause = cause
    this.host.credits.close(this.address.slot, this.spec.capacity)
    for (let letter = this.letters.shift(); letter; letter = this.letters.shift())
      this.host.undeliverable(letter, cause)
    this.wakeCreditWaiters()
    const error = deadActor('signal', this.address.path, cause)
    this.abort?.abort(error)
  }

  private async finish(): Promise<void> {
    this.busy = true
    let stopError: Error | null = null
    const { behaviour, cause } = this
    if (this.initialised && behaviour?.stop) {
      try {
        await frames.run(this.frame, async () => behaviour.stop?.(this.state, this.context, cause!))
      } catch (error) {
        stopError = exceptionCause(error).error!
      }
    }
    this.end(stopError)
  }

  private end(stopError: Error | null): void {
    if (this.over) return
    this.status = 'over'
    if (this.current?.ask) this.host.refuse(this.current.ask, deadActor('ask', this.address.path, this.cause))
    this.host.over(this)
    this.host.report({ kind: 'ended', id: this.address.id, incarnation: this.incarnation, stopError })
  }

  private giveBack(letter: Letter): void {
    this.host.credits.give(this.address.slot, letter.life)
    this.wakeCreditWaiters()
  }

  private wakeCreditWaiters(): void {
    if (this.creditWaiters.length === 0) return
    const waiters = this.creditWaiters
    this.creditWaiters = []
    for (const { id, host } of waiters) this.host.reply({ id, host, chain: [] }, undefined)
  }
}

const givenUp = (path: string): ActorError => new ActorError('ABORTED', `ask: the asker of ${path} gave up`)
