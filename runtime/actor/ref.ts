// The ref that users hold: an address bound to the host of the thread that it is used on. All work is the host's.
import type { Address, UserMessage } from './envelope.js'
import type { Cause } from './errors.js'
import { AskedStream } from './flow.js'
import type { ActorRef, AskOptions, StopOptions, StreamOptions } from './protocol.js'

/** What a ref needs of its host. */
export interface RefHost {
  readonly system: string
  tell(to: Address, message: UserMessage): boolean
  ask(to: Address, message: UserMessage, options: AskOptions): Promise<unknown>
  ready(to: Address): Promise<void>
  stop(to: Address, force: boolean): Promise<void>
  abandon(to: Address, why: string): Promise<void>
  terminated(to: Address): Promise<Cause>
  /** Room in the mailbox; below 0: it is not alive. */
  room(to: Address): number
}

/** The one implementation of {@link ActorRef}. */
export class Ref {
  constructor(
    readonly host: RefHost,
    readonly address: Address,
  ) {}

  /** A ref whose protocol the caller vouches for. */
  static of<R>(host: RefHost, address: Address): R {
    return new Ref(host, address) as unknown as R
  }

  get id(): number {
    return this.address.id
  }

  get path(): string {
    return this.address.path
  }

  tell(message: UserMessage): boolean {
    return this.host.tell(this.address, message)
  }

  ask(message: UserMessage, options: AskOptions = {}): Promise<unknown> {
    return this.host.ask(this.address, message, options)
  }

  stream(message: UserMessage, options: StreamOptions = {}): AsyncIterableIterator<unknown> {
    const ask = (signal: AbortSignal): Promise<unknown> => this.ask(message, { ...options, signal })
    return new AskedStream(ask, `stream: "${String(message.type)}" of ${this.path}`, options)
  }

  ready(): Promise<void> {
    return this.host.ready(this.address)
  }

  stop(options: StopOptions = {}): Promise<void> {
    return this.host.stop(this.address, options.force ?? false)
  }

  abandon(why: string): Promise<void> {
    return this.host.abandon(this.address, why)
  }

  terminated(): Promise<Cause> {
    return this.host.terminated(this.address)
  }

  toString(): string {
    return `ActorRef(${this.path})`
  }
}

/** The address within a ref. */
export const addressOf = (ref: ActorRef): Address => (ref as unknown as Ref).address
