// Timers, stash, survival, routers, receptionist, streams, logs, spans and metrics: the guarantees of runtime/actor/README.md, section
// Conveniences, one test per sentence and named after it, on the deterministic loopback.
import test, { type ExecutionContext } from 'ava'
import { firstValueFrom, from, interval, map, of as observable, Subject, take, toArray } from 'rxjs'
import { Tracing, type TracingApi } from '../../../runtime/actor/tracing.js'
import {
  type ActorRef,
  type Behaviour,
  defineActor,
  feed,
  metricsText,
  observableOf,
  type RefOf,
  router,
  type SystemEvent,
  serviceKey,
  spawnRouter,
} from '../../../transports/index.js'
import { LoopbackSystem } from '../../../transports/testing.js'
import { counter, echo, holder, mortal, recorder, watcher } from '../../transports/cast.js'
import { feeder, keeper, sleeper, source, ticker } from '../../transports/services.js'

async function start(t: ExecutionContext, workers = 0, seed = 1) {
  const system = await LoopbackSystem.start({ workers, seed })
  const events: SystemEvent[] = []
  system.events$.subscribe((event) => events.push(event))
  t.teardown(() => system.stop())
  const of = <T extends SystemEvent['type']>(type: T) =>
    events.filter((event): event is Extract<SystemEvent, { type: T }> => event.type === type)
  const published = () => of('published').map(({ event }) => event)
  return { system, events, of, published }
}

async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const values: T[] = []
  for await (const value of stream) values.push(value)
  return values
}

/** No timer is left, once those of past asks are through. */
async function quiet(t: ExecutionContext, system: LoopbackSystem) {
  await system.advance(31_000)
  t.is(system.clock.waiting, 0)
}

const gate = () => {
  let open!: () => void
  const wait = new Promise<void>((resolve) => {
    open = resolve
  })
  return { open, wait }
}

test('A timer sends a message to its own actor, once or at each multiple of its period', async (t) => {
  for (const worker of ['main', 0] as const) {
    const { system } = await start(t, 1)
    const ref = await system.spawn(ticker, undefined, { worker })
    await ref.ask({ type: 'once', ms: 25 })
    await ref.ask({ type: 'every', ms: 10 })
    await system.advance(9)
    t.deepEqual(await ref.ask({ type: 'seen' }), [])
    await system.advance(26)
    t.deepEqual(await ref.ask({ type: 'seen' }), ['every', 'every', 'once', 'every'])
    await ref.ask({ type: 'cancel' })
    await system.advance(100)
    t.is((await ref.ask({ type: 'seen' })).length, 4)
    await quiet(t, system)
  }
})

test('What falls due needs no room in the mailbox, and a timer whose last message still waits skips', async (t) => {
  const { system } = await start(t)
  const { open, wait } = gate()
  let ticks = 0
  const slow = defineActor(import.meta.url, 'slow', {
    init: (context) => void context.schedule.every(10, { type: 'tick' }),
    receive: {
      hold: () => wait,
      fill() {},
      tick: () => ++ticks,
    },
  })
  const ref = await system.spawn(slow, undefined, { mailbox: { capacity: 1 } })
  ref.tell({ type: 'hold' })
  await system.settle()
  t.true(ref.tell({ type: 'fill' }))
  t.false(ref.tell({ type: 'fill' }))
  await system.advance(100)
  open()
  await system.settle()
  t.is(ticks, 1)
  await system.advance(10)
  t.is(ticks, 2)
})

test('The end of a life cancels its timers', async (t) => {
  const { system } = await start(t, 1)
  const ref = await system.spawn(ticker, undefined, { worker: 0 })
  await ref.ask({ type: 'every', ms: 1000 })
  await ref.ask({ type: 'once', ms: 1000 })
  await t.throwsAsync(ref.ask({ type: 'every', ms: 0 }), {
    message: /schedule: every of ticker-0, expected milliseconds above 0, got 0/,
  })
  await quiet(t, system)
  await ref.ask({ type: 'every', ms: 1000 })
  await system.kill(0)
  await quiet(t, system)
  await ref.ask({ type: 'every', ms: 1000 })
  await ref.stop()
  await quiet(t, system)
})

