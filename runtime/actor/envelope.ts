// What hosts say to each other: messages of users with their replies, and the control traffic between every host and the guardian.
// An envelope is plain data but for the user's values, so any transport that can carry those can carry it.
import type { ActorDefinition, DefinitionKey, Overflow, Place, SpawnOptions } from './definition.js'
import type { Cause } from './errors.js'
import type { HostView } from './events.js'
import type { LogLevel } from './log.js'
import type { DirectoryRequest } from './receptionist.js'
import type { StreamSignal } from './streams.js'
import type { TraceCarrier } from './tracing.js'
import type { ByteBound } from './weight.js'

/** Where an actor lives; what a ref is made of. */
export interface Address {
  readonly id: number
  readonly path: string
  /** Index of its host: 0 is the thread that started the system, then the workers. */
  readonly host: number
  /** Its words in the credit table. */
  readonly slot: number
  /** Text of its messages' fixed layout, if it declares one. */
  readonly layout?: string
  /** What becomes of messages past its mailbox's capacity; absent: they are refused. */
  readonly overflow?: Exclude<Overflow, 'refuse'>
  /** How many bytes may wait in it; absent: that is not counted. */
  readonly bytes?: ByteBound
}

/** A message as users write it. */
export type UserMessage = { readonly type: PropertyKey }

/** A user's message on its way to, or in, a mailbox. */
export interface Letter {
  readonly kind: 'letter'
  readonly to: Address
  /** The life whose credit it holds. */
  readonly life: number
  readonly from: Address | null
  readonly message: UserMessage
  /** Set where a reply is awaited. */
  readonly ask: {
    readonly id: number
    readonly host: number
    readonly chain: readonly Address[]
    /** The asker's span, where it is traced. */
    readonly trace?: TraceCarrier
  } | null
  /** When it reached the mailbox, by the receiving host's clock. */
  at: number
}

/** A letter as it reaches its mailbox. */
export const letterOf = (
  to: Address,
  life: number,
  from: Address | null,
  message: UserMessage,
  ask: Letter['ask'] = null,
): Letter => ({ kind: 'letter', to, life, from, message, ask, at: 0 })

/** What the guardian tells a host to run. */
export interface LifeSpec {
  readonly address: Address
  readonly parent: Address | null
  readonly definition: DefinitionKey & { readonly local?: ActorDefinition }
  readonly args: unknown
  readonly capacity: number
  readonly worker: Place
  readonly incarnation: number
  /** What the latest life kept for the next; undefined: nothing. */
  readonly survived: unknown
  readonly logLevel: LogLevel
}

/** What hosts ask of the guardian; each gets one reply. */
export type GuardianRequest =
  | {
      readonly op: 'spawn'
      readonly definition: LifeSpec['definition']
      readonly args: unknown
      readonly options: SpawnOptions
      /** Id of the parent; null: the top. */
      readonly parent: number | null
    }
  | { readonly op: 'stop'; readonly id: number; readonly force: boolean }
  /** Replies when its worker has ended. */
  | { readonly op: 'abandon'; readonly id: number; readonly why: string }
  /** Replies when the actor is up; fails when it is gone. */
  | { readonly op: 'await-up'; readonly id: number; readonly path: string }
  /** Replies with the cause when it is gone. */
  | { readonly op: 'await-gone'; readonly id: number }
  | DirectoryRequest

/** To the guardian. */
export type Report =
  | { readonly kind: 'request'; readonly id: number; readonly host: number; readonly request: GuardianRequest }
  | { readonly kind: 'watch'; readonly watcher: number; readonly target: Address; readonly on: boolean }
  | { readonly kind: 'started'; readonly id: number; readonly incarnation: number }
  | { readonly kind: 'failed'; readonly id: number; readonly incarnation: number; readonly cause: Cause }
  | { readonly kind: 'ended'; readonly id: number; readonly incarnation: number; readonly stopError: Error | null }
  | { readonly kind: 'event'; readonly event: unknown }
  /** What a life keeps for the next one. */
  | { readonly kind: 'survive'; readonly id: number; readonly incarnation: number; readonly value: unknown }
  | { readonly kind: 'inspected'; readonly id: number; readonly host: number; readonly view: HostView }

