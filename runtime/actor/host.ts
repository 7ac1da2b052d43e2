// What one thread runs of a system: its cells, the turns they take, and every send that starts here. A host knows no other host's
// cells; it takes credit in the shared table, hands letters to the transport, and awaits replies by number.
import { Cell, type CellHost } from './cell.js'
import { type CreditTable, creditless, down, full } from './credits.js'
import { Deadlines } from './deadlines.js'
import { Obituaries } from './deathwatch.js'
import { type ActorDefinition, type ErasedBehaviour, importDefinition, type SpawnOptions } from './definition.js'
import {
  type Address,
  type Clock,
  type Envelope,
  type GuardianRequest,
  type Inbox,
  type Letter,
  type LifeSpec,
  letterOf,
  type Order,
  type Report,
  type Signal,
  type Transport,
  type UserMessage,
} from './envelope.js'
import { ActorError, asError, type Cause, deadActor, lateAsk } from './errors.js'
import type { AskView, HostView } from './events.js'
import { type Frame, frames } from './frame.js'
import { Pending } from './pending.js'
import type { ActorRef, AskOptions } from './protocol.js'
import { Queue, Room } from './queue.js'
import { Ref } from './ref.js'
import { isStream, Streams } from './streams.js'
import { findTracing, type Tracing } from './tracing.js'
import { bytesLeft, giveBytes, takeBytes } from './weight.js'

const defaultDeadline = 30_000
/** Letters handled in one go before input is read again. */
const turnsPerGo = 256
/** Milliseconds after which input is read again. */
const msPerGo = 4
/** Handlers between two looks at the clock, while they are fast. */
const mostUnwatched = 16
/** Dead letters that are told with their content within so many milliseconds. */
const mostMourned = 64
const mournMs = 100
/** Credits of one receiver on loan. */
const mostLent = 64

export interface HostOptions {
  readonly system: string
  /** 0 for the thread that started the system, then the workers. */
  readonly index: number
  readonly credits: CreditTable
  readonly transport: Transport
  readonly clock: Clock
}

/** Takes the reports of all hosts; lives beside host 0. */
export interface ReportSink {
  receive(report: Report): void
}

export class Host implements CellHost, Inbox {
  readonly system: string
  readonly index: number
  readonly credits: CreditTable
  /** The guardian, on host 0 only. */
  guardian: ReportSink | null = null
  readonly clock: Clock
  readonly queues = new Room()
  readonly streams = new Streams((to, signal) => this.send(to, signal))
  tracing: Tracing | null = null
  private readonly transport: Transport
  private readonly cells = new Map<number, Cell>()
  /** Cells whose `init` is to run. */
  private readonly starting = new Queue<{ readonly cell: Cell; readonly spec: LifeSpec }>()
  /** Behaviours that were imported, by definition. */
  private readonly behaviours = new Map<string, ErasedBehaviour>()
  private readonly obituaries = new Obituaries()
  private readonly pending = new Pending()
  /** Asks that wait for credit, by receiver: each attempt is true when done. Later sends queue behind them. */
  private readonly lines = new Map<number, (() => boolean)[]>()
  /** Byte credits that the latest refused message of a receiver needs. */
  private readonly refused = new Map<number, number>()
  private readonly ready_ = new Queue<Cell>()
  /** Those whose turn comes before. */
  private readonly pressing = new Queue<Cell>()
  private running = false
  private readonly deadlines: Deadlines
  private readonly loan: Int32Array
  /** The actor that the loan is for, and how large it was. */
  private lentTo = 0
  private lent = 1
  private returning = false
  private goSince = 0
  private watchedAt = 0
  private stride = 1
  private unwatched = 1
  /** What arrives is handled at once. */
  private direct = false
  private directTo: Address | null = null
  private directCell: Cell | undefined
  /** Dead letters of late, and by actor those of them that were not told. */
  private mourned = 0
  private mournedSince = 0
  private readonly unmourned = new Map<string, { count: number; readonly cause: Cause | null }>()
  private closed: ActorError | null = null
  private time: number | null = null