test('What was stashed is handled before all that waits, in its order, and an ask is answered then', async (t) => {
  const { system } = await start(t, 1)
  const ref = await system.spawn(sleeper, undefined, { worker: 0 })
  const early = [1, 2].map((n) => ref.ask({ type: 'work', n }))
  await system.settle()
  t.is((await system.inspect()).actors[0]?.activity?.stashed, 2)
  const woken = ref.ask({ type: 'wake' })
  const late = ref.ask({ type: 'work', n: 3 })
  t.deepEqual(await Promise.all([...early, woken, late]), ['did 1', 'did 2', 'awake', 'did 3'])
  t.deepEqual(await ref.ask({ type: 'order' }), [1, 2, 3])
})

test('A stash holds as many as the mailbox, and is lost with the life as dead letters', async (t) => {
  const { system, of } = await start(t)
  const ref = await system.spawn(sleeper, undefined, { name: 's', mailbox: { capacity: 2 } })
  const held = [1, 2].map((n) => t.throwsAsync(ref.ask({ type: 'work', n }), { code: 'DEAD_ACTOR' }))
  await system.settle()
  ref.tell({ type: 'work', n: 3 })
  await system.settle()
  t.is(of('failed')[0]?.cause.message, 'stash: s, expected at most 2 messages, got one more')
  await Promise.all(held)
  await system.advance(10)
  const outside = defineActor(import.meta.url, 'outside', {
    init: (context) => context.stash(),
    receive: {},
  })
  const error = await t.throwsAsync(system.spawn(outside), { code: 'SPAWN_FAILED' })
  t.regex(error?.message ?? '', /expected a message being handled, got none/)
})

test('State survives a restart only where the actor says so, also when its worker ends', async (t) => {
  for (const worker of ['main', 0] as const) {
    const { system } = await start(t, 1)
    const ref = await system.spawn(keeper, { start: 5 }, { worker })
    await ref.ask({ type: 'add', amount: 2, keep: true })
    await ref.ask({ type: 'add', amount: 100, keep: false })
    t.is(await ref.ask({ type: 'get' }), 107)
    if (worker === 0) await system.kill(0)
    else await t.throwsAsync(ref.ask({ type: 'fail' }))
    await system.advance(20)
    t.is(await ref.ask({ type: 'get' }), 7)
    // A new actor begins anew.
    await ref.stop()
    const next = await system.spawn(keeper, { start: 5 }, { worker })
    t.is(await next.ask({ type: 'get' }), 5)
  }
  const { system } = await start(t)
  const careless = defineActor(import.meta.url, 'careless', {
    init: () => 0,
    receive: { keep: (_state, _message, context) => context.survive() },
  })
  const ref = await system.spawn(careless)
  await t.throwsAsync(ref.ask({ type: 'keep' }), { message: /expected a definition with survive, got none/ })
})

test('A router by turns passes over a routee between two lives', async (t) => {
  const { system } = await start(t, 3)
  const refs = await Promise.all([0, 1, 2].map((worker) => system.spawn(counter, { start: 0 }, { worker })))
  const turns = router(refs, { strategy: 'round-robin' })
  for (let i = 0; i < 6; i++) t.true(turns.tell({ type: 'add', amount: 1 }))
  t.deepEqual(await Promise.all(refs.map((ref) => ref.ask({ type: 'get' }))), [2, 2, 2])
  refs[1]!.tell({ type: 'fail', text: 'now' })
  await system.settle()
  const where = await Promise.all([0, 1, 2, 3].map(() => turns.ask({ type: 'where' })))
  t.deepEqual(
    where.map((each) => each.worker),
    [0, 2, 0, 2],
  )
})

test('A router by load picks the most room in the mailbox and the fewest asks under way', async (t) => {
  const { system } = await start(t, 2)
  const refs = await Promise.all([0, 1].map((worker) => system.spawn(counter, { start: 0 }, { worker })))
  for (let i = 0; i < 5; i++) refs[0]!.tell({ type: 'add', amount: 1 })
  const least = router(refs, { strategy: 'least-loaded' })
  for (let i = 0; i < 5; i++) least.tell({ type: 'add', amount: 10 })
  t.deepEqual(await Promise.all(refs.map((ref) => ref.ask({ type: 'get' }))), [5, 50])
  const holders = await Promise.all([0, 1].map((worker) => system.spawn(holder, { heeds: true }, { worker })))
  const busy = router(holders, { strategy: 'least-loaded' })
  const held = busy.ask({ type: 'hold' })
  await system.settle()
  for (let i = 0; i < 3; i++) t.is(await busy.ask({ type: 'ping' }), 'pong')
  await busy.stop()
  t.is(await held, 'let go')
  t.is((await busy.terminated()).kind, 'stopped')
})

