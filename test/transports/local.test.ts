// The actor system on real worker threads: what only threads can show. Rules that need no threads are tested on the loopback.
import { setTimeout as sleep } from 'node:timers/promises'
import ava, { type ExecutionContext } from 'ava'
import { firstValueFrom, filter as keep, take, toArray } from 'rxjs'
import { ActorError, ActorSystem, type Cause, type SystemEvent } from '../../transports/index.js'
import { caller, counter, echo, enclosed, holder, mortal, nested, parent, recorder, sender, watcher } from './cast.js'

// One at a time: each starts threads of its own, and some count them.
const test = ava.serial

async function start(t: ExecutionContext, workers: number, resourceLimits?: { maxOldGenerationSizeMb: number }) {
  const system = await ActorSystem.start({ workers, name: 'test', ...(resourceLimits && { resourceLimits }) })
  t.teardown(() => system.stop())
  return system
}

/** Resolves with the first event of a type that matches. */
function event<T extends SystemEvent['type']>(
  system: ActorSystem,
  type: T,
  matches: (event: Extract<SystemEvent, { type: T }>) => boolean = () => true,
) {
  return firstValueFrom(
    system.events$.pipe(
      keep((each): each is Extract<SystemEvent, { type: T }> => each.type === type && matches(each as never)),
    ),
  )
}

const published = (system: ActorSystem, value: unknown) =>
  event(system, 'published', (each) => JSON.stringify(each.event) === JSON.stringify(value))

const threads = () =>
  process.getActiveResourcesInfo().filter((name) => name === 'Worker' || name === 'MessagePort').length

/** How many there are once they have had time to leave. */
async function threadsLeft(): Promise<number> {
  for (let looks = 0; looks < 100 && threads() > 0; looks++) await sleep(20)
  return threads()
}

test('tell and ask reach actors on workers and on the main thread', async (t) => {
  const system = await start(t, 2)
  for (const worker of [0, 1, 'main'] as const) {
    const ref = await system.spawn(counter, { start: 5 }, { name: `counter-${worker}`, worker })
    t.true(ref.tell({ type: 'add', amount: 2 }))
    t.is(await ref.ask({ type: 'get' }), 7)
    t.deepEqual(await ref.ask({ type: 'where' }), { path: `counter-${worker}`, worker, restarts: 0, sender: undefined })
  }
})

test('loops tells which thread ran JavaScript, and for how long', async (t) => {
  const system = await start(t, 2)
  const busy = await system.spawn(recorder, undefined, { worker: 1 })
  const started = performance.now()
  const before = system.loops()
  await busy.ask({ type: 'block', ms: 200 })
  await busy.ask({ type: 'all' })
  const after = system.loops()
  const wall = performance.now() - started
  t.deepEqual(
    after.map(({ worker }) => worker),
    ['main', 0, 1],
  )
  const spent = after.map(({ activeMs, idleMs }, i) => [activeMs - before[i]!.activeMs, idleMs - before[i]!.idleMs])
  const [, [, idleOther], [active]] = spent as [number[], number[], number[]]
  t.true(active! >= 200, `worker 1 was active for ${active} ms`)
  t.true(idleOther! > 0, `worker 0 was idle for ${idleOther} ms`)
  for (const [busyMs, idleMs] of spent) t.true(busyMs! + idleMs! <= wall + 1)
})

test('without a place an actor goes to the worker with the fewest', async (t) => {
  const system = await start(t, 2)
  const places = []
  for (let i = 0; i < 4; i++)
    places.push((await (await system.spawn(counter, { start: 0 })).ask({ type: 'where' })).worker)
  t.deepEqual(places, [0, 1, 0, 1])
})

