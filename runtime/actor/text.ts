// What `inspect()` knows, as text for people: one line per actor, children indented.
import type { ActorView, SystemView } from './events.js'

const milliseconds = (ms: number): string =>
  ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${ms.toFixed(ms < 10 ? 2 : 0)} ms`

function* lines(actor: ActorView, depth: number): Generator<string> {
  const { mailbox, restarts, lastCause, activity } = actor
  const name = depth === 0 ? actor.path : actor.path.slice(actor.path.lastIndexOf('/') + 1)
  const place = actor.worker === 'main' ? 'main' : `worker ${actor.worker}`
  const parts = [place, actor.status, `mailbox ${mailbox.depth}/${mailbox.capacity}`]
  if (mailbox.bytes) parts.push(`bytes ${mailbox.bytes.waiting}/${mailbox.bytes.most}`)
  if (activity && activity.oldestMs > 0) parts.push(`oldest ${milliseconds(activity.oldestMs)}`)
  if (activity && activity.stashed > 0) parts.push(`stashed ${activity.stashed}`)
  if (activity && activity.handlers.count > 0) {
    const { count, p50, p99 } = activity.handlers
    parts.push(`handled ${count} (p50 ${milliseconds(p50)}, p99 ${milliseconds(p99)})`)
  }
  if (restarts > 0) parts.push(`restarts ${restarts}`)
  if (lastCause) parts.push(`last ended by ${lastCause.kind}: ${lastCause.message}`)
  for (const ask of activity?.waitsFor ?? []) {
    parts.push(`waits ${milliseconds(ask.forMs)} for "${ask.type}" of ${ask.actor}`)
  }
  yield `${'  '.repeat(depth)}${name}  ${parts.join(', ')}`
  for (const child of actor.children) yield* lines(child, depth + 1)
}

/** A view of a system as text: `console.log(viewText(await system.inspect()))`. */
export function viewText(view: SystemView): string {
  const workers = view.workers.map(
    ({ worker, actors, restarts }) => `${worker} ${actors}${restarts > 0 ? ` (replaced ${restarts} times)` : ''}`,
  )
  const head = `${view.name}: actors by worker ${workers.join(', ')}; dead letters ${view.deadLetters}`
  return [head, ...view.actors.flatMap((actor) => [...lines(actor, 1)])].join('\n')
}