test('A router by hash sends equal keys to the same actor', async (t) => {
  const { system } = await start(t, 2)
  const refs = await Promise.all([0, 1, 0].map((worker) => system.spawn(recorder, undefined, { worker })))
  const hashed = router(refs, { strategy: 'hash', key: 'by' })
  for (let n = 0; n < 40; n++) await hashed.ask({ type: 'note', by: n % 8, n })
  const seen = await Promise.all(refs.map((ref) => ref.ask({ type: 'all' })))
  const homes = seen.map((notes) => new Set(notes.map((note) => note.by)))
  t.is(seen.flat().length, 40)
  t.is(
    homes.reduce((sum, each) => sum + each.size, 0),
    8,
  )
  t.true(homes.filter((each) => each.size > 0).length > 1)
  t.throws(() => hashed.tell({ type: 'all' }), {
    code: 'BAD_OPTION',
    message: 'route: by of "all", expected a string, number, bigint or boolean, got nothing',
  })
})

test('A broadcast is told to all or none, and its ask resolves with every reply', async (t) => {
  const { system } = await start(t, 2)
  const refs = await Promise.all(
    [0, 1].map((worker) => system.spawn(counter, { start: worker }, { worker, mailbox: { capacity: 2 } })),
  )
  const both = router(refs, { strategy: 'broadcast' })
  t.true(both.tell({ type: 'add', amount: 10 }))
  refs[1]!.tell({ type: 'add', amount: 100 })
  t.false(both.tell({ type: 'add', amount: 1000 }))
  await both.ready()
  t.deepEqual(await both.ask({ type: 'get' }), [10, 111])
})

test('A router travels in messages, and watching it watches all routees', async (t) => {
  const { system } = await start(t, 2)
  const refs = await Promise.all([0, 1].map((worker) => system.spawn(counter, { start: worker }, { worker })))
  const turns = router(refs, { strategy: 'round-robin' })
  const far = await system.spawn(echo, undefined, { worker: 1 })
  const back = (await far.ask({ type: 'echo', value: turns })) as typeof turns
  t.is(back.path, 'round-robin(counter-0, counter-1)')
  t.deepEqual([await back.ask({ type: 'get' }), await back.ask({ type: 'get' })], [0, 1])
  const watch = await system.spawn(watcher, undefined, { worker: 0 })
  await watch.ask({ type: 'watch', ref: turns })
  await turns.stop()
  await system.settle()
  const ends = await watch.ask({ type: 'ends' })
  t.deepEqual(ends.map((end) => end.path).sort(), ['counter-0', 'counter-1'])
})

test('A router over new actors spreads them over the workers, and one spawn that fails stops all', async (t) => {
  const { system } = await start(t, 2)
  const pool = await spawnRouter(
    system,
    counter,
    { start: 1 },
    { size: 4, name: 'n', routing: { strategy: 'broadcast' } },
  )
  t.deepEqual(await pool.ask({ type: 'get' }), [1, 1, 1, 1])
  t.deepEqual(
    (await pool.ask({ type: 'where' })).map(({ path, worker }) => [path, worker]),
    [
      ['n-0', 0],
      ['n-1', 1],
      ['n-2', 0],
      ['n-3', 1],
    ],
  )
  await system.spawn(counter, { start: 0 }, { name: 'm-2' })
  const routing = { strategy: 'round-robin' } as const
  await t.throwsAsync(spawnRouter(system, counter, { start: 1 }, { size: 3, name: 'm', routing }), {
    code: 'BAD_OPTION',
    message: /got m-2 again/,
  })
  t.is((await system.inspect()).actors.length, 5)
  t.throws(() => router([], routing), { message: 'router: refs, expected at least one, got none' })
  t.throws(() => router([pool], { strategy: 'hash' } as never), { message: /router: key/ })
  t.throws(() => router([pool], { strategy: 'fastest' } as never), {
    message: /router: strategy, expected one of round/,
  })
})