test('refs work from worker to worker, and the order of each sender is kept', async (t) => {
  const system = await start(t, 3)
  const to = await system.spawn(recorder, undefined, { worker: 2, mailbox: { capacity: 16 } })
  const senders = await Promise.all([0, 1].map((by) => system.spawn(sender, { to, by }, { worker: by })))
  await Promise.all(senders.map((each) => each.ask({ type: 'burst', count: 500 })))
  const seen = await to.ask({ type: 'all' })
  t.is(seen.length, 1000)
  for (const by of [0, 1]) {
    t.deepEqual(
      seen.filter((note) => note.by === by).map((note) => note.n),
      Array.from({ length: 500 }, (_, n) => n),
    )
  }
  const target = await system.spawn(counter, { start: 3 }, { worker: 1 })
  t.is(await senders[0]!.ask({ type: 'relay', to: target }), 3)
})

test('an ask cycle over two workers fails at once and prints the chain', async (t) => {
  const system = await start(t, 2)
  const a = await system.spawn(caller, undefined, { name: 'a', worker: 0 })
  const b = await system.spawn(caller, undefined, { name: 'b', worker: 1 })
  const error = await t.throwsAsync(a.ask({ type: 'call', path: [b, a] }), {
    instanceOf: ActorError,
    code: 'HANDLER_FAILED',
  })
  const atB = error?.cause as ActorError
  const inner = atB.cause as ActorError
  t.is(inner.code, 'ASK_CYCLE')
  t.regex(inner.message, /a -> b -> a/)
})

test('an error of a handler reaches the asker with code, message and cause', async (t) => {
  const system = await start(t, 1)
  const ref = await system.spawn(counter, { start: 0 }, { name: 'c' })
  const error = await t.throwsAsync(ref.ask({ type: 'fail', text: 'as told' }), { instanceOf: ActorError })
  t.is((error as ActorError).code, 'HANDLER_FAILED')
  t.regex(error!.message, /c failed at "fail": as told/)
  const cause = error!.cause as Error
  t.true(cause instanceof RangeError)
  t.regex(cause.stack ?? '', /cast\./)
  t.true(cause.cause instanceof TypeError)
  await ref.ready()
  t.is((await ref.ask({ type: 'where' })).restarts, 1)
})

test('shared memory in a message is the same memory', async (t) => {
  const system = await start(t, 1)
  const ref = await system.spawn(echo)
  const memory = new SharedArrayBuffer(64)
  await ref.ask({ type: 'write', view: new Int32Array(memory, 16, 2) })
  t.is(new Int32Array(memory)[4], 42)
  t.deepEqual(await ref.ask({ type: 'echo', value: { list: [1n, undefined, new Map([[1, new Date(5)]])] } }), {
    list: [1n, undefined, new Map([[1, new Date(5)]])],
  })
})

test('what cannot travel is one error that names the place', async (t) => {
  const system = await start(t, 1)
  const ref = await system.spawn(echo)
  const expectation = {
    instanceOf: ActorError,
    code: 'NOT_SERIALISABLE',
    message: /message\.value\.list\.0.*a function/,
  }
  await t.throwsAsync(ref.ask({ type: 'echo', value: { list: [() => 1] } }), expectation)
  t.throws(() => ref.tell({ type: 'echo', value: { list: [() => 1] } }), expectation)
  await t.throwsAsync(ref.ask({ type: 'badReply' }), { code: 'NOT_SERIALISABLE' })
  const [view] = (await system.inspect()).actors
  t.is(view?.mailbox.depth, 0)
  t.is(await ref.ask({ type: 'echo', value: 1 }), 1)
})