  constructor(options: HostOptions) {
    this.system = options.system
    this.index = options.index
    this.credits = options.credits
    this.transport = options.transport
    this.clock = options.clock
    this.loan = options.credits.loan(options.index)
    this.deadlines = new Deadlines(
      options.clock,
      (id) => this.pending.has(id),
      (id) => this.pending.expire(id),
    )
    void findTracing().then((tracing) => {
      this.tracing ??= tracing
    })
  }

  /** Whole milliseconds, to within one turn of the event loop. */
  get now(): number {
    if (this.time === null) {
      this.time = Math.trunc(this.clock.now())
      this.clock.later(() => {
        this.time = null
      })
    }
    return this.time
  }

  tell(to: Address, message: UserMessage): boolean {
    const from = this.sender('tell', to)?.actor.address ?? null
    if (this.lines.size > 0 && this.lines.has(to.id)) return false
    const life = this.credit(to, 'tell')
    if (life === full || (to.bytes && !this.weigh(to, life, message, 'tell'))) return false
    // Where the receiver is down, its host knows why and tells.
    if (to.host === this.index) this.deliver(letterOf(to, life, from, message))
    else this.post(to, life, from, message)
    return true
  }

  ask(to: Address, message: UserMessage, options: AskOptions): Promise<unknown> {
    const { deadline = defaultDeadline, signal } = options
    return new Promise((resolve, reject) => {
      const frame = this.sender('ask', to)
      const from = frame?.actor.address ?? null
      const chain = frame?.chain ?? []
      const names = { from: from?.path ?? 'outside', to: to.path, type: message.type }
      if (chain.some((asker) => asker.id === to.id)) {
        const circle = [...chain, to].map((actor) => actor.path).join(' -> ')
        throw new ActorError('ASK_CYCLE', `ask: cycle, each waits for the next: ${circle}`, { ...names, chain: circle })
      }
      const aborted = (): ActorError =>
        new ActorError(
          'ABORTED',
          `ask: "${String(message.type)}" from ${names.from} to ${to.path} was aborted`,
          names,
          {
            cause: signal?.reason,
          },
        )
      if (signal?.aborted) throw aborted()
      const span = this.tracing?.ask(from, to, message)
      let sent = false
      const giveUp = (error: ActorError): void => {
        if (!this.pending.has(id)) return
        if (sent) this.send(to.host, { kind: 'cancel', to: to.id, ask: id, host: this.index })
        this.pending.reject(id, error)
      }
      const onAbort = (): void => giveUp(aborted())
      signal?.addEventListener('abort', onAbort, { once: true })
      const done = (error: Error | null): void => {
        this.deadlines.closed()
        signal?.removeEventListener('abort', onAbort)
        span?.end(error)
      }
      const id = this.pending.open(
        to.host,
        (value) => {
          done(null)
          resolve(value)
        },
        (error) => {
          done(error)
          reject(error)
        },
        { from: from?.id ?? null, to: to.path, type: message.type, since: this.now },
        () => giveUp(lateAsk(sent, deadline, names)),
      )
      const attempt = (): boolean => {
        if (!this.pending.has(id)) return true
        try {
          const life = this.credit(to, 'ask')
          if (life === full || (to.bytes && !this.weigh(to, life, message, 'ask'))) return false
          sent = true
          const asker = { id, host: this.index, chain }
          const ask = span ? { ...asker, trace: span.carrier } : asker
          this.postAsk(letterOf(to, life, from, message, ask))
        } catch (error) {
          this.pending.reject(id, asError(error))
        }
        return true
      }
      this.deadlines.add(id, deadline)
      const line = this.lines.get(to.id)
      if (line) line.push(attempt)
      else if (!attempt()) void this.queueUp(to, attempt)
    })
  }

  async ready(to: Address): Promise<void> {
    for (;;) {
      if (this.closed) throw this.closed
      const left = this.credits.left(to.slot, to.id)
      if (left === down) await this.request({ op: 'await-up', id: to.id, path: to.path })
      else if ((left === 0 && to.overflow !== 'drop-oldest') || this.lines.has(to.id) || this.lacks(to))
        await this.awaitCredit(to)
      else if (!this.transport.roomy(to.host)) await this.transport.awaitRoom(to.host)
      else return
    }
  }

