// What a system tells its owner, as values of one stream: lifecycle of actors, dead letters, ended workers and what actors publish.
import type { Place } from './definition.js'
import type { Cause } from './errors.js'
import type { LogLevel } from './log.js'
import type { HandlerView } from './stats.js'

/** A value of `system.events$`. `actor` and `parent` are paths. */
export type SystemEvent =
  | { readonly type: 'published'; readonly actor: string; readonly event: unknown }
  | { readonly type: 'spawned'; readonly actor: string; readonly worker: Place }
  /** A life ended by failure. `stop`: no restart follows, at the top or since its parent ends. */
  | {
      readonly type: 'failed'
      readonly actor: string
      readonly cause: Cause
      readonly outcome: 'restart' | 'escalate' | 'stop'
    }
  | { readonly type: 'restarted'; readonly actor: string; readonly restarts: number; readonly cause: Cause }
  /** Out of restarts: the actor and those that fall with it are gone, and the parent fails. */
  | { readonly type: 'escalated'; readonly actor: string; readonly parent: string; readonly cause: Cause }
  /** Gone for good. */
  | { readonly type: 'stopped'; readonly actor: string; readonly cause: Cause }
  /** The `stop` hook threw; the life ended all the same. */
  | { readonly type: 'stop-failed'; readonly actor: string; readonly error: Error }
  | {
      readonly type: 'dead-letter'
      readonly actor: string
      readonly sender: string | null
      /** Absent where it was lost with its worker: then `count` tells how many were waiting or on their way. */
      readonly message?: unknown
      readonly count: number
      readonly cause: Cause | null
    }
  | { readonly type: 'worker-exit'; readonly worker: number; readonly cause: Cause }
  /** A record of an actor's `context.log`: one line of JSON, with its end. */
  | { readonly type: 'log'; readonly actor: string; readonly level: LogLevel; readonly line: string }

/** An ask that waits for its reply. */
export interface AskView {
  /** Path of the actor that is asked. */
  readonly actor: string
  readonly type: string
  readonly forMs: number
}

/** What the present life of an actor does. */
export interface ActivityView {
  /** Age of the message that waits longest in the mailbox, 0: none waits. */
  readonly oldestMs: number
  /** Messages put aside. */
  readonly stashed: number
  /** Asks of this actor in flight. */
  readonly waitsFor: readonly AskView[]
  /** How long its handlers took. */
  readonly handlers: HandlerView
}

/** The activity of a host's actors by id. */
export type HostView = readonly (readonly [number, ActivityView])[]

/** One actor as `system.inspect()` shows it. */
export interface ActorView {
  readonly path: string
  readonly worker: Place
  readonly status: 'starting' | 'running' | 'restarting' | 'stopping'
  /** Messages that hold a credit: waiting, or on their way. */
  readonly mailbox: {
    readonly depth: number
    readonly capacity: number
    /** Where they are counted: of typed arrays and buffers in such messages, rounded up to 1/2^20 of `most` each. */
    readonly bytes?: { readonly waiting: number; readonly most: number }
  }
  readonly restarts: number
  readonly lastCause: Cause | null
  /** What its host measured; null where there is no life, or its worker did not answer in time. */
  readonly activity: ActivityView | null
  readonly children: readonly ActorView[]
}

/** What `system.inspect()` resolves to. */
export interface SystemView {
  readonly name: string
  readonly workers: readonly { readonly worker: Place; readonly actors: number; readonly restarts: number }[]
  readonly actors: readonly ActorView[]
  /** Messages whose receiver was not alive, since the start. */
  readonly deadLetters: number
}