for (const [type, kind, message] of [
  ['throwLater', 'exit', /thrown outside any handler/],
  ['exit', 'exit', /exited with code: 7/],
  ['exhaust', 'out-of-memory', /out of memory/],
] as const) {
  test(`all actors of a worker die with its cause and are restarted: ${type}`, async (t) => {
    const system = await start(t, 2, { maxOldGenerationSizeMb: 48 })
    const guilty = await system.spawn(mortal, undefined, { name: 'guilty', worker: 0 })
    const innocent = await system.spawn(mortal, undefined, { name: 'innocent', worker: 0 })
    const other = await system.spawn(mortal, undefined, { name: 'other', worker: 1 })
    const watch = await system.spawn(watcher, undefined, { worker: 1 })
    for (const ref of [guilty, innocent, other]) await watch.ask({ type: 'watch', ref })
    const saw = ['guilty', 'innocent'].map((path) => published(system, { saw: path, cause: kind, restarting: true }))
    const waiting = t.throwsAsync(innocent.ask({ type: 'wait' }), { code: 'DEAD_ACTOR', message })
    guilty.tell({ type })
    await Promise.all([...saw, waiting])
    await Promise.all([guilty.ready(), innocent.ready()])
    t.is(await guilty.ask({ type: 'ping' }), 'pong')
    t.is(await innocent.ask({ type: 'ping' }), 'pong')
    const view = await system.inspect()
    t.deepEqual(
      view.actors.map((actor) => actor.restarts),
      [1, 1, 0, 0],
    )
    t.is(view.actors[0]?.lastCause?.kind, kind)
    t.deepEqual(await watch.ask({ type: 'ends' }).then((ends) => ends.map((end) => end.path).sort()), [
      'guilty',
      'innocent',
    ])
  })
}

test('messages lost with a worker are counted as dead letters', async (t) => {
  const system = await start(t, 1)
  const ref = await system.spawn(mortal, undefined, { name: 'm', maxRestarts: 0 })
  const letters = event(system, 'dead-letter')
  ref.tell({ type: 'wait' })
  await sleep(50)
  for (let i = 0; i < 3; i++) ref.tell({ type: 'ping' })
  const other = await system.spawn(mortal, undefined, { name: 'o', maxRestarts: 0 })
  other.tell({ type: 'exit' })
  t.like(await letters, { actor: 'm', count: 3, cause: { kind: 'exit' } })
  t.is((await ref.terminated()).kind, 'exit')
  await t.throwsAsync(ref.ask({ type: 'ping' }), { code: 'DEAD_ACTOR' })
  await t.throwsAsync(ref.ready(), { code: 'DEAD_ACTOR', message: /exited with code: 7/ })
})

test('children of a lost parent on other workers end with it', async (t) => {
  const system = await start(t, 2)
  const top = await system.spawn(parent, { names: ['a', 'b'], worker: 1 }, { name: 'top', worker: 0 })
  const bomb = await system.spawn(mortal, undefined, { name: 'bomb', worker: 0, maxRestarts: 0 })
  const downs = firstValueFrom(
    system.events$.pipe(
      keep((each) => each.type === 'published' && 'down' in (each.event as object)),
      take(2),
      toArray(),
    ),
  )
  const ups = ['top/a', 'top/b'].map((path) => published(system, { up: path, restarts: 0 }))
  bomb.tell({ type: 'exit' })
  t.deepEqual(
    (await downs).map((each) => each.type === 'published' && each.event),
    [
      { down: 'top/b', cause: 'parent' },
      { down: 'top/a', cause: 'parent' },
    ],
  )
  await Promise.all(ups)
  await top.ready()
  t.is((await top.ask({ type: 'children' })).length, 2)
})

test('a stuck handler: stop fires its signal, force abandons it, and a spinning one costs its worker', async (t) => {
  const system = await start(t, 1)
  const heeding = await system.spawn(holder, { heeds: true }, { name: 'heeding' })
  const held = heeding.ask({ type: 'hold' })
  const hook = published(system, 'hook')
  await heeding.stop()
  t.is(await held, 'let go')
  await hook
  const deaf = await system.spawn(holder, { heeds: false }, { name: 'deaf' })
  const lost = t.throwsAsync(deaf.ask({ type: 'hold' }), { code: 'DEAD_ACTOR', message: /killed/ })
  await deaf.stop({ force: true })
  await lost
  const spinning = await system.spawn(holder, { heeds: false }, { name: 'spinning' })
  const exit = event(system, 'worker-exit')
  const never = t.throwsAsync(spinning.ask({ type: 'spin' }), { code: 'DEAD_ACTOR' })
  await spinning.stop({ force: true })
  t.is((await exit).cause.kind, 'stalled')
  await never
  const after = await system.spawn(holder, { heeds: false })
  t.is(await after.ask({ type: 'ping' }), 'pong')
})