test('An actor is found under the keys that it is registered under until it is gone for good', async (t) => {
  const { system } = await start(t, 2)
  const key = serviceKey<{ get(): number }>('numbers')
  const a = await system.spawn(counter, { start: 1 }, { worker: 0 })
  const b = await system.spawn(counter, { start: 2 }, { worker: 1 })
  const { receptionist } = system
  t.deepEqual(await receptionist.find(key), [])
  await receptionist.register(key, a)
  await receptionist.register(key, b)
  await receptionist.register(key, b)
  const found = await receptionist.find(key)
  t.deepEqual(await Promise.all(found.map((ref) => ref.ask({ type: 'get' }))), [1, 2])
  await system.kill(0)
  await system.advance(20)
  t.is((await receptionist.find(key)).length, 2)
  await a.stop()
  t.deepEqual(
    (await receptionist.find(key)).map((ref) => ref.path),
    ['counter-1'],
  )
  await receptionist.unregister(key, b)
  t.deepEqual(await receptionist.find(key), [])
  await t.throwsAsync(receptionist.register(key, a), { code: 'DEAD_ACTOR' })
})

test('A subscription to a key yields the actors now and after each change', async (t) => {
  const { system } = await start(t, 1)
  const key = serviceKey<{ get(): number }>('numbers')
  const paths: string[][] = []
  const subscription = system.receptionist.subscribe(key)
  const reading = (async () => {
    for await (const refs of subscription) paths.push(refs.map((ref) => ref.path))
  })()
  await system.settle()
  const a = await system.spawn(counter, { start: 1 }, { name: 'a' })
  await system.receptionist.register(key, a)
  await system.settle()
  await a.stop()
  await system.settle()
  t.deepEqual(paths, [[], ['a'], []])
  await subscription.return?.()
  await reading
})

test('A handler that returns an async iterable or an observable is read value by value', async (t) => {
  for (const worker of ['main', 0] as const) {
    const { system } = await start(t, 1)
    const ref = await system.spawn(source, undefined, { worker })
    t.deepEqual(await all(ref.stream({ type: 'count', to: 200 })), [...Array(200).keys()])
    t.deepEqual(await all(await ref.ask({ type: 'count', to: 3 })), [0, 1, 2])
    t.deepEqual(await all(ref.stream({ type: 'observed', to: 3 })), [0, 1, 2])
    t.deepEqual(
      await firstValueFrom(
        observableOf(ref.stream({ type: 'count', to: 100 })).pipe(
          map((n) => n * 2),
          take(3),
          toArray(),
        ),
      ),
      [0, 2, 4],
    )
    await system.settle()
    t.true(await ref.ask({ type: 'left' }))
    await t.throwsAsync(all((ref as unknown as ActorRef<Loose>).stream({ type: 'left' })), {
      code: 'BAD_OPTION',
      message:
        /^stream: "left" of source-0, expected a handler that returns an async iterable or observable, got a boolean/,
    })
  }
})

type Loose = { left(): AsyncIterable<number> }

test('A producer runs ahead of its reader by at most the buffer', async (t) => {
  const { system } = await start(t, 1)
  const ref = await system.spawn(source, undefined, { worker: 0 })
  const stream = ref.stream({ type: 'count', to: 1000 }, { buffer: 8 })
  for (let n = 0; n < 20; n++) {
    t.deepEqual(await stream.next(), { done: false, value: n })
    await system.settle()
    const made = await ref.ask({ type: 'made' })
    t.true(made <= n + 1 + 8, `${made} made, ${n + 1} read`)
  }
  await stream.return?.()
  await system.settle()
  t.true(await ref.ask({ type: 'left' }))
  t.throws(() => ref.stream({ type: 'count', to: 1 }, { buffer: 0 }), {
    message: /buffer, expected a whole number from 1/,
  })
})

