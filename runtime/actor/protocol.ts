// The typed face of an actor: a protocol maps each message type to its payload and reply, and a ref sends such messages.
// A message is the payload with its `type`; a wrong message is a compile error.
import type { Observable } from 'rxjs'
import type { Cause } from './errors.js'

/**
 * Message types with payload (first parameter) and reply (result), written as function signatures:
 * `type Counter = { add(message: { amount: number }): void; get(): number }`.
 */
export type Protocol = Record<string, (message: never) => unknown>

/** What a protocol holds, also where it is declared as an interface (which has no index signature). */
export type ProtocolShape<P> = { [K in keyof P]: (message: never) => unknown }

/** The payload of one message type; nothing beyond `type` where the signature has no parameter. */
export type PayloadOf<F> = F extends () => unknown ? unknown : F extends (message: infer M) => unknown ? M : never

/** What an asker gets for a reply: async iterables and observables arrive as async iterables. */
export type Arrived<R> =
  R extends AsyncIterable<infer T>
    ? AsyncIterableIterator<T>
    : R extends Observable<infer T>
      ? AsyncIterableIterator<T>
      : R

/** The settled reply of one message type. */
export type ReplyOf<F> = F extends (message: never) => infer R ? Arrived<Awaited<R>> : never

/** The message types of a protocol that reply with a stream. */
export type StreamKeys<P> = {
  [K in keyof P]: ReplyOf<P[K]> extends AsyncIterableIterator<unknown> ? K : never
}[keyof P]

/** What a stream of one message type yields. */
export type ValueOf<F> = ReplyOf<F> extends AsyncIterableIterator<infer T> ? T : never

/** The message of one type. */
export type MessageOfType<P, K extends keyof P> = { readonly type: K } & PayloadOf<P[K]>

/** Every message of a protocol. */
export type MessageOf<P> = { [K in keyof P]: MessageOfType<P, K> }[keyof P]

export interface AskOptions {
  /** Milliseconds until the ask rejects; default 30,000. */
  readonly deadline?: number
  /** Rejects the ask with `ABORTED`, and aborts `context.askSignal` at the receiver. */
  readonly signal?: AbortSignal
}

export interface StreamOptions extends AskOptions {
  /** Values that may be on their way and wait unread; default 64. */
  readonly buffer?: number
}

export interface StopOptions {
  /** Abandon a running handler at once: its result is ignored and the `stop` hook does not run. */
  readonly force?: boolean
}

/**
 * The address of an actor, valid on every thread and inside messages, across restarts.
 * `P` is its {@link Protocol}; without it a ref can be watched, stopped and compared, but not told anything.
 */
export interface ActorRef<out P extends ProtocolShape<P> = Protocol> {
  /** Unique in its system; equal for every copy of the ref. */
  readonly id: number
  /** Names from the top, joined by `/`. */
  readonly path: string
  /**
   * Sends a message. False: not accepted, for the mailbox is full; await `ready()` and send again.
   * True: accepted; it is lost only if the receiver dies first, and is then a dead letter.
   * Throws `NOT_SERIALISABLE`, or `DEAD_ACTOR` when called by an actor whose life is over.
   */
  tell<K extends keyof P>(message: MessageOfType<P, K>): boolean
  /**
   * Sends a message and resolves with what its handler returns. Waits for room in the mailbox within its deadline.
   * Rejects with `ASK_TIMEOUT`, `MAILBOX_FULL`, `ASK_CYCLE`, `ABORTED`, `DEAD_ACTOR`, `HANDLER_FAILED`, `UNKNOWN_MESSAGE`, `NOT_SERIALISABLE`.
   */
  ask<K extends keyof P>(message: MessageOfType<P, K>, options?: AskOptions): Promise<ReplyOf<P[K]>>
  /**
   * Asks for a reply of many values, when first read; the deadline is for its opening. The producer waits while `buffer` values are
   * unread. Leaving the loop or aborting lets it go. It ends with what the producer throws as `HANDLER_FAILED`, or `DEAD_ACTOR`.
   */
  stream<K extends StreamKeys<P>>(
    message: MessageOfType<P, K>,
    options?: StreamOptions,
  ): AsyncIterableIterator<ValueOf<P[K]>>
  /** Resolves when the actor is alive and its mailbox has room; rejects with `DEAD_ACTOR` once it is gone for good. */
  ready(): Promise<void>
  /** Ends the actor and its children, children first. From inside the subtree that ends, it resolves at once. */
  stop(options?: StopOptions): Promise<void>
  /**
   * Takes the actor for hung and ends its worker, whatever it does: every life on it ends with the cause `stalled`, of which `why` is
   * the message, and supervisors decide. Resolves when the worker has ended; rejects with `BAD_OPTION` for an actor on the main thread.
   */
  abandon(why: string): Promise<void>
  /** Resolves with the cause when the actor is gone for good; restarts do not count. */
  terminated(): Promise<Cause>
}
