// The faults and the time of `deeptroupe/testing`, each by what it does to messages and timers.
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { LoopbackSystem, VirtualClock } from '../../transports/testing.js'
import { caller, counter, recorder, sender } from './cast.js'

async function start(t: ExecutionContext, workers: number, seed = 1) {
  const system = await LoopbackSystem.start({ workers, seed })
  t.teardown(() => system.stop())
  return system
}

test('freeze holds messages to and from a worker and its timers; thaw lets them go on', async (t) => {
  const system = await start(t, 2)
  const ref = await system.spawn(counter, { start: 0 }, { worker: 0 })
  const relay = await system.spawn(sender, { to: null as never, by: 0 }, { worker: 0 })
  const far = await system.spawn(counter, { start: 9 }, { worker: 1 })
  const asked = relay.ask({ type: 'relay', to: far })
  system.freeze(0)
  const late = t.throwsAsync(ref.ask({ type: 'get' }, { deadline: 10 }), { code: 'ASK_TIMEOUT' })
  await system.advance(100)
  await late
  t.is(await far.ask({ type: 'get' }), 9)
  system.thaw(0)
  t.is(await asked, 9)
  t.is(await ref.ask({ type: 'get' }), 0)
})

test('cut holds what goes between two places; heal delivers it in order', async (t) => {
  const system = await start(t, 2)
  const to = await system.spawn(recorder, undefined, { worker: 1 })
  const from = await system.spawn(sender, { to, by: 0 }, { worker: 0 })
  system.cut(0, 1)
  const burst = from.ask({ type: 'burst', count: 10 })
  await system.advance(100)
  t.deepEqual(await to.ask({ type: 'all' }), [])
  system.heal(0, 1)
  await burst
  t.deepEqual(
    (await to.ask({ type: 'all' })).map((note) => note.n),
    [...Array(10).keys()],
  )
})

test('delay adds virtual time on the way', async (t) => {
  const system = await start(t, 1)
  const ref = await system.spawn(counter, { start: 4 }, { worker: 0 })
  system.delay('main', 0, 50)
  const replies: number[] = []
  void ref.ask({ type: 'get' }).then((value) => replies.push(value))
  await system.advance(49)
  t.deepEqual(replies, [])
  await system.advance(1)
  t.deepEqual(replies, [4])
})

test('drop loses the messages that match, and their room in the mailbox is free again', async (t) => {
  const system = await start(t, 1)
  const ref = await system.spawn(counter, { start: 0 }, { name: 'c', worker: 0, mailbox: { capacity: 1 } })
  const seen: unknown[] = []
  const end = system.drop((message) => {
    seen.push(message)
    return message.type === 'add'
  })
  for (let i = 0; i < 3; i++) t.true(ref.tell({ type: 'add', amount: 1 }))
  t.is(await ref.ask({ type: 'get' }), 0)
  end()
  t.true(ref.tell({ type: 'add', amount: 1 }))
  await system.settle()
  t.is(await ref.ask({ type: 'get' }), 1)
  t.deepEqual(seen[0], { from: 0, to: 1, actor: 'c', type: 'add' })
  t.is(seen.length, 4)
})

test('whatever is cut, frozen and delayed, once it ends every message has arrived once and in order', async (t) => {
  const fault = fc.record({ what: fc.constantFrom('cut', 'freeze', 'delay'), place: fc.nat(1), ms: fc.nat(30) })
  await fc.assert(
    fc.asyncProperty(fc.integer(), fc.array(fault, { maxLength: 8 }), async (seed, faults) => {
      const system = await LoopbackSystem.start({ workers: 2, seed })
      const to = await system.spawn(recorder, undefined, { worker: 1, mailbox: { capacity: 3 } })
      const from = await system.spawn(sender, { to, by: 0 }, { worker: 0 })
      const bursts = Promise.all([0, 1, 2].map(() => from.ask({ type: 'burst', count: 5 })))
      for (const { what, place, ms } of faults) {
        if (what === 'cut') system.cut(place, place === 0 ? 1 : 'main')
        else if (what === 'freeze') system.freeze(place)
        else system.delay(place, place === 0 ? 1 : 'main', ms)
        await system.advance(ms)
      }
      for (const place of [0, 1]) {
        system.thaw(place)
        system.heal(place, place === 0 ? 1 : 'main')
        system.delay(place, place === 0 ? 1 : 'main', 0)
      }
      await system.advance(1000)
      await bursts
      const seen = await to.ask({ type: 'all' })
      t.deepEqual(
        seen.map((note) => note.n),
        [0, 1, 2].flatMap(() => [...Array(5).keys()]),
      )
      await system.stop()
    }),
    { numRuns: 100 },
  )
})

test('the seed decides between channels', async (t) => {
  const orders = new Set<string>()
  for (let seed = 1; seed <= 20; seed++) {
    const system = await start(t, 3, seed)
    const to = await system.spawn(recorder, undefined, { worker: 2 })
    const senders = await Promise.all([0, 1].map((by) => system.spawn(sender, { to, by }, { worker: by })))
    await Promise.all(senders.map((each) => each.ask({ type: 'burst', count: 4 })))
    orders.add((await to.ask({ type: 'all' })).map((note) => note.by).join(''))
  }
  t.true(orders.size > 5)
})

test('a chain of asks crosses a healed cut', async (t) => {
  const system = await start(t, 2)
  const a = await system.spawn(caller, undefined, { name: 'a', worker: 0 })
  const b = await system.spawn(caller, undefined, { name: 'b', worker: 1 })
  system.cut(0, 1)
  const chain = a.ask({ type: 'call', path: [b] })
  await system.advance(10)
  system.heal(0, 1)
  t.is(await chain, 'a > b')
})

test('a virtual clock fires in order of time, and what was set first goes first', (t) => {
  const clock = new VirtualClock()
  const fired: string[] = []
  clock.after(10, () => fired.push('b'))
  clock.after(5, () => {
    fired.push('a')
    clock.after(5, () => fired.push('d'))
  })
  clock.after(10, () => fired.push('c'))
  const never = clock.after(7, () => fired.push('never'))
  never.cancel()
  while (clock.step(10));
  t.deepEqual(fired, ['a', 'b', 'c', 'd'])
  t.is(clock.now(), 10)
  t.is(clock.waiting, 0)
})