test('Leaving a stream, aborting it and the end of the reader let the producer go', async (t) => {
  const { system } = await start(t, 2)
  const ref = await system.spawn(source, undefined, { worker: 0 })
  for await (const n of ref.stream({ type: 'count', to: 1000 })) if (n === 5) break
  await system.settle()
  t.true(await ref.ask({ type: 'left' }))

  const controller = new AbortController()
  const stream = ref.stream({ type: 'silent' }, { signal: controller.signal })
  const aborted = t.throwsAsync(stream.next(), {
    code: 'ABORTED',
    message: /^stream: "silent" of source-0 was aborted/,
  })
  await system.settle()
  t.false(await ref.ask({ type: 'left' }))
  controller.abort()
  await aborted
  await system.settle()
  t.true(await ref.ask({ type: 'left' }))

  const subscription = observableOf(ref.stream({ type: 'silent' })).subscribe()
  await system.settle()
  t.false(await ref.ask({ type: 'left' }))
  subscription.unsubscribe()
  await system.settle()
  t.true(await ref.ask({ type: 'left' }))

  const reader = await system.spawn(feeder, undefined, { worker: 1 })
  reader.tell({ type: 'read', from: ref })
  await system.settle()
  t.false(await ref.ask({ type: 'left' }))
  await reader.stop({ force: true })
  await system.settle()
  t.true(await ref.ask({ type: 'left' }))
  reader.tell({ type: 'read', from: ref })
  const other = await system.spawn(feeder, undefined, { worker: 1 })
  other.tell({ type: 'read', from: ref })
  await system.settle()
  t.false(await ref.ask({ type: 'left' }))
  await system.kill(1)
  t.true(await ref.ask({ type: 'left' }))
})

test('A stream ends with the error of its producer, whose life fails, or with the cause of that life’s end', async (t) => {
  const { system, of } = await start(t, 1)
  const ref = await system.spawn(source, undefined, { worker: 0, name: 's' })
  const values: number[] = []
  const read = async (stream: AsyncIterable<number>) => {
    for await (const value of stream) values.push(value)
  }
  await t.throwsAsync(read(ref.stream({ type: 'failing' })), {
    code: 'HANDLER_FAILED',
    message: 'stream: s failed: dry',
  })
  t.deepEqual(values, [1, 2])
  await system.advance(10)
  t.is(of('restarted').length, 1)
  const silent = t.throwsAsync(read(ref.stream({ type: 'silent' })), { code: 'DEAD_ACTOR', message: /stopped/ })
  await system.settle()
  await ref.stop()
  await silent
  const again = await system.spawn(source, undefined, { worker: 0 })
  const lost = t.throwsAsync(read(again.stream({ type: 'silent' })), { code: 'DEAD_ACTOR', message: /worker 0 ended/ })
  await system.settle()
  await system.kill(0)
  await lost
  await system.advance(10)
  await t.throwsAsync(all(again.stream({ type: 'bad' })), { code: 'NOT_SERIALISABLE' })
})

test('An observable that is 1,024 values ahead of its reader fails with STREAM_OVERFLOW', async (t) => {
  const { system } = await start(t)
  const subject = new Subject<number>()
  const pushing = defineActor(import.meta.url, 'pushing', { init: () => 0, receive: { values: () => subject } })
  const ref = await system.spawn(pushing)
  const stream = ref.stream({ type: 'values' }, { buffer: 1 })
  const first = stream.next()
  await system.settle()
  subject.next(0)
  t.deepEqual(await first, { done: false, value: 0 })
  await system.settle()
  for (let n = 1; n < 1200; n++) subject.next(n)
  const rest: number[] = []
  await t.throwsAsync(
    async () => {
      for await (const value of stream) rest.push(value)
    },
    { code: 'HANDLER_FAILED', message: /an observable, expected at most 1024 values that wait, got one more/ },
  )
  t.false(subject.observed)
  t.true(rest.length >= 1024 && rest.length < 1100)
})

