// Everything that goes wrong with actors is an ActorError with a stable code, or a Cause: why a life of an actor ended.
// Both are plain enough to travel between threads and keep their meaning.

/** Stable codes of {@link ActorError}. */
export type ActorErrorCode =
  | 'ABORTED'
  | 'ASK_CYCLE'
  | 'ASK_TIMEOUT'
  | 'BAD_OPTION'
  | 'DEAD_ACTOR'
  | 'ESCALATED'
  | 'HANDLER_FAILED'
  | 'MAILBOX_FULL'
  | 'NOT_IMPORTABLE'
  | 'NOT_SERIALISABLE'
  | 'SPAWN_FAILED'
  | 'STREAM_OVERFLOW'
  | 'SYSTEM_STOPPED'
  | 'TOO_LARGE'
  | 'UNKNOWN_MESSAGE'
  | 'WORKER_EXIT'

/** The one error class of the actor runtime. `details` names the actors, workers and limits that the message speaks of. */
export class ActorError extends Error {
  override readonly name = 'ActorError'
  constructor(
    readonly code: ActorErrorCode,
    message: string,
    readonly details: Readonly<Record<string, unknown>> = {},
    options?: ErrorOptions,
  ) {
    super(message, options)
  }
}

/**
 * How a life ended. `exception`: a handler, `init` or `onTerminated` threw. `exit`: its worker ended. `out-of-memory`: its worker's heap
 * was full. `stalled`: its worker was ended because it did not answer a forced stop, or was abandoned. `stopped`: stop was asked for. `killed`: a forced
 * stop, or a stop past its grace time. `parent`: its parent's life ended. `sibling`: it fell with its group or siblings.
 * `escalated`: a child ran out of restarts.
 */
export type CauseKind =
  | 'exception'
  | 'exit'
  | 'out-of-memory'
  | 'stalled'
  | 'stopped'
  | 'killed'
  | 'parent'
  | 'sibling'
  | 'escalated'

/** Why a life of an actor ended, in words and, where there was one, with the error. */
export interface Cause {
  readonly kind: CauseKind
  readonly message: string
  readonly error?: Error
}

/** Whatever was thrown, as an Error. */
export const asError = (thrown: unknown): Error => (thrown instanceof Error ? thrown : new Error(String(thrown)))

/** The cause of a life that ended by a throw. */
export function exceptionCause(thrown: unknown): Cause {
  const error = asError(thrown)
  return { kind: 'exception', message: error.message, error }
}

/** The error of a message that reaches an actor whose life is over. */
export function deadActor(operation: string, path: string, cause: Cause | undefined): ActorError {
  const why = cause ? `${cause.kind}: ${cause.message}` : 'it stopped earlier, or is between two lives'
  return new ActorError(
    'DEAD_ACTOR',
    `${operation}: ${path} is not alive (${why})`,
    { actor: path, kind: cause?.kind },
    cause?.error ? { cause: cause.error } : undefined,
  )
}

/** The error of an ask past its deadline: never let in, or never answered. */
export function lateAsk(
  sent: boolean,
  deadline: number,
  names: { from: string; to: string; type: PropertyKey },
): ActorError {
  const what = `"${String(names.type)}" from ${names.from} to ${names.to}`
  return sent
    ? new ActorError('ASK_TIMEOUT', `ask: ${what}, expected a reply within ${deadline} ms, got none`, {
        ...names,
        deadline,
      })
    : new ActorError(
        'MAILBOX_FULL',
        `ask: ${what}, expected room in the mailbox of ${names.to} within ${deadline} ms, got none`,
        {
          ...names,
          deadline,
        },
      )
}
