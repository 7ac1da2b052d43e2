// What one thread runs of a system: its cells, the turns they take, and every send that starts here. A host knows no other host's
// cells; it takes credit in the shared table, hands letters to the transport, and awaits replies by number.
import { Cell, type CellHost } from './cell.js'
import { type CreditTable, down, full } from './credits.js'
import { Obituaries } from './deathwatch.js'
import { ActorDefinition, type ErasedBehaviour, importDefinition, type SpawnOptions } from './definition.js'
import type {
  Address,
  Clock,
  Envelope,
  GuardianRequest,
  Letter,
  LifeSpec,
  Order,
  Report,
  Signal,
  Transport,
  UserMessage,
} from './envelope.js'
import { ActorError, asError, type Cause, deadActor, lateAsk } from './errors.js'
import { type Frame, frames } from './frame.js'
import { Pending } from './pending.js'
import type { ActorRef, AskOptions } from './protocol.js'
import { Queue } from './queue.js'
import { Ref } from './ref.js'

const defaultDeadline = 30_000
/** Letters handled in one go before input is read again. */
const turnsPerGo = 256

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

export class Host implements CellHost {
  readonly system: string
  readonly index: number
  readonly credits: CreditTable
  /** The guardian, on host 0 only. */
  guardian: ReportSink | null = null
  private readonly transport: Transport
  private readonly clock: Clock
  private readonly cells = new Map<number, Cell>()
  private readonly obituaries = new Obituaries()
  private readonly pending = new Pending()
  /** Asks that wait for credit, by receiver: each attempt is true when done. Later sends queue behind them. */
  private readonly lines = new Map<number, (() => boolean)[]>()
  private readonly ready_ = new Queue<Cell>()
  private running = false
  private closed: ActorError | null = null

  constructor(options: HostOptions) {
    this.system = options.system
    this.index = options.index
    this.credits = options.credits
    this.transport = options.transport
    this.clock = options.clock
  }

  tell(to: Address, message: UserMessage): boolean {
    const from = this.sender('tell', to)?.actor.address ?? null
    if (this.lines.has(to.id)) return false
    const life = this.credits.take(to.slot, to.id)
    if (life === full) return false
    // Where the receiver is down, its host knows why and tells.
    const letter: Letter = { kind: 'letter', to, life, from, message, ask: null }
    this.post(letter)
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
      let sent = false
      const giveUp = (error: ActorError): void => {
        if (!this.pending.has(id)) return
        if (sent) this.send(to.host, { kind: 'cancel', to: to.id, ask: id, host: this.index })
        this.pending.reject(id, error)
      }
      const onAbort = (): void => giveUp(aborted())
      signal?.addEventListener('abort', onAbort, { once: true })
      const cancelTimer = this.clock.after(deadline, () => giveUp(lateAsk(sent, deadline, names)))
      const done = (): void => {
        cancelTimer()
        signal?.removeEventListener('abort', onAbort)
      }
      const id = this.pending.open(
        to.host,
        (value) => {
          done()
          resolve(value)
        },
        (error) => {
          done()
          reject(error)
        },
      )
      const attempt = (): boolean => {
        if (!this.pending.has(id)) return true
        const life = this.credits.take(to.slot, to.id)
        if (life === full) return false
        sent = true
        try {
          this.post({ kind: 'letter', to, life, from, message, ask: { id, host: this.index, chain } })
        } catch (error) {
          this.pending.reject(id, asError(error))
        }
        return true
      }
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
      else if (left === 0 || this.lines.has(to.id)) await this.awaitCredit(to)
      else return
    }
  }

  async stop(to: Address, force: boolean): Promise<void> {
    const path = this.frame()?.actor.address.path
    const stopping = this.request({ op: 'stop', id: to.id, force })
    if (path === to.path || path?.startsWith(`${to.path}/`)) stopping.catch(() => {})
    else await stopping
  }

  async terminated(to: Address): Promise<Cause> {
    return (await this.request({ op: 'await-gone', id: to.id })) as Cause
  }

  async spawn(parent: Address | null, definition: ActorDefinition, args: unknown, options: SpawnOptions): Promise<Ref> {
    const key = this.index === 0 ? { ...definition.key, local: definition } : definition.key
    const address = await this.request({ op: 'spawn', definition: key, args, options, parent: parent?.id ?? null })
    return new Ref(this, address as Address)
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
        this.hear(envelope)
        break
      case 'start':
      case 'stop':
      case 'terminated':
      case 'host-down':
      case 'bury':
        this.obey(envelope)
        break
      default:
        this.guardian?.receive(envelope)
    }
  }

  /** Rejects whatever still waits here and drops the cells. */
  close(): void {
    this.closed = new ActorError('SYSTEM_STOPPED', `system: ${this.system} has stopped`, { system: this.system })
    this.pending.rejectAll(this.closed)
    this.cells.clear()
  }

  async load(definition: LifeSpec['definition']): Promise<ErasedBehaviour> {
    const { local } = definition
    return (local instanceof ActorDefinition ? local : await importDefinition(definition)).behaviour
  }

  schedule(cell: Cell): void {
    if (cell.scheduled) return
    cell.scheduled = true
    this.ready_.push(cell)
    if (this.running) return
    this.running = true
    this.clock.soon(this.go)
  }

  report(report: Report): void {
    this.send(0, report)
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

  over(cell: Cell): void {
    if (this.cells.get(cell.address.id) === cell) this.cells.delete(cell.address.id)
  }

  private readonly go = (): void => {
    for (let turns = 0; turns < turnsPerGo; turns++) {
      const cell = this.ready_.shift()
      if (!cell) {
        this.running = false
        return
      }
      cell.scheduled = false
      if (cell.turn()) this.schedule(cell)
    }
    this.clock.later(this.go)
  }

  private hear(envelope: Letter | Signal): void {
    switch (envelope.kind) {
      case 'letter': {
        const cell = this.cells.get(envelope.to.id)
        if (cell) cell.deliver(envelope)
        else this.undeliverable(envelope, undefined)
        break
      }
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
        if (cell) cell.awaitCredit(envelope.id, envelope.host)
        else this.reply(envelope, undefined)
      }
    }
  }

  private obey(order: Order): void {
    switch (order.kind) {
      case 'start': {
        const cell = new Cell(this, order.spec)
        this.cells.set(order.spec.address.id, cell)
        void cell.start()
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
        const { message, error } = order.cause
        const details = { worker: order.host - 1 }
        this.pending.rejectAll(new ActorError('DEAD_ACTOR', `ask: ${message}`, details, { cause: error }), order.host)
        break
      }
      case 'bury':
        this.obituaries.record(order.id, order.cause)
    }
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

  private post(letter: Letter): void {
    let sent: boolean
    try {
      sent = this.send(letter.to.host, letter)
    } catch (error) {
      this.credits.give(letter.to.slot, letter.life)
      throw error
    }
    if (!sent) this.undeliverable(letter, undefined)
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
      else await this.awaitCredit(to)
    }
    this.lines.delete(to.id)
  }

  /** Resolves when the receiver has room or is not there; never rejects. */
  private awaitCredit(to: Address): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => resolve()
      const id = this.pending.open(to.host, done, done)
      if (!this.send(to.host, { kind: 'await-credit', to, id, host: this.index })) this.pending.resolve(id, undefined)
    })
  }

  private request(request: GuardianRequest): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.closed) throw this.closed
      const id = this.pending.open(0, resolve, reject)
      try {
        this.report({ kind: 'request', id, host: this.index, request })
      } catch (error) {
        this.pending.reject(id, asError(error))
      }
    })
  }
}