  stop(to: Address, force: boolean): Promise<void> {
    const path = this.frame()?.actor.address.path
    const stopping = this.request({ op: 'stop', id: to.id, force }) as Promise<void>
    if (path !== to.path && !path?.startsWith(`${to.path}/`)) return stopping
    stopping.catch(() => {})
    return Promise.resolve()
  }

  async abandon(to: Address, why: string): Promise<void> {
    await this.request({ op: 'abandon', id: to.id, why })
  }

  async terminated(to: Address): Promise<Cause> {
    return (await this.request({ op: 'await-gone', id: to.id })) as Cause
  }

  spawn(parent: Address | null, definition: ActorDefinition, args: unknown, options: SpawnOptions): Promise<Ref> {
    return new Promise((resolve, reject) => {
      const key = this.index === 0 ? definition.here : definition.key
      this.submit(
        { op: 'spawn', definition: key, args, options, parent: parent?.id ?? null },
        (address) => resolve(new Ref(this, address as Address)),
        reject,
      )
    })
  }

  publish(actor: string, event: unknown): void {
    this.report({ kind: 'event', event: { type: 'published', actor, event } })
  }

  /** Takes an envelope from the transport. */
  receive(envelope: Envelope): void {
    if (this.closed) return
    switch (envelope.kind) {
      case 'letter':
      case 'reply':
      case 'refusal':
      case 'cancel':
      case 'await-credit':
      case 'stream-open':
      case 'stream-pull':
      case 'stream-cancel':
      case 'stream-value':
      case 'stream-end':
        this.hear(envelope)
        break
      case 'start':
      case 'stop':
      case 'terminated':
      case 'host-down':
      case 'bury':
      case 'inspect':
        this.obey(envelope)
        break
      default:
        this.guardian?.receive(envelope)
    }
  }

  /** Handles what arrives at once, as long as its actor is idle and it is not time to read input. */
  arrive(to: Address, life: number, from: Address | null, message: UserMessage): void {
    if (this.direct) {
      if (to !== this.directTo) this.attendTo(to)
      if (this.directCell?.handleNow(life, from, message)) {
        if (!this.proceed()) this.direct = false
        return
      }
    }
    if (!this.closed) this.deliver(letterOf(to, life, from, message))
  }

  begin(): void {
    this.direct = this.closed === null
    this.goSince = this.watchedAt = 0
  }

  end(): void {
    this.direct = false
    if (this.directTo) this.attendTo(null)
  }

  /** Turns to the actor that handles what arrives next. */
  private attendTo(to: Address | null): void {
    this.directCell?.rest()
    this.directTo = to
    this.directCell = to ? this.cells.get(to.id) : undefined
    if (this.directCell) frames.enter(this.directCell.frame)
    else frames.leave()
  }

  /** Rejects whatever still waits here and drops the cells. */
  close(): void {
    this.closed = new ActorError('SYSTEM_STOPPED', `system: ${this.system} has stopped`, { system: this.system })
    this.pending.rejectAll(this.closed)
    this.deadlines.close()
    this.streams.hostOver(this.closed)
    for (const cell of this.cells.values()) cell.drop()
    this.cells.clear()
  }

  load(definition: LifeSpec['definition']): ErasedBehaviour | Promise<ErasedBehaviour> {
    const { local, url, name, fingerprint } = definition
    if (local) return local.behaviour
    const key = `${url} ${name} ${fingerprint}`
    const known = this.behaviours.get(key)
    if (known) return known
    return importDefinition(definition).then(({ behaviour }) => {
      this.behaviours.set(key, behaviour)
      return behaviour
    })
  }

  schedule(cell: Cell): void {
    if (cell.scheduled) return
    cell.scheduled = true
    this.ready_.push(cell)
    this.run()
  }

  /** Gives a cell the next turn, after the handler that runs. */
  press(cell: Cell): void {
    this.pressing.push(cell)
    this.run()
  }

  report(report: Report): void {
    this.send(0, report)
  }

