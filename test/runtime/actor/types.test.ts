// A wrong message, reply, argument or ref is a compile error: each line under `@ts-expect-error` fails the build if it compiles.
import test from 'ava'
import type { ActorRef, MessageOf, ProtocolOf, RefOf, ReplyOf } from '../../../transports/index.js'
import { LoopbackSystem } from '../../../transports/loopback/system.js'
import { counter, greeter, type recorder } from '../../transports/cast.js'

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
