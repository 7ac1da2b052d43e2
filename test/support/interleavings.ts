// Scenarios for the explorer: a tree of actors, faults at any moment and an order of events, all drawn from one seed, and what must hold
// whatever they are. Every host of a loopback system is on this thread, so actors can write into one ledger what they do.
import { type CreditTable, down } from '../../runtime/actor/credits.js'
import { Random } from '../../runtime/actor/random.js'
import { addressOf } from '../../runtime/actor/ref.js'
import {
  type ActorError,
  type ActorRef,
  type ActorView,
  defineActor,
  type RefOf,
  type Strategy,
  type SystemEvent,
} from '../../transports/index.js'
import { LoopbackSystem } from '../../transports/testing.js'

const settled = new Set(['DEAD_ACTOR', 'HANDLER_FAILED', 'MAILBOX_FULL', 'ASK_TIMEOUT'])

function check(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what)
}

const flat = (views: readonly ActorView[]): ActorView[] => views.flatMap((view) => [view, ...flat(view.children)])

/** What a run's actors did. */
interface Ledger {
  readonly credits: CreditTable
  /** Messages that were handled, with the life that handled them. */
  readonly handled: Map<number, number>
}

let ledger: Ledger

export const scribe = defineActor(import.meta.url, 'scribe', {
  init: (_context, _args: undefined, survived?: number) => ({ count: survived ?? 0 }),
  receive: {
    note(_state, { n }: { n: number }, context) {
      const { slot, id } = addressOf(context.self)
      check(!ledger.handled.has(n), `message ${n} was handled twice`)
      ledger.handled.set(n, ledger.credits.life(slot, id))
    },
    step(state, _message, context) {
      state.count++
      context.survive()
      return state.count
    },
    fail(): void {
      throw new Error('as told')
    },
    async meet(_state, message: { peer: ActorRef<{ ping(): string }> }): Promise<string> {
      return message.peer.ask({ type: 'ping' }, { deadline: 500 })
    },
    ping: () => 'pong',
  },
  survive: (state) => state.count,
})

/** The parts of a system that no user sees. */
interface Inside {
  readonly host: { readonly credits: CreditTable }
  readonly network: {
    readonly hosts: ReadonlyMap<
      number,
      { readonly cells: { readonly size: number }; readonly pending: { readonly size: number } }
    >
  }
}

type Member = RefOf<typeof scribe>

/** One run: a system, its members and what was sent to them. */
class Run {
  readonly events: SystemEvent[] = []
  private readonly asks: Promise<unknown>[] = []
  private unsettled = 0
  readonly random: Random
  private readonly inside: Inside
  /** Lives that accepted each message; `down`: none was there. */
  private readonly accepted = new Map<number, number>()
  private sent = 0

  constructor(
    readonly system: LoopbackSystem,
    seed: number,
    readonly workers: number,
  ) {
    this.random = new Random(seed)
    this.inside = system as unknown as Inside
    ledger = { credits: this.inside.host.credits, handled: new Map() }
    system.events$.subscribe((event) => this.events.push(event))
  }

  static async start(seed: number, workers: number): Promise<Run> {
    return new Run(await LoopbackSystem.start({ workers, seed }), seed, workers)
  }

  pick<T>(items: readonly T[]): T {
    return items[this.random.below(items.length)]!
  }

  expect(ask: Promise<unknown>): void {
    this.unsettled++
    this.asks.push(
      ask
        .catch((error: ActorError) => check(settled.has(error.code), `an ask rejected with ${error.message}`))
        .finally(() => this.unsettled--),
    )
  }

  /** The reply of an ask that has all the time it needs, but for its deadline; or why it has none. */
  private async reply(ask: Promise<unknown>): Promise<unknown> {
    let outcome: { readonly is: unknown } | null = null
    const done = (is: unknown): void => {
      outcome = { is }
    }
    ask.then(done, done)
    await this.system.settle()
    check(outcome !== null, 'an ask got neither a reply nor an error')
    return (outcome as { is: unknown }).is
  }

  note(to: Member): void {
    const n = this.sent++
    if (!to.tell({ type: 'note', n })) return
    const { slot, id } = addressOf(to)
    this.accepted.set(n, ledger.credits.life(slot, id))
  }

