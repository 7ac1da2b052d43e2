// Why a group fell, in one line. The first failure of its tree is the cause; ranks that were aborted because of it, and actors that fell
// with their parents or siblings, are consequences.
import type { Observable } from 'rxjs'
import { ActorError, type Cause } from '../../runtime/actor/errors.js'
import type { SystemEvent } from '../../runtime/actor/events.js'
import type { NoticeEvent } from '../../runtime/observe/index.js'
import type { Diagnosis } from '../rank/protocol.js'
import type { TrainReport } from '../supervisor/protocol.js'
import { EngineError } from './errors.js'

/** An error's way through asks and spawns: what it goes back to, and the actor that it came from. */
function trace(error: unknown, actor: string | null = null): { root: unknown; actor: string | null } {
  const passed = error instanceof ActorError && (error.code === 'HANDLER_FAILED' || error.code === 'SPAWN_FAILED')
  return passed && error.cause ? trace(error.cause, String(error.details['actor'])) : { root: error, actor }
}

const fallenWith: readonly unknown[] = ['sibling', 'parent', 'escalated']

/** Whether an error says that a life ended, after which the actor may have another. */
export const endsLife = (error: unknown): boolean =>
  error instanceof ActorError && (error.code === 'HANDLER_FAILED' || error.code === 'DEAD_ACTOR')

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

/**
 * The error of a step whose loss or norm is not finite: names the first instruction, in order of micro-steps, that made such a value.
 * `cause` is the loss scaler's, which could go no lower.
 */
export function notFinite(step: number, report: TrainReport, found: readonly Diagnosis[], cause?: Error): EngineError {
  const first = found.toSorted((a, b) => a.micro - b.micro || a.rank - b.rank)[0]
  const [what, value] = Number.isFinite(report.loss) ? ['gradient norm', report.norm] : ['loss', report.loss]
  const of = first?.module ? ` of ${first.module}` : ''
  const at =
    first &&
    [first.phase, `rank ${first.rank}`, `micro-step ${first.micro + 1}`, first.source].filter(Boolean).join(', ')
  const where = first ? `; first in the output of ${first.op}${of} (${at})` : ''
  const advice = cause
    ? ` (${cause.message}: a smaller scale would not help; look for NaN in data or weights, values that fp16 cannot hold, or a learning rate that is too high)`
    : ''
  const state = Number.isFinite(report.norm)
    ? 'The gradient norm was finite, so parameters were updated'
    : 'Parameters are as before this step'
  return new EngineError(
    'ENGINE_NOT_FINITE',
    `train: ${what} of step ${step}, expected a finite number, got ${value}${where}${advice}. ${state}`,
    { step, diagnosis: first },
    cause && { cause },
  )
}

/** What a run says of a step whose gradients were not finite; `scales` are the loss scale of this step and the next, in fp16. */
export function skipNotice(step: number, scales: readonly [now: number, next: number] | null): NoticeEvent {
  if (!scales) return { type: 'notice', message: `step ${step} skipped: the gradients are not finite` }
  const [now, next] = scales
  const change = now === next ? '' : `, next ${next}`
  return { type: 'notice', message: `step ${step} skipped: the gradients overflow at loss scale ${now}${change}` }
}