  room(to: Address): number {
    return this.credits.room(to.slot, to.id)
  }

  answer(cell: Cell, frame: Frame, ask: NonNullable<Letter['ask']>, value: unknown): void {
    if (isStream(value)) this.streams.serve(cell, frame, ask, value)
    else this.reply(ask, value)
  }

  reply(ask: { id: number; host: number }, value: unknown): void {
    try {
      this.send(ask.host, { kind: 'reply', id: ask.id, value })
    } catch (error) {
      this.refuse(ask, asError(error))
    }
  }

  refuse(ask: { id: number; host: number }, error: Error): void {
    this.send(ask.host, { kind: 'refusal', id: ask.id, error })
  }

  undeliverable(letter: Letter, reason: Cause | undefined): void {
    this.credits.give(letter.to.slot, letter.life)
    const cause = reason ?? this.obituaries.get(letter.to.id)
    if (letter.ask) {
      this.refuse(letter.ask, deadActor('ask', letter.to.path, cause))
      return
    }
    if (this.now - this.mournedSince >= mournMs) {
      this.mournedSince = this.now
      this.mourned = 0
    }
    if (this.mourned++ >= mostMourned) {
      if (this.unmourned.size === 0) this.clock.later(this.mourn)
      const others = this.unmourned.get(letter.to.path)
      if (others) others.count++
      else this.unmourned.set(letter.to.path, { count: 1, cause: cause ?? null })
      return
    }
    const event = (message: UserMessage): Report => ({
      kind: 'event',
      event: {
        type: 'dead-letter',
        actor: letter.to.path,
        sender: letter.from?.path ?? null,
        message,
        count: 1,
        cause: cause ?? null,
      },
    })
    try {
      this.report(event(letter.message))
    } catch {
      this.report(event({ type: String(letter.message.type) }))
    }
  }

  /** Dead letters that were too many are told as a count. */
  private readonly mourn = (): void => {
    if (!this.closed) this.tellCounts()
  }

  private tellCounts(): void {
    for (const [actor, { count, cause }] of this.unmourned)
      this.report({ kind: 'event', event: { type: 'dead-letter', actor, sender: null, count, cause } })
    this.unmourned.clear()
  }

  over(cell: Cell): void {
    // Before it is known to be over, for the system may stop then.
    if (this.unmourned.size > 0) this.tellCounts()
    if (this.cells.get(cell.address.id) === cell) this.cells.delete(cell.address.id)
  }

  /** Called between two handlers: hears what is urgent. False: it is time to read input. */
  proceed(): boolean {
    const { direct } = this
    this.direct = false
    if (this.transport.attend()) this.unwatched = 1
    this.direct = direct
    if (this.pressing.size > 0) return false
    if (--this.unwatched > 0) return true
    const now = this.clock.now()
    if (this.goSince === 0) this.goSince = this.watchedAt = now
    this.stride = now - this.watchedAt > 0.25 ? 1 : Math.min(this.stride * 2, mostUnwatched)
    this.unwatched = this.stride
    this.watchedAt = now
    return now - this.goSince < msPerGo
  }

  private run(): void {
    if (this.running) return
    this.running = true
    this.clock.soon(this.go)
  }

  private readonly go = (): void => {
    this.goSince = this.watchedAt = this.clock.now()
    for (let turns = 0; turns < turnsPerGo; turns++) {
      const pressed = this.pressing.shift()
      const cell = pressed ?? this.ready_.shift()
      if (!cell) {
        this.running = false
        return
      }
      // One that has a turn besides keeps it.
      if (!pressed) cell.scheduled = false
      if (cell.turn()) this.schedule(cell)
      if (!this.proceed()) break
    }
    this.clock.later(this.go)
  }

  private deliver(letter: Letter): void {
    const cell = this.cells.get(letter.to.id)
    if (!cell) this.undeliverable(letter, undefined)
    else if (this.direct && letter.ask && cell.answerNow(letter)) this.direct = this.proceed()
    else cell.deliver(letter)
  }

  private readonly startCells = (): void => {
    for (let next = this.starting.shift(); next; next = this.starting.shift()) {
      if (!this.closed) next.cell.start(next.spec)
    }
  }

