// Mailboxes that are bounded by the bytes of typed arrays that wait in them, against a plain sum of what was taken and not handled.
import test from 'ava'
import fc from 'fast-check'
import { bytesIn } from '../../../runtime/actor/weight.js'
import { type ActorError, ActorSystem, metricsText, viewText } from '../../../transports/index.js'
import { LoopbackSystem } from '../../../transports/testing.js'
import { gate, pusher, shut, taker } from '../../support/taker.js'

const arena = new SharedArrayBuffer(1 << 20)

test('bytesIn adds up views and buffers wherever they are', (t) => {
  const view = new Float64Array(arena, 8, 10)
  t.is(bytesIn({ type: 'x', a: view, list: [view, { b: new Uint8Array(3) }], n: 1, s: 'text', nothing: null }), 163)
  t.is(bytesIn(new Map([[view, new Set([new ArrayBuffer(5)])]])), 85)
  t.is(bytesIn(arena), 1 << 20)
  const circle: Record<string, unknown> = { view }
  circle.self = circle
  t.is(bytesIn(circle), 80)
  t.is(bytesIn(new Date()), 0)
})

const start = async (worker: 0 | 'main', bytes: number, capacity = 1000) => {
  const system = await LoopbackSystem.start({ workers: 1 })
  const to = await system.spawn(taker, undefined, { name: 'taker', worker, mailbox: { capacity, bytes } })
  const box = async () => (await system.inspect()).actors[0]!.mailbox
  return { system, to, box }
}

test.serial(
  'A mailbox that counts bytes holds no more than its bound of typed arrays, and ready resolves when there is room for what was refused',
  async (t) => {
    for (const worker of ['main', 0] as const) {
      const { system, to, box } = await start(worker, 100)
      shut()
      const take = (bytes: number) => to.tell({ type: 'take', data: new Uint8Array(arena, 0, bytes) })
      t.true(take(40))
      await system.settle()
      // The first is being handled and weighs nothing any more.
      t.true(take(60))
      t.true(take(40))
      t.false(take(1))
      t.true(take(0))
      t.deepEqual((await box()).bytes, { waiting: 100, most: 100 })
      let room = false
      t.false(take(70))
      const ready = to.ready().then(() => {
        room = true
      })
      await system.settle()
      t.false(room)
      gate.open = true
      gate.release()
      await system.settle()
      await ready
      t.true(room)
      await system.advance(1000)
      t.deepEqual(await box(), { depth: 0, capacity: 1000, bytes: { waiting: 0, most: 100 } })
      t.true(take(70))
      await system.stop()
    }
  },
)

test.serial('what weighs more than the whole bound is TOO_LARGE, at tell and ask', async (t) => {
  const { system, to, box } = await start(0, 100)
  const data = new Uint8Array(arena, 0, 101)
  const message = 'send: taker, expected at most the 100 bytes of its mailbox, got a message with 101'
  t.throws(() => to.tell({ type: 'take', data }), { code: 'TOO_LARGE', message })
  await t.throwsAsync(to.ask({ type: 'take', data }), { code: 'TOO_LARGE', message })
  t.is((await box()).depth, 0)
  await system.stop()
})

test.serial('what cannot travel, is dropped on the way or is cancelled gives its bytes back', async (t) => {
  const { system, to, box } = await start(0, 100)
  const data = new Uint8Array(arena, 0, 80)
  t.throws(() => to.tell({ type: 'take', data: [data, () => 1] }), { code: 'NOT_SERIALISABLE' })
  await t.throwsAsync(to.ask({ type: 'take', data: [data, () => 1] }), { code: 'NOT_SERIALISABLE' })
  const end = system.drop(({ type }) => type === 'take')
  t.true(to.tell({ type: 'take', data }))
  end()
  t.deepEqual(await box(), { depth: 0, capacity: 1000, bytes: { waiting: 0, most: 100 } })
  shut()
  t.true(to.tell({ type: 'take', data: null }))
  const controller = new AbortController()
  const asked = to.ask({ type: 'take', data }, { signal: controller.signal })
  await system.settle()
  t.deepEqual((await box()).bytes, { waiting: 80, most: 100 })
  const second = to.ask({ type: 'take', data }, { deadline: 50 })
  await system.advance(10)
  controller.abort()
  await t.throwsAsync(asked, { code: 'ABORTED' })
  await system.settle()
  // The place of the one went to the other, which waited in line.
  t.deepEqual(await box(), { depth: 1, capacity: 1000, bytes: { waiting: 80, most: 100 } })
  gate.open = true
  gate.release()
  t.is(await second, 80)
  await system.stop()
})

