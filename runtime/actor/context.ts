// What a handler gets beside its state and message: a view of its cell, one object per life.
import type { ActorContext, ActorDefinition, Place, Schedule, SpawnOptions, SpawnRest } from './definition.js'
import type { Address, Report, UserMessage } from './envelope.js'
import { ActorError } from './errors.js'
import type { Logger } from './log.js'
import type { ActorRef, ProtocolShape } from './protocol.js'
import { Receptionist, type ReceptionistHost } from './receptionist.js'
import { addressOf, Ref } from './ref.js'
import { routeesOf } from './router.js'
import type { Timers } from './timers.js'

/** What the context needs of the host. */
export interface ContextHost extends ReceptionistHost {
  report(report: Report): void
  spawn(parent: Address | null, definition: ActorDefinition, args: unknown, options: SpawnOptions): Promise<Ref>
  publish(path: string, event: unknown): void
}

/** What the context shows of the cell. */
export interface ContextCell {
  readonly address: Address
  readonly parent: Address | null
  readonly worker: Place
  readonly incarnation: number
  readonly watches: boolean
  readonly sender: Address | null
  readonly signal: AbortSignal
  readonly askSignal: AbortSignal
  readonly timers: Timers
  readonly log: Logger
  stash(): void
  unstash(): void
  survive(): void
  /** Throws `DEAD_ACTOR` where this life is over. */
  expectAlive(operation: string): void
}

export class Context implements ActorContext {
  readonly #host: ContextHost
  readonly #cell: ContextCell

  constructor(host: ContextHost, cell: ContextCell) {
    this.#host = host
    this.#cell = cell
  }

  get self(): ActorRef {
    return Ref.of(this.#host, this.#cell.address)
  }

  get path(): string {
    return this.#cell.address.path
  }

  get parent(): ActorRef | null {
    return this.#cell.parent && Ref.of(this.#host, this.#cell.parent)
  }

  get worker(): Place {
    return this.#cell.worker
  }

  get restarts(): number {
    return this.#cell.incarnation
  }

  get sender(): ActorRef | null {
    return this.#cell.sender && Ref.of(this.#host, this.#cell.sender)
  }

  get signal(): AbortSignal {
    return this.#cell.signal
  }

  get askSignal(): AbortSignal {
    return this.#cell.askSignal
  }

  get receptionist(): Receptionist {
    return new Receptionist(this.#host)
  }

  get log(): Logger {
    return this.#cell.log
  }

  get schedule(): Schedule {
    const start = (kind: 'once' | 'every', ms: number, message: UserMessage): (() => void) => {
      this.#cell.expectAlive('schedule')
      if (!(ms >= 0 && (kind === 'once' || ms > 0))) {
        const expected = kind === 'once' ? 'milliseconds' : 'milliseconds above 0'
        throw new ActorError('BAD_OPTION', `schedule: ${kind} of ${this.path}, expected ${expected}, got ${ms}`)
      }
      return this.#cell.timers[kind](ms, message)
    }
    return {
      once: (ms, message) => start('once', ms, message as UserMessage),
      every: (ms, message) => start('every', ms, message as UserMessage),
    }
  }

  stash(): void {
    this.#cell.stash()
  }

  unstash(): void {
    this.#cell.unstash()
  }

  survive(): void {
    this.#cell.expectAlive('survive')
    this.#cell.survive()
  }

  async spawn<Q extends ProtocolShape<Q>, A>(
    definition: ActorDefinition<Q, A>,
    ...[args, options]: SpawnRest<A, SpawnOptions>
  ): Promise<ActorRef<Q>> {
    this.#cell.expectAlive('spawn')
    const erased = definition as unknown as ActorDefinition
    return (await this.#host.spawn(this.#cell.address, erased, args, options ?? {})) as unknown as ActorRef<Q>
  }

  watch(ref: ActorRef): void {
    if (!this.#cell.watches) {
      throw new ActorError('BAD_OPTION', `watch: ${this.path}, expected a definition with onTerminated, got none`)
    }
    this.#watch(ref, true)
  }

  unwatch(ref: ActorRef): void {
    this.#watch(ref, false)
  }

  publish(event: unknown): void {
    this.#cell.expectAlive('publish')
    this.#host.publish(this.path, event)
  }

  #watch(ref: ActorRef, on: boolean): void {
    this.#cell.expectAlive('watch')
    for (const target of routeesOf(addressOf(ref))) {
      this.#host.report({ kind: 'watch', watcher: this.#cell.address.id, target, on })
    }
  }
}
