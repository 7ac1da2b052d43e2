// What an actor is: `defineActor` ties a behaviour (init, receive, stop) to the module URL and export name by which another
// thread finds it again, since functions cannot travel. Types of messages and replies are read off the handlers.
import { createHash } from 'node:crypto'
import { ActorError, type Cause } from './errors.js'
import { type Layout, type LayoutOf, layoutText } from './layout.js'
import type { Logger, LogLevel } from './log.js'
import type { ActorRef, MessageOf, Protocol, ProtocolShape } from './protocol.js'
import type { Receptionist } from './receptionist.js'

/** A worker thread by index, or the thread on which the system was started. */
export type Place = number | 'main'

/**
 * Who falls with an actor that fails: nobody, the siblings spawned after it (`rest-for-one`), the siblings with its `group` name, or
 * all siblings.
 */
export type Strategy = 'one-for-one' | 'rest-for-one' | 'one-for-group' | 'one-for-all'

/** Delay before the n-th restart within the window: min(initial * factor^(n-1), max) milliseconds, shortened by the jitter. */
export interface Backoff {
  /** Milliseconds; default 10. */
  readonly initial?: number
  /** Default 2. */
  readonly factor?: number
  /** Milliseconds; default 5,000. */
  readonly max?: number
  /** The part of the delay, 0 to 1, that chance may take away, drawn from the system's seed; default 0. */
  readonly jitter?: number
}

/**
 * What becomes of a message that finds a mailbox full. `refuse`: `tell` returns false. `drop-oldest`: it is let in, and the message that
 * waited longest becomes a dead letter; an ask among them rejects. `fail`: `tell` throws `MAILBOX_FULL`, and so does an ask at once.
 */
export type Overflow = 'refuse' | 'drop-oldest' | 'fail'

export interface SpawnOptions {
  /** Unique among its siblings; default: the definition's name with a number. No `/`. */
  readonly name?: string
  /** Where it lives, for all its lives; default: the worker with the fewest actors. */
  readonly worker?: Place
  readonly mailbox?: {
    /** Messages that may wait, 1 to 1,048,575; default 1,000. */
    readonly capacity?: number
    /** Bytes of typed arrays and buffers, shared or not, in messages that may wait; default: they are not counted. */
    readonly bytes?: number
    /** What happens beyond it; default `refuse`. Not `drop-oldest` where bytes are counted. */
    readonly overflow?: Overflow
  }
  /** Default `one-for-one`. */
  readonly strategy?: Strategy
  /** Group name among its siblings, for `one-for-group`. */
  readonly group?: string
  /** Restarts allowed within the window, 0: none; default 3. Past it the failure escalates to the parent. */
  readonly maxRestarts?: number
  /** The window in milliseconds; default 60,000. */
  readonly withinMs?: number
  readonly backoff?: Backoff
  /** Milliseconds that a stop waits for a running handler and the `stop` hook before it kills; default 5,000. */
  readonly graceMs?: number
  /** Least level of `context.log`'s records; default: the system's. */
  readonly logLevel?: LogLevel
}

/** Arguments of a spawn after the definition; `args` may be left out where `init` takes none. */
export type SpawnRest<A, O> = undefined extends A ? [args?: A, options?: O] : [args: A, options?: O]

/** Told to `onTerminated` when a life of a watched actor ended. */
export interface Terminated {
  readonly ref: ActorRef
  readonly cause: Cause
  /** True: its supervisor restarts it, and it stays watched. */
  readonly restarting: boolean
}

/** A message that an actor sends to itself; its handlers' own types are not known where they are being defined. */
export type OwnMessage<P> = string extends keyof P ? { readonly type: PropertyKey } : MessageOf<P>

/**
 * Timers of one life, on the system's clock. What falls due is handled before waiting messages and needs no room in the mailbox; a
 * timer whose last message still waits skips. Each returns its cancellation; the end of the life cancels all.
 */
export interface Schedule<P = Protocol> {
  /** The actor gets `message` after `ms`. Throws `BAD_OPTION`. */
  once<M extends OwnMessage<P>>(ms: number, message: M): () => void
  /** The actor gets `message` at each multiple of `ms` from now. Throws `BAD_OPTION`. */
  every<M extends OwnMessage<P>>(ms: number, message: M): () => void
}

