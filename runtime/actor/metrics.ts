// What `inspect()` knows as text for Prometheus, exposition format 0.0.4. Names end in their unit; counters in `_total`.
import type { ActorView, SystemView } from './events.js'

type Labels = Readonly<Record<string, string | number>>

interface Family {
  readonly name: string
  readonly type: 'counter' | 'gauge' | 'summary'
  readonly help: string
  readonly samples: { readonly suffix: string; readonly labels: Labels; readonly value: number }[]
}

const escaped = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')

const labelled = (labels: Labels): string =>
  Object.entries(labels)
    .map(([name, value]) => `${name}="${escaped(String(value))}"`)
    .join(',')

/** The metrics of a system: `response.end(await metricsText(system))` with content type `text/plain; version=0.0.4`. */
export async function metricsText(system: { inspect(): Promise<SystemView> }): Promise<string> {
  const view = await system.inspect()
  const families = new Map<string, Family>()
  const metric = (name: string, type: Family['type'], help: string) => {
    const family: Family = { name: `deeptroupe_${name}`, type, help, samples: [] }
    families.set(name, family)
    return (labels: Labels, value: number, suffix = '') =>
      family.samples.push({ suffix, labels: { system: view.name, ...labels }, value })
  }
  const actors = metric('actors', 'gauge', 'Actors on a worker')
  const workerRestarts = metric('worker_restarts_total', 'counter', 'Times a worker was replaced')
  const deadLetters = metric('dead_letters_total', 'counter', 'Messages whose receiver was not alive')
  const restarts = metric('actor_restarts_total', 'counter', 'Restarts of an actor')
  const depth = metric('mailbox_messages', 'gauge', 'Messages that wait for an actor or are on their way to it')
  const capacity = metric('mailbox_capacity_messages', 'gauge', 'Messages that may wait for an actor')
  const bytes = metric(
    'mailbox_bytes',
    'gauge',
    'Bytes of typed arrays and buffers in those messages, where they are counted',
  )
  const mostBytes = metric(
    'mailbox_capacity_bytes',
    'gauge',
    'Bytes that may wait for an actor, where they are counted',
  )
  const oldest = metric('mailbox_oldest_seconds', 'gauge', 'Age of the message that waits longest')
  const asks = metric('asks_in_flight', 'gauge', 'Asks of an actor that wait for their reply')
  const handler = metric('handler_seconds', 'summary', 'Time that handlers took, in the present life')
  for (const { worker, actors: count, restarts: times } of view.workers) {
    actors({ worker }, count)
    workerRestarts({ worker }, times)
  }
  deadLetters({}, view.deadLetters)
  const add = (actor: ActorView): void => {
    const labels = { actor: actor.path }
    restarts(labels, actor.restarts)
    depth(labels, actor.mailbox.depth)
    capacity(labels, actor.mailbox.capacity)
    if (actor.mailbox.bytes) {
      bytes(labels, actor.mailbox.bytes.waiting)
      mostBytes(labels, actor.mailbox.bytes.most)
    }
    if (actor.activity) {
      const { oldestMs, waitsFor, handlers } = actor.activity
      oldest(labels, oldestMs / 1000)
      asks(labels, waitsFor.length)
      for (const [quantile, ms] of [
        [0.5, handlers.p50],
        [0.9, handlers.p90],
        [0.99, handlers.p99],
      ] as const) {
        handler({ ...labels, quantile }, ms / 1000)
      }
      handler(labels, handlers.count, '_count')
    }
    for (const child of actor.children) add(child)
  }
  for (const actor of view.actors) add(actor)
  const lines: string[] = []
  for (const { name, type, help, samples } of families.values()) {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`)
    for (const { suffix, labels, value } of samples) lines.push(`${name}${suffix}{${labelled(labels)}} ${value}`)
  }
  return `${lines.join('\n')}\n`
}