test('feed tells each value of an iterable or observable as fast as the mailbox takes them', async (t) => {
  const { system } = await start(t, 1)
  const ref = await system.spawn(recorder, undefined, { worker: 0, mailbox: { capacity: 2 } })
  const note = (n: number) => ({ type: 'note', by: 0, n }) as const
  t.is(await feed(ref, [0, 1, 2, 3, 4], note), 5)
  t.is(await feed(ref, from([5, 6]), note), 2)
  const numbers = (async function* () {
    for (let n = 7; n < 50; n++) yield n
  })()
  t.is(await feed(ref, numbers, note), 43)
  t.deepEqual(
    (await ref.ask({ type: 'all' })).map((each) => each.n),
    [...Array(50).keys()],
  )
  await ref.stop()
  await t.throwsAsync(feed(ref, observable(1), note, { signal: AbortSignal.abort(new Error('enough')) }), {
    message: 'enough',
  })
  const gone = await system.spawn(recorder, undefined, { worker: 0, mailbox: { capacity: 1 } })
  const endless = interval(0).pipe(map((n) => n))
  const controller = new AbortController()
  const feeding = t.throwsAsync(feed(gone, endless, note, { signal: controller.signal }), { message: 'done' })
  await new Promise((resolve) => setTimeout(resolve, 20))
  controller.abort(new Error('done'))
  await feeding
})

test('inspect tells depth, the age of the oldest message, who waits for whom and how long handlers took', async (t) => {
  const { system } = await start(t, 2)
  const ref = await system.spawn(holder, { heeds: true }, { name: 'held', worker: 0 })
  const asker = await system.spawn(feeder, undefined, { name: 'asker', worker: 1 })
  asker.tell({ type: 'ask', ref })
  await system.advance(100)
  ref.tell({ type: 'ping' })
  await system.advance(30)
  ref.tell({ type: 'ping' })
  await system.advance(20)
  const view = await system.inspect()
  const [held, waiting] = view.actors
  t.deepEqual(held?.mailbox, { depth: 2, capacity: 1000 })
  t.is(held?.activity?.oldestMs, 50)
  t.deepEqual(waiting?.activity?.waitsFor, [{ actor: 'held', type: 'hold', forMs: 150 }])
  await ref.stop()
  await system.settle()
  const after = (await system.inspect()).actors[0]?.activity
  const { count, ...times } = after!.handlers
  t.is(count, 1)
  for (const ms of Object.values(times)) t.true(Math.abs(ms / 150 - 1) < 0.02, `${ms} ms`)
  t.deepEqual(after?.waitsFor, [])
  t.is((await system.inspect()).deadLetters, 2)
})

test('A worker that does not answer within a second is left out of a view', async (t) => {
  const { system } = await start(t, 2)
  await system.spawn(counter, { start: 0 }, { name: 'a', worker: 0 })
  await system.spawn(counter, { start: 0 }, { name: 'b', worker: 1 })
  system.freeze(0)
  const viewing = system.inspect()
  await system.advance(1000)
  const { actors } = await viewing
  t.deepEqual(
    actors.map(({ path, activity }) => [path, activity !== null]),
    [
      ['a', false],
      ['b', true],
    ],
  )
  system.thaw(0)
  await system.settle()
})

test('A record of context.log carries system, worker and path, and its level is the spawn’s', async (t) => {
  const { system, of } = await start(t, 1)
  const talker: Behaviour<{ say(message: { text: string }): void }, null> = {
    init: () => null,
    receive: {
      say(_state, message, context) {
        context.log.debug({ part: 'small' }, message.text)
        context.log.warn(message.text)
      },
    },
  }
  const definition = defineActor(import.meta.url, 'talker', talker)
  const loud = await system.spawn(definition, undefined, { name: 'loud', worker: 'main', logLevel: 'debug' })
  await loud.ask({ type: 'say', text: 'hello' })
  const quiet = await system.spawn(definition, undefined, { name: 'quiet', worker: 'main' })
  await quiet.ask({ type: 'say', text: 'hush' })
  const far = await system.spawn(feeder, undefined, { name: 'far', worker: 0 })
  await far.ask({ type: 'log', text: 'from afar' })
  const records = of('log').map(({ actor, level, line }) => ({ actor, level, record: JSON.parse(line) }))
  t.deepEqual(
    records.map(({ actor, level, record }) => [actor, level, record.msg, record.actor, record.worker, record.level]),
    [
      ['loud', 'debug', 'hello', 'loud', 'main', 20],
      ['loud', 'warn', 'hello', 'loud', 'main', 40],
      ['quiet', 'warn', 'hush', 'quiet', 'main', 40],
      ['far', 'info', 'from afar', 'far', 0, 30],
    ],
  )
  t.is(records[0]?.record.system, 'loopback')
  t.is(records[0]?.record.part, 'small')
})