  private hear(envelope: Letter | Signal): void {
    switch (envelope.kind) {
      case 'letter':
        this.deliver(envelope)
        break
      case 'reply':
        this.pending.resolve(envelope.id, envelope.value)
        break
      case 'refusal':
        this.pending.reject(envelope.id, envelope.error)
        break
      case 'cancel':
        this.cells.get(envelope.to)?.cancel(envelope.ask, envelope.host)
        break
      case 'await-credit': {
        const cell = this.cells.get(envelope.to.id)
        if (cell) cell.awaitCredit(envelope.id, envelope.host, envelope.units)
        else this.reply(envelope, undefined)
        break
      }
      case 'stream-open': {
        const ask = this.pending.ask(envelope.id)
        if (ask) this.pending.resolve(envelope.id, this.streams.accept(envelope, ask.from))
        else this.streams.decline(envelope)
        break
      }
      default:
        this.streams.hear(envelope)
    }
  }

  private obey(order: Order): void {
    switch (order.kind) {
      case 'start': {
        const cell = new Cell(this, order.spec)
        this.cells.set(order.spec.address.id, cell)
        // Not at once, for it may be the handler or the init of another that spawns it.
        this.starting.push({ cell, spec: order.spec })
        if (this.starting.size === 1) this.clock.soon(this.startCells)
        break
      }
      case 'stop':
        this.obituaries.record(order.id, order.cause)
        this.cells.get(order.id)?.stop(order.cause, order.force)
        break
      case 'terminated': {
        const { ref, cause, restarting } = order
        this.cells.get(order.watcher)?.notify({ ref: Ref.of<ActorRef>(this, ref), cause, restarting })
        break
      }
      case 'host-down': {
        if (this.index === 0) this.credits.endLoan(this.credits.loan(order.host))
        const { message, error } = order.cause
        const details = { worker: order.host - 1 }
        const gone = new ActorError('DEAD_ACTOR', `ask: ${message}`, details, { cause: error })
        this.pending.rejectAll(gone, order.host)
        this.streams.hostOver(gone, order.host)
        break
      }
      case 'bury':
        this.obituaries.record(order.id, order.cause)
        break
      case 'inspect':
        this.report({ kind: 'inspected', id: order.id, host: this.index, view: this.view() })
    }
  }

  private view(): HostView {
    const now = this.clock.now()
    const asks = new Map<number | null, AskView[]>()
    for (const { from, to, type, since } of this.pending.asks()) {
      const ask = { actor: to, type: String(type), forMs: now - since }
      const known = asks.get(from)
      if (known) known.push(ask)
      else asks.set(from, [ask])
    }
    return [...this.cells].map(([id, cell]) => [id, { ...cell.view(now), waitsFor: asks.get(id) ?? [] }])
  }

  /** The frame of the sending handler. Throws where its actor's life, or this host, is over. */
  private sender(operation: string, to: Address): Frame | undefined {
    if (this.closed) throw this.closed
    const frame = this.frame()
    if (frame?.actor.over) {
      const { path } = frame.actor.address
      throw new ActorError('DEAD_ACTOR', `${operation}: the sender ${path} is not alive any more`, {
        from: path,
        to: to.path,
      })
    }
    return frame
  }

  private frame(): Frame | undefined {
    const frame = frames.getStore()
    return frame?.host === this ? frame : undefined
  }

  /**
   * Takes a credit for a letter: the life that it is of, `full`, `down`, or for a mailbox that drops the oldest a life with the
   * `creditless` mark. Throws `MAILBOX_FULL` where the mailbox says so.
   */
  private credit(to: Address, operation: string): number {
    const { loan, credits } = this
    if (to.host === this.index || (to.bytes && this.transport.roomy(to.host))) {
      const life = credits.take(to.slot, to.id)
      return life === full ? this.overflow(to, operation) : life
    }
    if (!this.transport.roomy(to.host)) return full
    if (this.lentTo === to.id && loan[2]! > 0) {
      loan[2]!--
      return loan[1]!
    }
    credits.endLoan(loan)
    this.lent = this.lentTo === to.id ? Math.min(this.lent * 2, mostLent) : 1
    this.lentTo = to.id
    const life = credits.lend(loan, to.slot, to.id, this.lent)
    if (life === full) return this.overflow(to, operation)
    if (life === down || --loan[2]! === 0 || this.returning) return life
    this.returning = true
    this.clock.soon(this.returnLoan)
    return life
  }