/** What a handler may do besides changing its state. */
export interface ActorContext<P extends ProtocolShape<P> = Protocol> {
  readonly self: ActorRef<P>
  readonly path: string
  /** The parent; null at the top. */
  readonly parent: ActorRef | null
  readonly worker: Place
  /** 0 in the first life, then one more with each restart. */
  readonly restarts: number
  /** The actor that sent the current message; null: sent from outside any actor. */
  readonly sender: ActorRef | null
  /** Aborts when this life is to end, whichever way: a running handler may give up its work. */
  readonly signal: AbortSignal
  /** Aborts when the asker of the current message gives up (deadline or signal), and with `signal`. */
  readonly askSignal: AbortSignal
  readonly schedule: Schedule<P>
  readonly receptionist: Receptionist
  /** A pino logger whose records carry system, worker and path. */
  readonly log: Logger
  /**
   * Puts the current message aside, to be handled again after `unstash`; an ask stays unanswered until then.
   * Holds as many as the mailbox; throws `MAILBOX_FULL` beyond, and `BAD_OPTION` outside a message.
   */
  stash(): void
  /** Puts what was stashed before all that waits, in its order. */
  unstash(): void
  /**
   * Has what the definition's `survive` says of the state outlive this life: the next life's `init` gets the latest as its third
   * argument. Throws `BAD_OPTION` where the definition has none, `NOT_SERIALISABLE`.
   */
  survive(): void
  /** Starts a child; resolves when its `init` is done. Rejects with `SPAWN_FAILED`, `NOT_IMPORTABLE`, `BAD_OPTION`. */
  spawn<Q extends ProtocolShape<Q>, A>(
    definition: ActorDefinition<Q, A>,
    ...rest: SpawnRest<A, SpawnOptions>
  ): Promise<ActorRef<Q>>
  /** Has `onTerminated` told of each end of a life of `ref`, until `unwatch` or the end of this life. */
  watch(ref: ActorRef): void
  unwatch(ref: ActorRef): void
  /** Publishes a value on the system's `events$`. */
  publish(event: unknown): void
}

/** A handler as `receive` holds it, its parameters compared both ways so that each names what it needs. */
export type AnyHandler<S> = { handle(state: S, message: never, context: ActorContext): unknown }['handle']

/** Handlers that implement protocol `P` over state `S`. */
export type Handlers<P extends ProtocolShape<P>, S> = {
  [K in keyof P]: (
    state: S,
    message: Parameters<P[K]>[0],
    context: ActorContext<P>,
  ) => ReturnType<P[K]> | Promise<Awaited<ReturnType<P[K]>>>
}

/** A behaviour checked against a protocol that is declared on its own: pass it to {@link defineActor}. */
export interface Behaviour<P extends ProtocolShape<P>, S, A = undefined, K = unknown> {
  init(context: ActorContext<P>, args: A, survived?: K): S | Promise<S>
  receive: Handlers<P, S>
  /** Types whose messages travel as plain numbers: `{ add: { amount: 'f64', id: 'i32' } }`, with every field of the message. */
  layout?: { readonly [K in keyof P]?: LayoutOf<Parameters<P[K]>[0]> }
  survive?(state: S): K
  onTerminated?(state: S, event: Terminated, context: ActorContext<P>): unknown
  stop?(state: S, context: ActorContext<P>, cause: Cause): unknown
}

/** The protocol that a set of handlers implements. */
export type ProtocolOfHandlers<R> = {
  [K in keyof R]: R[K] extends (state: never) => infer T
    ? () => Awaited<T>
    : R[K] extends (state: never, message: infer M, context: never) => infer T
      ? [M] extends [undefined]
        ? () => Awaited<T>
        : (message: M) => Awaited<T>
      : never
}

/** A behaviour as the runtime holds it, its types forgotten. */
export interface ErasedBehaviour {
  init(context: ActorContext, args: unknown, survived: unknown): unknown
  receive: Readonly<Record<string, (state: unknown, message: unknown, context: ActorContext) => unknown>>
  layout?: Layout
  survive?(state: unknown): unknown
  onTerminated?(state: unknown, event: Terminated, context: ActorContext): unknown
  stop?(state: unknown, context: ActorContext, cause: Cause): unknown
}

/** Where another thread finds a definition, and a hash of its source to tell it from a namesake. */
export interface DefinitionKey {
  readonly url: string
  readonly name: string
  readonly fingerprint: string
  /** Text of its messages' fixed layout. */
  readonly layout?: string
}

