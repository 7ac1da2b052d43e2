// Why a group fell, in one line. The first failure of its tree is the cause; ranks that were aborted because of it, and actors that fell
// with their parents or siblings, are consequences.
import type { Observable } from 'rxjs'
import { ActorError, type Cause } from '../../runtime/actor/errors.js'
import type { SystemEvent } from '../../runtime/actor/events.js'

/** A rank that was aborted tells who aborted it; that one failed, or its thread ended. */
function isConsequence({ kind, error }: Cause): boolean {
  const { code } = Object(rootOf(error)) as { code?: string }
  return kind === 'sibling' || kind === 'parent' || kind === 'escalated' || code === 'aborted'
}

/** `rank 1` for `supervisor-0/rank-1`, `data loader` for `supervisor-0/data-loader`; the path where there is no parent. */
const nameOf = (path: string): string => path.slice(path.indexOf('/') + 1).replaceAll('-', ' ')

/** An error without the asks and spawns that it passed through. */
function rootOf(error: unknown): unknown {
  const passed = error instanceof ActorError && (error.code === 'HANDLER_FAILED' || error.code === 'SPAWN_FAILED')
  return passed && error.cause ? rootOf(error.cause) : error
}

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

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
      } else if (event.type === 'failed' && event.actor.startsWith(this.#tree) && !isConsequence(event.cause)) {
        const { actor, cause } = event
        this.#first ??= actor === this.#tree ? textOf(rootOf(cause.error)) : `${nameOf(actor)}: ${cause.message}`
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
    return this.#first ?? textOf(rootOf(error))
  }
}

/** What to say of a group that did not come up. */
export function explainStart(error: unknown): string {
  const last = lastSpawn(error)
  return last ? `${nameOf(String(last.details['actor']))}: ${textOf(rootOf(error))}` : textOf(error)
}

function lastSpawn(error: unknown): ActorError | null {
  if (!(error instanceof ActorError) || error.code !== 'SPAWN_FAILED') return null
  return lastSpawn(error.cause) ?? error
}
