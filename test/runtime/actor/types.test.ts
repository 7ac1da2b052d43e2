// A wrong message, reply, argument or ref is a compile error: each line under `@ts-expect-error` fails the build if it compiles.
import test from 'ava'
import type { Observable } from 'rxjs'
import {
  type ActorContext,
  type ActorRef,
  type Behaviour,
  defineActor,
  feed,
  type MessageOf,
  type ProtocolOf,
  type RefOf,
  type ReplyOf,
  router,
  type ServiceKey,
  serviceKey,
  spawnRouter,
} from '../../../transports/index.js'
import { LoopbackSystem } from '../../../transports/loopback/system.js'
import { counter, greeter, type recorder } from '../../transports/cast.js'
import type { keeper, source } from '../../transports/services.js'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const holds = <T extends true>(value?: T) => value

/** Compiled, never run. */
async function wrongUses(system: LoopbackSystem, ref: RefOf<typeof counter>, any: ActorRef) {
  // @ts-expect-error no such message
  ref.tell({ type: 'sub', amount: 1 })
  // @ts-expect-error no amount
  ref.tell({ type: 'add' })
  // @ts-expect-error not a number
  ref.tell({ type: 'add', amount: '1' })
  // @ts-expect-error a field too many
  ref.tell({ type: 'get', amount: 1 })
  // @ts-expect-error the reply is a number
  const text: string = await ref.ask({ type: 'get' })
  // @ts-expect-error a ref without a protocol takes no message
  any.tell({ type: 'get' })
  // @ts-expect-error args missing
  await system.spawn(counter)
  // @ts-expect-error wrong args
  await system.spawn(counter, { start: '0' })
  // @ts-expect-error unknown option
  await system.spawn(counter, { start: 0 }, { wroker: 0 })
  // @ts-expect-error another protocol
  const other: RefOf<typeof recorder> = ref
  // @ts-expect-error the greeting's payload has a name
  ;(await system.spawn(greeter, { word: 'hello' })).tell({ type: 'greet' })
  return [text, other]
}

type Ticker = { tick(message: { n: number }): void; values(): AsyncIterable<string> }

/** Compiled, never run. */
async function wrongServices(
  system: LoopbackSystem,
  ref: RefOf<typeof counter>,
  streams: RefOf<typeof source>,
  context: ActorContext<Ticker>,
) {
  context.schedule.once(10, { type: 'tick', n: 1 })
  // @ts-expect-error no such message
  context.schedule.once(10, { type: 'tock' })
  // @ts-expect-error not a number
  context.schedule.every(10, { type: 'tick', n: '1' })
  // @ts-expect-error not a stream
  ref.stream({ type: 'get' })
  // @ts-expect-error payload missing
  streams.stream({ type: 'count' })
  // @ts-expect-error the values are numbers
  for await (const text of streams.stream({ type: 'count', to: 1 })) holds<Equal<typeof text, string>>()
  const all = router([ref], { strategy: 'broadcast' })
  // @ts-expect-error a broadcast has many replies
  const one: number = await all.ask({ type: 'get' })
  // @ts-expect-error a hash needs its key
  router([ref], { strategy: 'hash' })
  // @ts-expect-error no such message
  router([ref], { strategy: 'round-robin' }).tell({ type: 'note' })
  // @ts-expect-error the routees are of one protocol
  router<ProtocolOf<typeof counter>, { strategy: 'broadcast' }>([ref, streams], { strategy: 'broadcast' })
  // @ts-expect-error wrong args
  await spawnRouter(system, counter, { start: '0' }, { size: 2, routing: { strategy: 'round-robin' } })
  const key = serviceKey<{ note(message: { n: number }): void }>('notes')
  // @ts-expect-error an actor without that message
  await system.receptionist.register(key, ref)
  const [found] = await system.receptionist.find(key)
  // @ts-expect-error not a number
  found?.tell({ type: 'note', n: 'one' })
  // @ts-expect-error no such message
  await feed(ref, [1, 2], (amount) => ({ type: 'sub', amount }))
  const keeping: Behaviour<{ get(): number }, number, undefined, { sum: number }> = {
    init: (_context, _args, survived) => survived?.sum ?? 0,
    receive: { get: (state) => state },
    // @ts-expect-error not what init takes
    survive: (state) => ({ total: state }),
  }
  defineActor(import.meta.url, 'wrong', {
    init: (_context, _args: undefined, survived?: { sum: number }) => survived?.sum ?? 0,
    receive: { get: (state) => state },
    // @ts-expect-error not what init takes
    survive: (state) => ({ sum: String(state) }),
  })
  return [one, keeping]
}

test('types of streams, routers, keys, timers and what survives', (t) => {
  t.is(typeof wrongServices, 'function')
  holds<Equal<ReplyOf<ProtocolOf<typeof source>['count']>, AsyncIterableIterator<number>>>()
  holds<Equal<ReplyOf<() => Promise<Observable<string>>>, AsyncIterableIterator<string>>>()
  holds<Equal<ReplyOf<() => number | null>, number | null>>()
  holds<Equal<ReplyOf<() => never>, never>>()
  holds<Equal<ReplyOf<ProtocolOf<typeof keeper>['get']>, number>>()
  holds<Equal<ReturnType<typeof serviceKey<Ticker>>, ServiceKey<Ticker>>>()
})

test('types follow from the handlers', async (t) => {
  t.is(typeof wrongUses, 'function')
  holds<Equal<ReplyOf<ProtocolOf<typeof counter>['get']>, number>>()
  holds<Equal<ReplyOf<ProtocolOf<typeof counter>['fail']>, void>>()
  holds<Equal<ReplyOf<ProtocolOf<typeof greeter>['greet']>, string>>()
  const message: MessageOf<ProtocolOf<typeof counter>> = { type: 'add', amount: 1 }
  await using system = await LoopbackSystem.start({ workers: 1 })
  const ref = await system.spawn(counter, { start: 1 })
  const narrower: ActorRef<{ get(): number }> = ref
  const untyped: ActorRef = ref
  ref.tell(message.type === 'add' ? message : { type: 'add', amount: 0 })
  t.is(await narrower.ask({ type: 'get' }), 2)
  t.is(untyped.path, 'counter-0')
  const hello = await system.spawn(greeter, { word: 'hello' })
  t.is(await hello.ask({ type: 'greet', name: 'you' }), 'hello you')
})