test('a definition that is not exported spawns on the main thread only', async (t) => {
  const system = await start(t, 1)
  const local = enclosed(10)
  const namesake = enclosed(10, 'counter')
  t.is(await (await system.spawn(local, undefined, { worker: 'main' })).ask({ type: 'get' }), 10)
  await t.throwsAsync(system.spawn(local, undefined, { worker: 0 }), {
    code: 'NOT_IMPORTABLE',
    message: /an export of that name.*worker: 'main'/,
  })
  await t.throwsAsync(system.spawn(namesake, undefined, { worker: 0 }), {
    code: 'NOT_IMPORTABLE',
    message: /got another definition/,
  })
})

test('several systems live in one process, and stop leaves no thread, port or listener', async (t) => {
  t.is(await threadsLeft(), 0)
  const exits = process.listenerCount('exit')
  const systems = await Promise.all([ActorSystem.start({ workers: 2 }), ActorSystem.start({ workers: 1 })])
  for (const system of systems) {
    const ref = await system.spawn(parent, { names: ['a', 'b'] })
    await ref.ask({ type: 'children' })
    let completed = false
    system.events$.subscribe({ complete: () => (completed = true) })
    await system.stop()
    await system.stop()
    t.true(completed)
    await t.throwsAsync(ref.ask({ type: 'children' }), { code: 'SYSTEM_STOPPED' })
    await t.throwsAsync(system.spawn(counter, { start: 0 }), { code: 'SYSTEM_STOPPED' })
  }
  t.is(await threadsLeft(), 0)
  t.is(process.listenerCount('exit'), exits)
})

test('system.stop ends stuck and spinning workers too', async (t) => {
  t.is(await threadsLeft(), 0)
  const system = await ActorSystem.start({ workers: 2 })
  const stuck = await system.spawn(holder, { heeds: false }, { graceMs: 20, worker: 0 })
  const spinning = await system.spawn(holder, { heeds: false }, { graceMs: 20, worker: 1 })
  const causes: Promise<Cause>[] = [stuck.terminated(), spinning.terminated()]
  stuck.tell({ type: 'hold' })
  spinning.tell({ type: 'spin' })
  await system.stop()
  t.deepEqual(
    (await Promise.all(causes)).map((cause) => cause.kind),
    ['stopped', 'stopped'],
  )
  t.is(await threadsLeft(), 0)
})

test('two workers lost at once come back connected', async (t) => {
  const system = await start(t, 2)
  const bombs = await Promise.all([0, 1].map((worker) => system.spawn(mortal, undefined, { worker, maxRestarts: 0 })))
  const a = await system.spawn(caller, undefined, { name: 'a', worker: 0 })
  const b = await system.spawn(caller, undefined, { name: 'b', worker: 1 })
  const back = firstValueFrom(
    system.events$.pipe(
      keep((each) => each.type === 'restarted'),
      take(2),
      toArray(),
    ),
  )
  for (const bomb of bombs) bomb.tell({ type: 'exit' })
  await back
  t.is(await a.ask({ type: 'call', path: [b] }), 'a > b')
  t.is(await b.ask({ type: 'call', path: [a] }), 'b > a')
})

test('a system starts on a thread of the program, not on a worker of a system', async (t) => {
  const system = await start(t, 1)
  await system.spawn(nested, undefined, { worker: 'main' })
  const error = await t.throwsAsync(system.spawn(nested, undefined, { worker: 0 }), { code: 'SPAWN_FAILED' })
  t.regex((error?.cause as Error | undefined)?.message ?? '', /expected one outside any system, got a worker of test-/)
  await t.throwsAsync(ActorSystem.start({ workers: -1 }), {
    code: 'BAD_OPTION',
    message: /workers, expected a whole number/,
  })
})