  /** Ends all faults and lets everything come to rest. */
  async rest(): Promise<void> {
    for (let worker = 0; worker < this.workers; worker++) {
      this.system.thaw(worker)
      for (const other of ['main', ...Array(this.workers).keys()] as const) this.system.heal(worker, other)
    }
    await this.system.advance(100_000)
    check(this.unsettled === 0, `${this.unsettled} asks got neither a reply nor an error`)
    await Promise.all(this.asks)
  }

  /** Who is alive works, who is gone is known to be gone, and no message, credit, wait or timer is left. */
  async end(refs: readonly Member[], mostRestarts: (path: string) => number): Promise<void> {
    await this.rest()
    const { system, inside } = this
    const all = flat((await system.inspect()).actors)
    for (const actor of all) {
      check(actor.status === 'running', `${actor.path} is ${actor.status}`)
      check(actor.mailbox.depth === 0, `${actor.path} has ${actor.mailbox.depth} messages left`)
      const most = mostRestarts(actor.path)
      check(actor.restarts <= most, `${actor.path} restarted ${actor.restarts} times, which may be ${most}`)
    }
    const alive = new Set(all.map((actor) => actor.path))
    for (const ref of refs) {
      const pong = await this.reply(ref.ask({ type: 'ping' }))
      if (alive.has(ref.path)) {
        check(pong === 'pong', `${ref.path} lives, and an ask got ${pong}`)
        const first = await this.reply(ref.ask({ type: 'step' }))
        check((await this.reply(ref.ask({ type: 'step' }))) === Number(first) + 1, `${ref.path} does not count`)
      } else check((pong as ActorError).code === 'DEAD_ACTOR', `${ref.path} is gone, and an ask got ${pong}`)
    }
    this.messages()
    for (const [host, { pending }] of inside.network.hosts)
      check(pending.size === 0, `host ${host} waits for ${pending.size} replies`)
    const hosts = [...inside.network.hosts.values()]
    await system.stop()
    for (const { cells } of hosts) check(cells.size === 0, `${cells.size} actors are left`)
    check(system.clock.waiting === 0, `${system.clock.waiting} timers are left`)
  }

  /**
   * A message is handled by the life that accepted it, or is a dead letter. What was on its way to an actor whose life was over is lost
   * without a word where the worker ends as well.
   */
  private messages(): void {
    let lost = 0
    for (const [n, life] of this.accepted) {
      const by = ledger.handled.get(n)
      if (by === undefined) lost++
      else check(life !== down && by === life, `message ${n} was accepted by life ${life} and handled by ${by}`)
    }
    const dead = this.events.reduce((sum, event) => sum + (event.type === 'dead-letter' ? event.count : 0), 0)
    const ended = this.events.some((event) => event.type === 'worker-exit')
    check(lost <= dead || ended, `${lost} messages were lost, ${dead} are known as dead letters`)
    for (const n of ledger.handled.keys()) check(this.accepted.has(n), `message ${n} was refused and handled`)
  }
}

const withinMs = 1e9

/** Siblings of several strategies under one parent, and failures of any of them; resolves with all that happened, in order. */
export async function supervision(seed: number, strategies: readonly Strategy[]): Promise<SystemEvent[]> {
  const run = await Run.start(seed, 2)
  const { system, random } = run
  const maxRestarts = 1 + random.below(3)
  const refs: Member[] = []
  const top = await system.spawn(scribe, undefined, { name: 'top', worker: 'main', maxRestarts: 1, withinMs })
  const units = new Set<string>()
  for (let i = 0; i < 3; i++) {
    const strategy = run.pick(strategies)
    units.add(strategy === 'one-for-one' ? `${strategy} ${i}` : strategy)
    const options = { strategy, group: 'g', maxRestarts, withinMs, backoff: { initial: 5, jitter: 0.5 } }
    refs.push(await system.spawn(scribe, undefined, { ...options, name: `m${i}`, worker: i % 2, parent: top }))
  }
  for (let step = 0; step < 6; step++) {
    const ref = run.pick(refs)
    const other = run.pick(refs)
    run.note(ref)
    switch (random.below(8)) {
      case 0:
      case 1:
        run.expect(ref.ask({ type: 'fail' }))
        break
      case 2:
        ref.tell({ type: 'fail' })
        other.tell({ type: 'fail' })
        break
      case 3:
        await system.kill(random.below(2))
        break
      case 4:
        if (ref !== other) run.expect(ref.ask({ type: 'meet', peer: other }, { deadline: 1000 }))
        break
      case 5: {
        const worker = random.below(2)
        system.freeze(worker)
        await system.advance(random.below(50))
        system.thaw(worker)
        break
      }
      case 6:
        system.cut(0, 1)
        await system.advance(random.below(20))
        system.heal(0, 1)
        break
      default:
        run.expect(ref.ask({ type: 'step' }))
    }
    run.note(other)
    if (random.below(2) === 0) await system.advance(random.below(12))
  }
  // Each set that falls together has a budget of its own, and an actor may be in all of them.
  await run.end([top, ...refs], (path) => (path === 'top' ? 1 : units.size * maxRestarts))
  return run.events
}