  /** Takes what a message weighs; false: the credit is given back, for there is no room for it. */
  private weigh(to: Address, life: number, message: UserMessage, operation: string): boolean {
    if (life === down) return true
    let lacking: number
    try {
      lacking = takeBytes(this.credits, to, life, message)
    } catch (error) {
      this.credits.give(to.slot, life)
      throw error
    }
    if (lacking === 0) {
      this.refused.delete(to.id)
      return true
    }
    this.credits.give(to.slot, life)
    this.refused.set(to.id, lacking)
    this.overflow(to, operation)
    return false
  }

  /** Whether there is still no room for the message that was too heavy last. */
  private lacks(to: Address): boolean {
    const units = to.bytes && this.refused.get(to.id)
    if (units === undefined) return false
    const left = bytesLeft(this.credits, to)
    return left !== down && left < units
  }

  private readonly returnLoan = (): void => {
    this.returning = false
    this.credits.endLoan(this.loan)
  }

  /** What becomes of a letter to a mailbox without room. */
  private overflow(to: Address, operation: string): number {
    if (to.overflow === undefined) return full
    if (to.overflow === 'drop-oldest') {
      const life = this.credits.life(to.slot, to.id)
      return life === down ? down : life | creditless
    }
    const { path } = to
    throw new ActorError('MAILBOX_FULL', `${operation}: ${path}, expected room in its mailbox, got none`, { to: path })
  }

  private post(to: Address, life: number, from: Address | null, message: UserMessage): void {
    let sent: boolean
    try {
      sent = this.transport.tell(to, life, from, message)
    } catch (error) {
      this.giveBack({ to, life, message })
      throw error
    }
    if (!sent) this.undeliverable(letterOf(to, life, from, message), undefined)
  }

  private postAsk(letter: Letter): void {
    let sent: boolean
    try {
      sent = this.send(letter.to.host, letter)
    } catch (error) {
      this.giveBack(letter)
      throw error
    }
    if (!sent) this.undeliverable(letter, undefined)
  }

  private giveBack(letter: Pick<Letter, 'to' | 'life' | 'message'>): void {
    this.credits.give(letter.to.slot, letter.life)
    giveBytes(this.credits, letter)
  }

  private send(to: number, envelope: Envelope): boolean {
    if (to !== this.index) return this.transport.send(to, envelope)
    this.receive(envelope)
    return true
  }

  private async queueUp(to: Address, attempt: () => boolean): Promise<void> {
    const line = [attempt]
    this.lines.set(to.id, line)
    while (line.length > 0 && !this.closed) {
      if (line[0]!()) line.shift()
      else if (this.transport.roomy(to.host)) await this.awaitCredit(to)
      else await this.transport.awaitRoom(to.host)
    }
    this.lines.delete(to.id)
  }

  /** Resolves when the receiver has room or is not there; never rejects. */
  private awaitCredit(to: Address): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => resolve()
      const id = this.pending.open(to.host, done, done)
      const units = (to.bytes && this.refused.get(to.id)) ?? 0
      const sent = this.send(to.host, { kind: 'await-credit', to, id, host: this.index, units })
      if (!sent) this.pending.resolve(id, undefined)
    })
  }

  request(request: GuardianRequest): Promise<unknown> {
    return new Promise((resolve, reject) => this.submit(request, resolve, reject))
  }

  private submit(request: GuardianRequest, resolve: (value: unknown) => void, reject: (error: Error) => void): void {
    if (this.closed) throw this.closed
    const id = this.pending.open(0, resolve, reject)
    try {
      this.report({ kind: 'request', id, host: this.index, request })
    } catch (error) {
      this.pending.reject(id, asError(error))
    }
  }
}