/** From the guardian. */
export type Order =
  | { readonly kind: 'start'; readonly spec: LifeSpec }
  | { readonly kind: 'stop'; readonly id: number; readonly cause: Cause; readonly force: boolean }
  | {
      readonly kind: 'terminated'
      readonly watcher: number
      readonly ref: Address
      readonly cause: Cause
      readonly restarting: boolean
    }
  /** A worker ended: its hosts' messages and replies will not come. */
  | { readonly kind: 'host-down'; readonly host: number; readonly cause: Cause }
  /** An actor whose worker ended is gone for good, and the new host shall say why. */
  | { readonly kind: 'bury'; readonly id: number; readonly cause: Cause }
  /** Report what the host knows of its actors. */
  | { readonly kind: 'inspect'; readonly id: number }

/** Between hosts. */
export type Signal =
  | { readonly kind: 'reply'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'refusal'; readonly id: number; readonly error: Error }
  /** The asker gave up. */
  | { readonly kind: 'cancel'; readonly to: number; readonly ask: number; readonly host: number }
  /** Reply when the mailbox has room. */
  | {
      readonly kind: 'await-credit'
      readonly to: Address
      readonly id: number
      readonly host: number
      /** Byte credits that are needed besides; 0: none. */
      readonly units: number
    }
  | StreamSignal

export type Envelope = Letter | Report | Order | Signal

/** How envelopes get from one host to another. Ordered per pair of hosts. */
export interface Transport {
  /** Sends a letter that nobody awaits a reply to; otherwise as {@link send}. */
  tell(to: Address, life: number, from: Address | null, message: UserMessage): boolean
  /** Throws `NOT_SERIALISABLE`; false: there is no way to that host now. */
  send(to: number, envelope: Envelope): boolean
  /** Whether the way to a host has room for a letter; true where there is no way. What must not wait goes without asking. */
  roomy(to: number): boolean
  /** Resolves when it has room, or there is no way. */
  awaitRoom(to: number): Promise<void>
  /** Takes in control traffic that has arrived; called between two handlers. True: there was some. */
  attend(): boolean
}

/** What a transport delivers to. */
export interface Inbox {
  receive(envelope: Envelope): void
  /** A letter that nobody awaits a reply to. */
  arrive(to: Address, life: number, from: Address | null, message: UserMessage): void
  /** What arrives until `end` is handled at once where the actor has nothing before it, rather than queued. */
  begin(): void
  end(): void
}

/** Gives the guardian threads to put actors on. Hosts are numbered from 1. */
export interface Spawner {
  readonly workers: number
  /** Resolves when host `host` runs and is connected to every other, with a new thread each time. */
  open(host: number): Promise<void>
  /** Ends the thread of a host, whatever it does. */
  kill(host: number): void
  /** Ends all hosts and threads. */
  close(): Promise<void>
}

/** Time and turns, so that tests can hold them. */
export interface Clock {
  /** Milliseconds, monotonic. */
  now(): number
  /** Runs `run` after `ms`. */
  after(ms: number, run: () => void): Timer
  /** Runs `run` after the present turn, before input is read. */
  soon(run: () => void): void
  /** Runs `run` after input was read. */
  later(run: () => void): void
}

/** What a clock will run, and runs only once. */
export interface Timer {
  cancel(): void
  /** Whether the process is to live on for it; it is at first. */
  hold(holds: boolean): void
}

/** The clock of the machine. */
export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, run) {
    // Past 2^31 ms a Node timer would fire at once.
    const timer = setTimeout(run, Math.min(ms, 2 ** 31 - 1))
    return {
      cancel: () => clearTimeout(timer),
      hold: (holds) => void (holds ? timer.ref() : timer.unref()),
    }
  },
  soon: queueMicrotask,
  later: setImmediate,
}