declare const protocolType: unique symbol
declare const argsType: unique symbol

/** An actor that can be spawned, made by {@link defineActor}. */
export class ActorDefinition<P extends ProtocolShape<P> = Protocol, A = never> {
  declare readonly [protocolType]: P
  declare readonly [argsType]: (args: A) => void
  readonly key: DefinitionKey
  /** The key with the definition itself, for hosts of the thread that it is on. */
  readonly here: DefinitionKey & { readonly local: ActorDefinition }
  constructor(
    url: string,
    name: string,
    readonly behaviour: ErasedBehaviour,
  ) {
    const { init, receive, survive, onTerminated, stop } = behaviour
    const hash = createHash('sha256')
    for (const part of [init, survive, onTerminated, stop, ...Object.values(receive)]) hash.update(String(part))
    for (const type of Object.keys(receive)) hash.update(`\n${type}`)
    const text = behaviour.layout && layoutText(name, behaviour.layout)
    hash.update(`\n${text}`)
    const fingerprint = hash.digest('base64url').slice(0, 16)
    this.key = { url, name, fingerprint, ...(text !== undefined && { layout: text }) }
    this.here = { ...this.key, local: this as unknown as ActorDefinition }
  }
}

/** The protocol of a definition. */
export type ProtocolOf<D> = D extends ActorDefinition<infer P, never> ? P : never

/** The ref of a definition's actors: `RefOf<typeof counter>`. */
export type RefOf<D> = D extends ActorDefinition<infer P, never> ? ActorRef<P> : never

/**
 * Defines an actor: `export const counter = defineActor(import.meta.url, 'counter', { init, receive })`.
 *
 * `init` makes the state of one life from the spawn's arguments; each handler of `receive` takes the state, its message and the context,
 * and what it returns (or its promise resolves to) is the reply of an ask. Messages are handled one at a time, asynchronous handlers
 * included. A handler that throws ends this life of the actor; the asker gets the error and the supervisor decides what follows.
 * `survive` says what of the state may outlive this life, when the actor calls `context.survive()`; the next `init` gets it as its
 * third argument. Like a message, leave it alone once it is given away.
 * `stop` runs once at the end of each life, unless it was killed or its worker ended.
 *
 * @param url `import.meta.url` of the module that exports the definition
 * @param name the name of that export; a definition that is not exported spawns on the main thread only
 */
export function defineActor<S, A extends unknown[], R extends Record<string, AnyHandler<S>>>(
  url: string,
  name: string,
  behaviour: {
    // As a rest parameter, for only then does TypeScript infer S before it types the handlers.
    init(context: ActorContext, ...args: A): S | Promise<S>
    receive: R
    /** Not compared with the handlers by the compiler, as in a {@link Behaviour} it is; a message that does not fit is an error. */
    layout?: Layout
    survive?(state: S): NoInfer<A extends [unknown?, (infer K)?] ? K : never>
    onTerminated?(state: S, event: Terminated, context: ActorContext): unknown
    stop?(state: S, context: ActorContext, cause: Cause): unknown
  },
): ActorDefinition<ProtocolOfHandlers<R>, A extends [] ? undefined : A[0]> {
  return new ActorDefinition(url, name, behaviour as unknown as ErasedBehaviour)
}

/** Finds a definition by URL and export name. Throws `NOT_IMPORTABLE`. */
export async function importDefinition(key: DefinitionKey): Promise<ActorDefinition> {
  const fail = (got: string, cause?: unknown): never => {
    throw new ActorError(
      'NOT_IMPORTABLE',
      `spawn: definition "${key.name}" of ${key.url}, expected an export of that name made by defineActor, got ${got}. ` +
        "Export it, or spawn it with worker: 'main'",
      { url: key.url, name: key.name },
      { cause },
    )
  }
  let module: Record<string, unknown>
  try {
    module = (await import(key.url)) as Record<string, unknown>
  } catch (error) {
    return fail(`an error from the import (${error instanceof Error ? error.message : String(error)})`, error)
  }
  const found = module[key.name]
  if (!(found instanceof ActorDefinition)) return fail(found === undefined ? 'nothing' : `a ${typeof found}`)
  if (found.key.fingerprint !== key.fingerprint) return fail('another definition')
  return found
}