test.serial('overflow fail, a full capacity, the end of a life and of a worker', async (t) => {
  const { system, to, box } = await start(0, 1000, 2)
  shut()
  const take = (bytes: number) => to.tell({ type: 'take', data: new Uint8Array(arena, 0, bytes) })
  take(10)
  await system.settle()
  t.true(take(10) && take(10))
  t.false(take(10))
  t.deepEqual(await box(), { depth: 2, capacity: 2, bytes: { waiting: 20, most: 1000 } })
  await system.kill(0)
  await system.advance(100)
  t.deepEqual(await box(), { depth: 0, capacity: 2, bytes: { waiting: 0, most: 1000 } })
  gate.open = true
  gate.release()
  t.true(take(1000))
  await system.settle()
  await t.throwsAsync(to.ask({ type: 'fail' }), { code: 'HANDLER_FAILED' })
  await system.advance(100)
  t.true(take(1000))
  await system.settle()
  t.is((await box()).bytes?.waiting, 0)
  const strict = await system.spawn(taker, undefined, {
    name: 'strict',
    worker: 0,
    mailbox: { bytes: 10, overflow: 'fail' },
  })
  shut()
  strict.tell({ type: 'take', data: null })
  strict.tell({ type: 'take', data: new Uint8Array(10) })
  t.throws(() => strict.tell({ type: 'take', data: new Uint8Array(1) }), { code: 'MAILBOX_FULL' })
  t.regex(viewText(await system.inspect()), /strict {2}worker 0, running, mailbox \d\/1000, bytes 10\/10/)
  t.regex(await metricsText(system), /deeptroupe_mailbox_bytes\{.*actor="strict".*\} 10\n/)
  gate.open = true
  gate.release()
  await system.stop()
})

test.serial(
  'any sends and handlings: the bytes that wait are those taken and not handled, and never above the bound',
  async (t) => {
    const step = fc.oneof(
      fc.record({ do: fc.constantFrom('tell', 'ask'), bytes: fc.nat(120) }),
      fc.record({ do: fc.constantFrom('settle', 'fail'), bytes: fc.constant(0) }),
    )
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('main' as const, 0 as const),
        fc.array(step, { maxLength: 30 }),
        async (worker, steps) => {
          gate.open = true
          const { system, to, box } = await start(worker, 100, 5)
          const asks: Promise<unknown>[] = []
          for (const { do: what, bytes } of steps) {
            const message = { type: 'take', data: new Uint8Array(bytes) } as const
            if (what === 'settle') await system.settle()
            else if (what === 'fail') to.tell({ type: 'fail' })
            else if (what === 'ask') asks.push(to.ask(message, { deadline: 500 }).catch(({ code }) => code))
            else {
              try {
                to.tell(message)
              } catch (error) {
                t.true(bytes > 100)
                t.is((error as ActorError).code, 'TOO_LARGE')
              }
            }
            const { waiting, most } = (await box()).bytes!
            t.true(waiting >= 0 && waiting <= most)
          }
          await system.advance(60_000)
          await Promise.all(asks)
          const left = (await system.inspect()).actors[0]?.mailbox
          if (left) t.deepEqual(left, { depth: 0, capacity: 5, bytes: { waiting: 0, most: 100 } })
          await system.stop()
          t.is(system.clock.waiting, 0)
        },
      ),
      { numRuns: 100 },
    )
  },
)

test.serial(
  'views of one arena from two threads at once: all arrive, the bound holds and all of it comes back',
  async (t) => {
    await using system = await ActorSystem.start({ workers: 3 })
    const most = 1 << 21
    const to = await system.spawn(taker, undefined, { worker: 0, mailbox: { bytes: most } })
    const pushers = await Promise.all([1, 2].map((worker) => system.spawn(pusher, { to }, { worker })))
    const view = new Uint8Array(arena)
    const count = 2000
    let done = false
    const pushing = Promise.all(pushers.map((each) => each.ask({ type: 'push', view, count }))).then(() => {
      done = true
    })
    let seen = 0
    while (!done) {
      const { waiting } = (await system.inspect()).actors[0]!.mailbox.bytes!
      t.true(waiting >= 0 && waiting <= most, `${waiting}`)
      seen = Math.max(seen, waiting)
    }
    await pushing
    let expected = 0
    for (let n = 0; n < count; n++) expected += 1 + ((n * 7919) % view.length)
    t.is(await to.ask({ type: 'taken' }), 2 * expected)
    t.true(seen > 0)
    t.is((await system.inspect()).actors[0]?.mailbox.bytes?.waiting, 0)
  },
)