test('Metrics are in the text format of Prometheus, a sample per actor', async (t) => {
  const { system } = await start(t, 1)
  const ref = await system.spawn(counter, { start: 0 }, { name: 'a "b"', worker: 0 })
  await ref.ask({ type: 'get' })
  const text = await metricsText(system)
  const line = /^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+\{([a-z_]+="([^"\\]|\\.)*",?)+\} -?[0-9.e+-]+)$/
  for (const each of text.trimEnd().split('\n')) t.regex(each, line)
  for (const expected of [
    '# TYPE deeptroupe_actors gauge',
    'deeptroupe_actors{system="loopback",worker="0"} 1',
    'deeptroupe_mailbox_capacity_messages{system="loopback",actor="a \\"b\\""} 1000',
    'deeptroupe_handler_seconds{system="loopback",actor="a \\"b\\"",quantile="0.5"} 0',
    'deeptroupe_handler_seconds_count{system="loopback",actor="a \\"b\\""} 1',
  ]) {
    t.true(text.split('\n').includes(expected), expected)
  }
})

/** As much of the OpenTelemetry API as is used, writing down its spans. */
function fakeTracing() {
  type Span = { name: string; id: string; parent: string | undefined; error?: string; ended: boolean }
  const spans: Span[] = []
  let active: unknown
  const idOf = (context: unknown) => (context as { span?: string } | undefined)?.span
  const api: TracingApi = {
    trace: {
      getTracer: () => ({
        startSpan(name, _options, context) {
          const span: Span = { name, id: `span-${spans.length}`, parent: idOf(context), ended: false }
          spans.push(span)
          return {
            recordException(error) {
              span.error = error.message
            },
            setStatus: () => {},
            end() {
              span.ended = true
            },
            id: span.id,
          }
        },
      }),
      setSpan: (_context, span) => ({ span: (span as unknown as { id: string }).id }),
    },
    context: {
      active: () => active,
      with(context, run) {
        const before = active
        active = context
        try {
          return run()
        } finally {
          active = before
        }
      },
    },
    propagation: {
      inject(context, carrier) {
        carrier.traceparent = idOf(context)!
      },
      extract: (_context, carrier) => ({ span: carrier.traceparent }),
    },
  }
  return { api, spans }
}

test('An ask is a span, and the handler’s span is its child', async (t) => {
  const { system } = await start(t)
  const { api, spans } = fakeTracing()
  ;(system as unknown as { host: { tracing: Tracing } }).host.tracing = new Tracing(api)
  const inner = await system.spawn(counter, { start: 4 }, { name: 'inner' })
  const outer = defineActor(import.meta.url, 'outer', {
    init: () => 0,
    receive: { relay: (_state, message: { to: RefOf<typeof counter> }) => message.to.ask({ type: 'get' }) },
  })
  const ref = await system.spawn(outer, undefined, { name: 'outer' })
  t.is(await ref.ask({ type: 'relay', to: inner }), 4)
  await t.throwsAsync(inner.ask({ type: 'fail', text: 'as told' }))
  t.deepEqual(
    spans.map(({ name, parent, error, ended }) => ({ name, parent, error, ended })),
    [
      { name: 'ask outer relay', parent: undefined, error: undefined, ended: true },
      { name: 'handle outer relay', parent: 'span-0', error: undefined, ended: true },
      { name: 'ask inner get', parent: 'span-1', error: undefined, ended: true },
      { name: 'handle inner get', parent: 'span-2', error: undefined, ended: true },
      { name: 'ask inner fail', parent: undefined, error: 'ask: inner failed at "fail": as told', ended: true },
      { name: 'handle inner fail', parent: 'span-4', error: 'as told', ended: true },
    ],
  )
})

test('a told message is not traced', async (t) => {
  const { system } = await start(t)
  const { api, spans } = fakeTracing()
  ;(system as unknown as { host: { tracing: Tracing } }).host.tracing = new Tracing(api)
  const ref = await system.spawn(mortal)
  ref.tell({ type: 'ping' })
  await system.settle()
  t.deepEqual(spans, [])
})
