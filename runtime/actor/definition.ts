// What an actor is: `defineActor` ties a behaviour (init, receive, stop) to the module URL and export name by which another
// thread finds it again, since functions cannot travel. Types of messages and replies are read off the handlers.
import { createHash } from 'node:crypto'
import { ActorError, type Cause } from './errors.js'
import type { ActorRef, Protocol, ProtocolShape } from './protocol.js'

/** A worker thread by index, or the thread on which the system was started. */
export type Place = number | 'main'

/** Who falls with an actor that fails: nobody, the siblings with its `group` name, or all siblings. */
export type Strategy = 'one-for-one' | 'one-for-group' | 'one-for-all'

/** Delay before the n-th restart within the window: min(initial * factor^(n-1), max) milliseconds. */
export interface Backoff {
  /** Milliseconds; default 10. */
  readonly initial?: number
  /** Default 2. */
  readonly factor?: number
  /** Milliseconds; default 5,000. */
  readonly max?: number
}

export interface SpawnOptions {
  /** Unique among its siblings; default: the definition's name with a number. No `/`. */
  readonly name?: string
  /** Where it lives, for all its lives; default: the worker with the fewest actors. */
  readonly worker?: Place
  readonly mailbox?: {
    /** Messages that may wait, 1 to 1,048,575; default 1,000. Beyond it `tell` returns false. */
    readonly capacity?: number
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
export interface Behaviour<P extends ProtocolShape<P>, S, A = undefined> {
  init(context: ActorContext<P>, args: A): S | Promise<S>
  receive: Handlers<P, S>
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
  init(context: ActorContext, args: unknown): unknown
  receive: Readonly<Record<string, (state: unknown, message: unknown, context: ActorContext) => unknown>>
  onTerminated?(state: unknown, event: Terminated, context: ActorContext): unknown
  stop?(state: unknown, context: ActorContext, cause: Cause): unknown
}

/** Where another thread finds a definition, and a hash of its source to tell it from a namesake. */
export interface DefinitionKey {
  readonly url: string
  readonly name: string
  readonly fingerprint: string
}

declare const protocolType: unique symbol
declare const argsType: unique symbol

/** An actor that can be spawned, made by {@link defineActor}. */
export class ActorDefinition<P extends ProtocolShape<P> = Protocol, A = never> {
  declare readonly [protocolType]: P
  declare readonly [argsType]: (args: A) => void
  readonly key: DefinitionKey
  constructor(
    url: string,
    name: string,
    readonly behaviour: ErasedBehaviour,
  ) {
    const { init, receive, onTerminated, stop } = behaviour
    const hash = createHash('sha256')
    for (const part of [init, onTerminated, stop, ...Object.values(receive)]) hash.update(String(part))
    for (const type of Object.keys(receive)) hash.update(`\n${type}`)
    this.key = { url, name, fingerprint: hash.digest('base64url').slice(0, 16) }
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
