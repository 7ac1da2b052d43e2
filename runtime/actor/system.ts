// A running actor system as its owner sees it. Subclasses bring the threads; everything else is here and knows none.
import { type Observable, Subject } from 'rxjs'
import type { CreditTable } from './credits.js'
import type { ActorDefinition, SpawnOptions, SpawnRest } from './definition.js'
import type { Clock, Spawner, Transport } from './envelope.js'
import type { SystemEvent, SystemView } from './events.js'
import { Guardian } from './guardian.js'
import { Host } from './host.js'
import type { LogLevel } from './log.js'
import type { ActorRef, ProtocolShape } from './protocol.js'
import { Random } from './random.js'
import { Receptionist } from './receptionist.js'
import { addressOf } from './ref.js'

/** Options of a spawn from outside any actor. */
export interface TopSpawnOptions extends SpawnOptions {
  /** Makes it a child of that actor. */
  readonly parent?: ActorRef
}

/** Where `context.log` of all actors goes. */
export interface LogOptions {
  /** Least level, where a spawn gives none; default `info`. */
  readonly level?: LogLevel
  /** Takes each record, a line of JSON with its end; default: standard output. */
  readonly write?: (line: string) => void
}

export interface SystemParts {
  readonly name: string
  readonly credits: CreditTable
  readonly clock: Clock
  readonly transport: Transport
  readonly spawner: Spawner
  /** Of whatever the system leaves to chance: the jitter of restarts. */
  readonly seed: number
  readonly log: LogOptions
}

/** Host 0 and the guardian, on the thread that started the system. */
export class System {
  readonly name: string
  /** Everything that happens: see {@link SystemEvent}. Completes when the system has stopped. */
  readonly events$: Observable<SystemEvent>
  readonly receptionist: Receptionist
  protected readonly host: Host
  protected readonly guardian: Guardian
  private readonly events = new Subject<SystemEvent>()
  private readonly spawner: Spawner
  private stopped: Promise<void> | null = null

  protected constructor(parts: SystemParts) {
    const { name: system, credits, clock, transport, spawner, seed, log } = parts
    const { level = 'info', write = (line) => void process.stdout.write(line) } = log
    this.name = system
    this.spawner = spawner
    this.events$ = this.events.asObservable()
    this.host = new Host({ system, index: 0, credits, transport, clock })
    this.receptionist = new Receptionist(this.host)
    this.guardian = new Guardian({
      system,
      credits,
      clock,
      spawner,
      random: new Random(seed),
      logLevel: level,
      send: (host, envelope) => {
        if (host !== 0) return transport.send(host, envelope)
        this.host.receive(envelope)
        return true
      },
      publish: (event) => {
        this.events.next(event)
        if (event.type === 'log') write(event.line)
      },
    })
    this.host.guardian = this.guardian
  }

  /**
   * Starts an actor; resolves when its `init` is done.
   * Rejects with `SPAWN_FAILED` (its `init` failed), `NOT_IMPORTABLE`, `NOT_SERIALISABLE`, `BAD_OPTION`, `DEAD_ACTOR` (the parent), `SYSTEM_STOPPED`.
   */
  spawn<P extends ProtocolShape<P>, A>(
    definition: ActorDefinition<P, A>,
    ...[args, options]: SpawnRest<A, TopSpawnOptions>
  ): Promise<ActorRef<P>> {
    const above = options?.parent ? addressOf(options.parent) : null
    const spawning: Promise<unknown> = this.host.spawn(
      above,
      definition as unknown as ActorDefinition,
      args,
      options ?? {},
    )
    return spawning as Promise<ActorRef<P>>
  }

  /** The tree with each actor's worker, status, mailbox, restarts and activity; a worker that is busy is waited for up to 1 s. */
  async inspect(): Promise<SystemView> {
    return this.guardian.inspect()
  }

  /** Ends all actors, last spawned first and children before parents, then all threads. Idempotent. */
  stop(): Promise<void> {
    this.stopped ??= this.end()
    return this.stopped
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  private async end(): Promise<void> {
    await this.guardian.stop()
    await this.spawner.close()
    this.host.close()
    this.events.complete()
  }
}