/**
 * A group of three on three workers and a sibling that is no member. One member fails; from then on there are more failures, killed
 * and frozen workers and cut links while the group recovers.
 */
export async function recovery(seed: number): Promise<SystemEvent[]> {
  const run = await Run.start(seed, 3)
  const { system, random } = run
  const maxRestarts = 1 + random.below(4)
  const top = await system.spawn(scribe, undefined, { name: 'top', worker: 'main', maxRestarts: 1, withinMs })
  const options = { maxRestarts, withinMs, backoff: { initial: 5, jitter: 0.5 }, parent: top }
  const group: Member[] = []
  for (let i = 0; i < 3; i++) {
    const place = { name: `m${i}`, worker: i, strategy: 'one-for-group', group: 'g' } as const
    group.push(await system.spawn(scribe, undefined, { ...options, ...place }))
  }
  const outsider = await system.spawn(scribe, undefined, { ...options, name: 'outsider', worker: 'main' })
  const all = [...group, outsider]
  const frozen: number[] = []
  const cuts: number[] = []
  for (const ref of all) run.note(ref)
  if (random.below(2) === 0) run.pick(group).tell({ type: 'fail' })
  else await system.kill(random.below(3))
  for (let step = 0; step < 8; step++) {
    const ref = run.pick(group)
    run.note(run.pick(all))
    switch (random.below(9)) {
      case 0:
        run.expect(ref.ask({ type: 'fail' }, { deadline: 1000 }))
        break
      case 1:
        ref.tell({ type: 'fail' })
        break
      case 2:
        await system.kill(random.below(3))
        break
      case 3: {
        const worker = random.below(3)
        system.freeze(worker)
        frozen.push(worker)
        break
      }
      case 4: {
        const worker = frozen.pop()
        if (worker !== undefined) system.thaw(worker)
        break
      }
      case 5: {
        const worker = random.below(3)
        system.cut(worker, 'main')
        cuts.push(worker)
        break
      }
      case 6: {
        const worker = cuts.pop()
        if (worker !== undefined) system.heal(worker, 'main')
        break
      }
      case 7: {
        const peer = run.pick(group)
        if (peer !== ref) run.expect(ref.ask({ type: 'meet', peer }, { deadline: 1000 }))
        break
      }
      default:
        run.expect(outsider.ask({ type: 'step' }))
    }
    run.note(ref)
    // Long enough for a stop to be forced and for a worker that stands still to be ended.
    if (random.below(20) === 0) await system.advance(8000)
    else if (random.below(3) > 0) await system.advance(random.below(8))
  }
  await run.end([top, ...all], (path) => (path === 'top' ? 1 : path.endsWith('outsider') ? 0 : maxRestarts))
  risesAsOne(run.events, group.length)
  return run.events
}

/**
 * Members restart in the order in which they were spawned, a round that is cut short from the first again; and when the last is up,
 * each of them is in a life that it was not in when the last was up before.
 */
function risesAsOne(events: readonly SystemEvent[], size: number): void {
  const restarts = Array<number>(size).fill(0)
  let complete = [...restarts]
  let before = -1
  for (const event of events) {
    if (event.type !== 'restarted') continue
    const member = /m(\d)$/.exec(event.actor)?.[1]
    if (member === undefined) continue
    const index = Number(member)
    check(index === 0 || index === before + 1, `member ${index} restarted after member ${before}`)
    before = index
    restarts[index] = event.restarts
    if (index < size - 1) continue
    for (let each = 0; each < size; each++)
      check(
        restarts[each]! > complete[each]!,
        `member ${each} is still in life ${restarts[each]} while the group has risen anew`,
      )
    complete = [...restarts]
  }
}
