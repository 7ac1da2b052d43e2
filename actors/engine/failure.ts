// Why a group fell, in one line. The first failure of its tree is the cause; ranks that were aborted because of it, and actors that fell
// with their parents or siblings, are consequences.
import type { Observable } from 'rxjs'
import { ActorError, type Cause } from '../../runtime/actor/errors.js'
import type { SystemEvent } from '../../runtime/actor/events.js'

/** An error's way through asks and spawns: what it goes back to, and the actor that it came from. */
function trace(error: unknown, actor: string | null = null): { root: unknown; actor: string | null } {
  const passed = error instanceof ActorError && (error.code === 'HANDLER_FAILED' || error.code === 'SPAWN_FAILED')
  return passed && error.cause ? trace(error.cause, String(error.details['actor'])) : { root: error, actor }
}

const fallenWith: readonly unknown[] = ['sibling', 'parent', 'escalated']

/** Whether an error only says that the communicator was aborted, or that an actor fell with others. */
export function isConsequence(error: unknown): boolean {
  const { code, details } = Object(trace(error).root) as { code?: string; details?: { kind?: unknown } }
  return code === 'aborted' || (code === 'DEAD_ACTOR' && fallenWith.includes(details?.kind))
}

const follows = ({ kind, error }: Cause): boolean => fallenWith.includes(kind) || isConsequence(error)

/** `rank 1` for `supervisor-0/rank-1`, `data loader` for `supervisor-0/data-loader`. */
const nameOf = (path: string): string => path.slice(path.indexOf('/') + 1).replaceAll('-', ' ')

/** What went wrong where, without what it passed through. */
export function explain(error: unknown): string {
  const { root, actor } = trace(error)
  const text = root instanceof Error ? root.message : String(root)
  return actor?.includes('/') ? `${nameOf(actor)}: ${text}` : text
}

/** Listens for the first failure of a group's tree. */
export class FailureWatch {
  #first: string | null = null
  #tree = ''

  /** Rank r lives on worker r; what serves all ranks on the one after. */
  constructor(events$: Observable<SystemEvent>, ranks: number) {
    events$.subscribe((event) => {
      if (event.type === 'worker-exit') {
        const who = Number(event.worker) < ranks ? `rank ${event.worker}` : 'data loader and checkpointer'
        this.#first ??= `${who}: ${event.cause.message}`
      } else if (event.type === 'failed' && event.actor.startsWith(this.#tree) && !follows(event.cause)) {
        const { actor, cause } = event
        this.#first ??= actor === this.#tree ? explain(cause.error) : `${nameOf(actor)}: ${cause.message}`
      }
    })
  }

  /** From now on, the tree under the actor at `path`. */
  of(path: string): void {
    this.#tree = path
    this.#first = null
  }

  /** What to say of an error that came out of the tree. */
  explain(error: unknown): string {
    return this.#first ?? explain(error)
  }
}
