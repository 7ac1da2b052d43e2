// Ten thousand interleavings of the supervisor and of group recovery. Each seed makes a tree, faults and an order of events; whatever they
// are, asks settle, who is alive works, who is gone is known to be gone, restarts stay within their budget and nothing is left.
// A failure prints its seed: `explore(scenario, { runs: 1, firstSeed: seed })` runs it again.
import test from 'ava'
import { Random } from '../../../runtime/actor/random.js'
import type { ActorError, ActorView, RefOf, Strategy, SystemEvent } from '../../../transports/index.js'
import { explore, LoopbackSystem } from '../../../transports/testing.js'
import { member } from '../../transports/services.js'

const settled = new Set(['DEAD_ACTOR', 'HANDLER_FAILED', 'MAILBOX_FULL', 'ASK_TIMEOUT'])

function check(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what)
}

const flat = (views: readonly ActorView[]): ActorView[] => views.flatMap((view) => [view, ...flat(view.children)])

/** Runs a tree through faults; resolves with all that happened, in order. */
async function scenario(seed: number, strategies: readonly Strategy[]) {
  const random = new Random(seed)
  const system = await LoopbackSystem.start({ workers: 2, seed })
  const events: SystemEvent[] = []
  system.events$.subscribe((event) => events.push(event))
  const maxRestarts = 1 + random.below(3)
  const refs: RefOf<typeof member>[] = []
  const top = await system.spawn(member, undefined, { name: 'top', worker: 'main', maxRestarts: 1, withinMs: 1e9 })
  for (let i = 0; i < 3; i++) {
    const strategy = strategies[random.below(strategies.length)]!
    const options = { strategy, group: 'g', maxRestarts, withinMs: 1e9, backoff: { initial: 5, jitter: 0.5 } }
    refs.push(await system.spawn(member, undefined, { ...options, name: `m${i}`, worker: i % 2, parent: top }))
  }
  const asks: Promise<unknown>[] = []
  const expect = (ask: Promise<unknown>) =>
    asks.push(ask.catch((error: ActorError) => check(settled.has(error.code), `an ask rejected with ${error.message}`)))
  for (let step = 0; step < 6; step++) {
    const ref = refs[random.below(refs.length)]!
    const other = refs[random.below(refs.length)]!
    switch (random.below(8)) {
      case 0:
      case 1:
        expect(ref.ask({ type: 'fail' }))
        break
      case 2:
        ref.tell({ type: 'fail' })
        other.tell({ type: 'fail' })
        break
      case 3:
        await system.kill(random.below(2))
        break
      case 4:
        if (ref !== other) expect(ref.ask({ type: 'meet', peer: other }, { deadline: 1000 }))
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
        expect(ref.ask({ type: 'step' }))
    }
    if (random.below(2) === 0) await system.advance(random.below(12))
  }
  await system.advance(100_000)
  await Promise.all(asks)

  const all = flat((await system.inspect()).actors)
  for (const actor of all) {
    check(actor.status === 'running', `${actor.path} is ${actor.status}`)
    check(actor.mailbox.depth === 0, `${actor.path} has ${actor.mailbox.depth} messages left`)
    const most = actor.path === 'top' ? 1 : Number.POSITIVE_INFINITY
    check(actor.restarts <= most, `${actor.path} restarted ${actor.restarts} times`)
  }
  const alive = new Set(all.map((actor) => actor.path))
  for (const ref of [top, ...refs]) {
    if (alive.has(ref.path)) {
      check((await ref.ask({ type: 'ping' })) === 'pong', `${ref.path} answers`)
      const first = await ref.ask({ type: 'step' })
      check((await ref.ask({ type: 'step' })) === first + 1, `${ref.path} counts`)
    } else {
      const error = await ref.ask({ type: 'ping' }).then(
        () => null,
        (reason: ActorError) => reason,
      )
      check(error?.code === 'DEAD_ACTOR', `${ref.path} is gone, and an ask got ${error?.code ?? 'a reply'}`)
    }
  }
  const restarts = events.filter((event) => event.type === 'restarted').length
  check(restarts <= 3 * 3 * maxRestarts + 1, `${restarts} restarts`)
  await system.stop()
  check(system.clock.waiting === 0, `${system.clock.waiting} timers are left`)
  return events
}

const trace = (events: readonly SystemEvent[]): string[] =>
  events.map(
    (event) => `${event.type} ${'actor' in event ? event.actor : ''} ${'cause' in event ? event.cause?.message : ''}`,
  )

test('6,000 interleavings of a supervisor with mixed strategies', async (t) => {
  await explore(
    async (seed) => {
      await scenario(seed, ['one-for-one', 'rest-for-one', 'one-for-all', 'one-for-group'])
    },
    { runs: 6000 },
  )
  t.pass()
})

test('4,000 interleavings of the recovery of a group', async (t) => {
  await explore(
    async (seed) => {
      const events = await scenario(seed, ['one-for-group'])
      // A group rises as one, in the order of spawning: each restart follows that of the member before; a round may be cut short.
      const order = events.flatMap((event) =>
        event.type === 'restarted' && event.actor !== 'top' ? Number(event.actor.at(-1)) : [],
      )
      check(
        order.every((index, at) => index === 0 || order[at - 1] === index - 1),
        `members restarted in the order ${order.join(', ')}`,
      )
    },
    { runs: 4000, firstSeed: 100_000 },
  )
  t.pass()
})

test('the same seed is the same run', async (t) => {
  const runs = []
  const distinct = new Set<string>()
  for (let seed = 1; seed <= 10; seed++) {
    runs.push(trace(await scenario(seed, ['one-for-one', 'one-for-group'])))
    distinct.add(runs.at(-1)!.join('\n'))
    t.deepEqual(trace(await scenario(seed, ['one-for-one', 'one-for-group'])), runs.at(-1))
  }
  t.true(distinct.size > 5)
})

test('a failure names its seed', async (t) => {
  const error = await t.throwsAsync(
    explore(
      async (seed) => {
        if (seed === 7) throw new Error('seven')
      },
      { runs: 10 },
    ),
    { message: 'explore: seed 7 of 1 to 10, expected no failure, got seven' },
  )
  t.is((error?.cause as Error | undefined)?.message, 'seven')
})
