// The guarantees of runtime/actor/README.md, one test per sentence and named after it, on the deterministic loopback.
// What only real threads can show is in test/transports/local.test.ts.
import test, { type ExecutionContext } from 'ava'
import { type ActorError, type ActorRef, defineActor, type SystemEvent } from '../../../transports/index.js'
import { LoopbackSystem } from '../../../transports/loopback/system.js'
import {
  caller,
  clumsy,
  counter,
  echo,
  holder,
  mortal,
  parent,
  recorder,
  sender,
  watcher,
} from '../../transports/cast.js'
import { feeder } from '../../transports/services.js'

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

/** An actor on the main thread whose `work` runs `steps` in turn and whose lives are written to `log`. */
const worker = (log: string[], steps: (() => unknown)[] = []) =>
  defineActor(import.meta.url, 'worker', {
    init(context) {
      log.push(`up ${context.path}`)
    },
    receive: {
      work: () => steps.shift()?.(),
      fail(_state, message: { text: string }): void {
        throw new Error(message.text)
      },
    },
    stop(_state, context, cause) {
      log.push(`down ${context.path} ${cause.kind}`)
    },
  })

const gate = () => {
  let open!: () => void
  const wait = new Promise<void>((resolve) => {
    open = resolve
  })
  return { open, wait }
}

test('Messages from one sender to one actor are handled in the order in which they were sent', async (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const { system } = await start(t, 3, seed)
    const to = await system.spawn(recorder, undefined, { worker: 2, mailbox: { capacity: 3 } })
    const senders = await Promise.all([0, 1].map((by) => system.spawn(sender, { to, by }, { worker: by })))
    await Promise.all(senders.map((each) => each.ask({ type: 'burst', count: 20 })))
    const seen = await to.ask({ type: 'all' })
    for (const by of [0, 1]) {
      const own = seen.filter((note) => note.by === by).map((note) => note.n)
      t.deepEqual(own, [...own.keys()])
      t.is(own.length, 20)
    }
  }
})

test('An ask that waits for room keeps its place before later sends', async (t) => {
  const { system } = await start(t)
  const { open, wait } = gate()
  const order: string[] = []
  let overtakes = true
  const slow = defineActor(import.meta.url, 'slow', {
    init: () => 0,
    receive: {
      async note(_state, message: { name: string }, context) {
        // There is room just now, but the asks come first.
        if (message.name === 'waiting') overtakes = context.self.tell({ type: 'note', name: 'late' } as never)
        await wait
        order.push(message.name)
      },
    },
  })
  const ref = await system.spawn(slow, undefined, { mailbox: { capacity: 1 } })
  ref.tell({ type: 'note', name: 'running' })
  await system.settle()
  ref.tell({ type: 'note', name: 'waiting' })
  const asked = ref.ask({ type: 'note', name: 'asked' })
  t.false(ref.tell({ type: 'note', name: 'refused' }))
  const second = ref.ask({ type: 'note', name: 'second' })
  open()
  await Promise.all([asked, second])
  t.deepEqual(order, ['running', 'waiting', 'asked', 'second'])
  t.false(overtakes)
})

test('Handlers of one actor run one at a time, asynchronous handlers included', async (t) => {
  const { system } = await start(t)
  let running = 0
  let most = 0
  const step = async () => {
    most = Math.max(most, ++running)
    await new Promise(setImmediate)
    running--
  }
  const ref = await system.spawn(worker([], [step, step, step]))
  await Promise.all([1, 2, 3].map(() => ref.ask({ type: 'work' })))
  t.is(most, 1)
})

test('Orders to stop and notices of ended lives come before waiting messages', async (t) => {
  const { system, published } = await start(t, 1)
  const ref = await system.spawn(holder, { heeds: true })
  const held = ref.ask({ type: 'hold' })
  await system.settle()
  const waiting = t.throwsAsync(ref.ask({ type: 'ping' }), { code: 'DEAD_ACTOR' })
  await ref.stop()
  t.is(await held, 'let go')
  await waiting
  t.deepEqual(published(), ['let go', 'hook'])

  const { open, wait } = gate()
  const seen: string[] = []
  const observer = defineActor(import.meta.url, 'observer', {
    init: () => 0,
    receive: {
      hold: () => wait,
      note: () => seen.push('message'),
      watch: (_state, message: { ref: ActorRef }, context) => context.watch(message.ref),
    },
    onTerminated: () => seen.push('notice'),
  })
  const mine = await system.spawn(observer, undefined, { worker: 'main' })
  const other = await system.spawn(mortal)
  await mine.ask({ type: 'watch', ref: other })
  mine.tell({ type: 'hold' })
  mine.tell({ type: 'note' })
  await other.stop()
  open()
  await system.settle()
  t.deepEqual(seen, ['notice', 'message'])
})

test('An accepted message is lost only if the life of its receiver ends first, and is then a dead letter with the cause', async (t) => {
  const { system, of } = await start(t)
  const { open, wait } = gate()
  const ref = await system.spawn(worker([], [() => wait]), undefined, { name: 'w' })
  ref.tell({ type: 'work' })
  await system.settle()
  t.true(ref.tell({ type: 'fail', text: 'never read' }))
  const stopping = ref.stop()
  await system.settle()
  t.like(of('dead-letter')[0], {
    actor: 'w',
    sender: null,
    message: { type: 'fail', text: 'never read' },
    count: 1,
    cause: { kind: 'stopped' },
  })
  open()
  await stopping
  t.true(ref.tell({ type: 'work' }))
  t.is(of('dead-letter').length, 2)
  t.is(of('dead-letter')[1]?.cause?.kind, 'stopped')
})

test('Of many dead letters at once some come with their message, and the rest as a count', async (t) => {
  const { system, of } = await start(t, 1)
  const mailbox = { capacity: 10, overflow: 'drop-oldest' } as const
  const ref = await system.spawn(counter, { start: 0 }, { name: 'c', worker: 'main', mailbox })
  for (let n = 0; n < 1000; n++) t.true(ref.tell({ type: 'add', amount: n }))
  await system.settle()
  const letters = of('dead-letter')
  const told = letters.filter(({ message }) => message !== undefined)
  t.deepEqual(
    told.map(({ message }) => message),
    Array.from({ length: 64 }, (_, amount) => ({ type: 'add', amount })),
  )
  const [rest, ...none] = letters.filter(({ message }) => message === undefined)
  t.like(rest, { actor: 'c', sender: null, count: 990 - 64, cause: { kind: 'exception' } })
  t.deepEqual(none, [])
  t.is((await system.inspect()).deadLetters, 990)
  t.is(await ref.ask({ type: 'get' }), 9945)
  const waiting = await system.spawn(counter, { start: 0 }, { name: 'waiting', worker: 'main' })
  for (let n = 0; n < 500; n++) t.true(waiting.tell({ type: 'add', amount: n }))
  await system.stop()
  t.is(
    of('dead-letter').reduce((sum, { actor, count }) => sum + (actor === 'waiting' ? count : 0), 0),
    500,
  )
})

test('A message lost with a worker is counted in a dead letter', async (t) => {
  const { system, of } = await start(t, 1)
  const ref = await system.spawn(counter, { start: 0 }, { name: 'c', worker: 0, maxRestarts: 0 })
  for (let i = 0; i < 5; i++) ref.tell({ type: 'add', amount: 1 })
  await system.kill(0)
  t.like(of('dead-letter')[0], { actor: 'c', count: 5, cause: { kind: 'exit' } })
})

test('An ask of an actor that is not alive rejects with DEAD_ACTOR and the cause', async (t) => {
  const { system } = await start(t, 1)
  for (const place of ['main', 0] as const) {
    const ref = await system.spawn(counter, { start: 0 }, { worker: place })
    await ref.stop()
    await t.throwsAsync(ref.ask({ type: 'get' }), { code: 'DEAD_ACTOR', message: /is not alive \(stopped/ })
    await t.throwsAsync(ref.ready(), { code: 'DEAD_ACTOR' })
  }
})

test('A ref stays valid across restarts and in messages', async (t) => {
  const { system } = await start(t, 2)
  const ref = await system.spawn(counter, { start: 3 }, { worker: 0 })
  const relay = await system.spawn(sender, { to: null as never, by: 0 }, { worker: 1 })
  await system.kill(0)
  await system.advance(10)
  t.is(await relay.ask({ type: 'relay', to: ref }), 3)
  const echoes = await system.spawn(echo, undefined, { worker: 1 })
  const back = (await echoes.ask({ type: 'echo', value: ref })) as typeof ref
  t.is(back.id, ref.id)
  t.is(await back.ask({ type: 'get' }), 3)
})

test('Within a thread a message is passed as it is; to another it is copied', async (t) => {
  const { system } = await start(t, 1)
  const value = { deep: [1, 2] }
  const near = await system.spawn(echo, undefined, { worker: 'main' })
  t.is(await near.ask({ type: 'echo', value }), value)
  const far = await system.spawn(echo, undefined, { worker: 0 })
  const copy = await far.ask({ type: 'echo', value })
  t.deepEqual(copy, value)
  t.not(copy, value)
})

test('A mailbox holds at most its capacity: tell returns false, and ready resolves when there is room', async (t) => {
  for (const place of ['main', 0] as const) {
    const { system } = await start(t, 1)
    const ref = await system.spawn(counter, { start: 0 }, { worker: place, mailbox: { capacity: 3 } })
    const accepted = Array.from({ length: 5 }, () => ref.tell({ type: 'add', amount: 1 }))
    t.deepEqual(accepted, [true, true, true, false, false])
    t.deepEqual((await system.inspect()).actors[0]?.mailbox, { depth: 3, capacity: 3 })
    await ref.ready()
    t.true(ref.tell({ type: 'add', amount: 1 }))
    t.is(await ref.ask({ type: 'get' }), 4)
  }
})

test('Replies and notices need no room in a mailbox', async (t) => {
  const { system, published } = await start(t, 1)
  const { open, wait } = gate()
  const target = await system.spawn(counter, { start: 7 }, { worker: 0 })
  const asking = defineActor(import.meta.url, 'asking', {
    init: () => 0,
    receive: {
      async work(): Promise<number> {
        await wait
        return target.ask({ type: 'get' })
      },
      fill() {},
    },
  })
  const ref = await system.spawn(asking, undefined, { worker: 'main', mailbox: { capacity: 1 } })
  const reply = ref.ask({ type: 'work' })
  await system.settle()
  t.true(ref.tell({ type: 'fill' }))
  t.false(ref.tell({ type: 'fill' }))
  open()
  t.is(await reply, 7)

  const watch = await system.spawn(watcher, undefined, { worker: 0, mailbox: { capacity: 1 } })
  await watch.ask({ type: 'watch', ref: target })
  watch.tell({ type: 'ends' })
  await target.stop()
  await system.settle()
  t.deepEqual(published(), [{ saw: 'counter-0', cause: 'stopped', restarting: false }])
})

test('An ask without a reply within its deadline rejects with ASK_TIMEOUT, naming both actors', async (t) => {
  const { system } = await start(t, 1)
  const ref = await system.spawn(holder, { heeds: false }, { name: 'held' })
  const late = t.throwsAsync(ref.ask({ type: 'hold' }, { deadline: 100 }), {
    code: 'ASK_TIMEOUT',
    message: 'ask: "hold" from outside to held, expected a reply within 100 ms, got none',
  })
  await system.advance(99)
  t.is(system.clock.waiting, 1)
  await system.advance(1)
  await late
  t.is(system.clock.waiting, 0)
  const standard = t.throwsAsync(ref.ask({ type: 'ping' }), { code: 'ASK_TIMEOUT', message: /within 30000 ms/ })
  await system.advance(30_000)
  await standard
  await ref.stop({ force: true })
})

test('An ask that finds no room within its deadline rejects with MAILBOX_FULL, naming both actors', async (t) => {
  const { system } = await start(t, 1)
  const ref = await system.spawn(holder, { heeds: false }, { name: 'held', mailbox: { capacity: 1 } })
  ref.tell({ type: 'hold' })
  await system.settle()
  ref.tell({ type: 'ping' })
  const late = t.throwsAsync(ref.ask({ type: 'ping' }, { deadline: 50 }), {
    code: 'MAILBOX_FULL',
    message: 'ask: "ping" from outside to held, expected room in the mailbox of held within 50 ms, got none',
  })
  await system.advance(50)
  await late
  await ref.stop({ force: true })
})

test('An aborted ask rejects with ABORTED, leaves the mailbox if it waits there, and fires askSignal if it runs', async (t) => {
  const { system, published } = await start(t, 1)
  const ref = await system.spawn(holder, { heeds: false })
  const running = new AbortController()
  const waiting = new AbortController()
  const first = t.throwsAsync(ref.ask({ type: 'untilCancelled' }, { signal: running.signal }), { code: 'ABORTED' })
  const second = t.throwsAsync(ref.ask({ type: 'hold' }, { signal: waiting.signal }), { code: 'ABORTED' })
  await system.settle()
  waiting.abort()
  await second
  await system.settle()
  t.is((await system.inspect()).actors[0]?.mailbox.depth, 0)
  running.abort()
  await first
  await system.settle()
  t.deepEqual(published(), ['cancelled'])
  t.is(await ref.ask({ type: 'ping' }), 'pong')
  await t.throwsAsync(ref.ask({ type: 'ping' }, { signal: AbortSignal.abort() }), { code: 'ABORTED' })
})

test('An ask of oneself fails at once with ASK_CYCLE, naming the actor twice', async (t) => {
  const { system } = await start(t)
  const selfish = defineActor(import.meta.url, 'selfish', {
    init: () => 0,
    receive: {
      get: (_state, _message, context): Promise<unknown> =>
        (context.self as unknown as ActorRef<{ get(): number }>)
          .ask({ type: 'get' })
          .catch((error: ActorError) => [error.code, error.message]),
    },
  })
  const ref = await system.spawn(selfish, undefined, { name: 's' })
  t.deepEqual(await ref.ask({ type: 'get' }), ['ASK_CYCLE', 'ask: cycle, each waits for the next: s -> s'])
})

test('A message that cannot travel is refused with NOT_SERIALISABLE and the place in it, and takes no room', async (t) => {
  const { system } = await start(t, 1)
  const ref = await system.spawn(echo, undefined, { worker: 0, mailbox: { capacity: 1 } })
  const wrong = { code: 'NOT_SERIALISABLE', message: /message\.value\.list\.1, expected plain data.*got a function/ }
  const message = { type: 'echo', value: { list: [1, () => 1] } } as const
  t.throws(() => ref.tell(message), wrong)
  await t.throwsAsync(ref.ask(message), wrong)
  await t.throwsAsync(ref.ask({ type: 'badReply' }), { code: 'NOT_SERIALISABLE' })
  t.is(await ref.ask({ type: 'echo', value: 1 }), 1)
})

test('An ask whose chain already holds its receiver fails at once with ASK_CYCLE and prints the chain', async (t) => {
  const { system } = await start(t, 2)
  const [a, b, c] = await Promise.all(
    ['a', 'b', 'c'].map((name) => system.spawn(caller, undefined, { name, maxRestarts: 0 })),
  )
  t.is(await a!.ask({ type: 'call', path: [b!, c!] }), 'a > b > c')
  const root = async (asking: Promise<unknown>) => {
    let error = (await t.throwsAsync(asking)) as ActorError
    while (error.cause) error = error.cause as ActorError
    return [error.code, error.message]
  }
  const self = await system.spawn(caller, undefined, { name: 's' })
  t.deepEqual(await root(self.ask({ type: 'call', path: [self] })), [
    'ASK_CYCLE',
    'ask: cycle, each waits for the next: s -> s',
  ])
  t.deepEqual(await root(a!.ask({ type: 'call', path: [b!, c!, a!] })), [
    'ASK_CYCLE',
    'ask: cycle, each waits for the next: a -> b -> c -> a',
  ])
  await system.advance(1000)
  t.is(system.clock.waiting, 0)
})

test('A handler that throws ends the life: its asker gets the error, waiting messages are dead letters, a new life follows', async (t) => {
  const { system, events, of } = await start(t)
  const log: string[] = []
  const ref = await system.spawn(worker(log), undefined, { name: 'w' })
  const failed = t.throwsAsync(ref.ask({ type: 'fail', text: 'on purpose' }), {
    code: 'HANDLER_FAILED',
    message: 'ask: w failed at "fail": on purpose',
  })
  ref.tell({ type: 'work' })
  const lost = t.throwsAsync(ref.ask({ type: 'work' }), { code: 'DEAD_ACTOR', message: /exception: on purpose/ })
  await failed
  await lost
  t.is(of('dead-letter').length, 1)
  await system.advance(10)
  t.deepEqual(log, ['up w', 'down w exception', 'up w'])
  t.deepEqual(
    events.map((event) => event.type),
    ['spawned', 'dead-letter', 'failed', 'restarted'],
  )
  t.is(of('failed')[0]?.outcome, 'restart')
  await ref.ask({ type: 'work' })
})

test('A message of unknown type is refused and ends nothing', async (t) => {
  const { system, of } = await start(t, 1)
  const ref = await system.spawn(counter, { start: 1 }, { name: 'c' })
  const loose = ref as unknown as ActorRef<{ toString(): void }>
  await t.throwsAsync(loose.ask({ type: 'toString' }), {
    code: 'UNKNOWN_MESSAGE',
    message: 'receive: type of a message to c, expected one of add, get, fail, where, got toString',
  })
  for (let n = 0; n < 3; n++) {
    loose.tell({ type: 'toString' })
    await system.settle()
  }
  t.is(of('dead-letter').length, 3)
  t.is(await ref.ask({ type: 'get' }), 1)
  t.is((await system.inspect()).actors[0]?.mailbox.depth, 0)
})

test('A life ends children first, last spawned first', async (t) => {
  const { system, published } = await start(t, 2)
  const top = await system.spawn(parent, { names: ['a', 'b', 'c'] }, { name: 'top' })
  await top.stop()
  const downs = published().filter((event) => 'down' in (event as object))
  t.deepEqual(downs, [
    { down: 'top/c', cause: 'parent' },
    { down: 'top/b', cause: 'parent' },
    { down: 'top/a', cause: 'parent' },
    { down: 'top', cause: 'stopped' },
  ])
  t.deepEqual((await system.inspect()).actors, [])
})

test('A failure while the parent ends restarts nothing', async (t) => {
  const { system, of } = await start(t)
  const log: string[] = []
  const top = await system.spawn(worker(log), undefined, { name: 'top' })
  const a = await system.spawn(worker(log), undefined, { name: 'a', parent: top })
  const last = defineActor(import.meta.url, 'last', {
    init: () => 0,
    receive: {},
    async stop() {
      await t.throwsAsync(a.ask({ type: 'fail', text: 'lost its peer' }))
      await system.settle()
    },
  })
  await system.spawn(last, undefined, { name: 'b', parent: top })
  await top.stop()
  await system.advance(1000)
  t.deepEqual(log, ['up top', 'up top/a', 'down top/a exception', 'down top stopped'])
  t.deepEqual(
    of('failed').map(({ actor, outcome }) => [actor, outcome]),
    [['top/a', 'stop']],
  )
})

test('One-for-one: only the failing actor restarts', async (t) => {
  const { system } = await start(t)
  const log: string[] = []
  const a = await system.spawn(worker(log), undefined, { name: 'a' })
  await system.spawn(worker(log), undefined, { name: 'b' })
  a.tell({ type: 'fail', text: 'x' })
  await system.advance(10)
  t.deepEqual(log.slice(2), ['down a exception', 'up a'])
})

test('One-for-group: the members of a group end together and restart in the order of spawning, others live on', async (t) => {
  const { system, of } = await start(t)
  const log: string[] = []
  const member = (name: string, group: string) =>
    system.spawn(worker(log), undefined, { name, group, strategy: 'one-for-group', maxRestarts: 1 })
  await member('a', 'ranks')
  const b = await member('b', 'ranks')
  await member('z', 'others')
  await member('c', 'ranks')
  log.length = 0
  b.tell({ type: 'fail', text: 'x' })
  await system.advance(10)
  t.deepEqual(log.slice(0, 3).sort(), ['down a sibling', 'down b exception', 'down c sibling'])
  t.deepEqual(log.slice(3), ['up a', 'up b', 'up c'])
  t.is(of('failed').length, 1)
  // The budget is the group's: a second failure, of another member, is one too many.
  const c = (await system.inspect()).actors.map((actor) => actor.path)
  t.deepEqual(c, ['a', 'b', 'z', 'c'])
  b.tell({ type: 'fail', text: 'y' })
  await system.advance(10)
  t.deepEqual(
    (await system.inspect()).actors.map((actor) => actor.path),
    ['z'],
  )
})

test('One-for-group: two members that fail at once are one failure', async (t) => {
  const { system, of } = await start(t, 2)
  for (const worker of [0, 1]) {
    await system.spawn(mortal, undefined, {
      name: `r${worker}`,
      worker,
      group: 'g',
      strategy: 'one-for-group',
      maxRestarts: 1,
    })
  }
  await Promise.all([system.kill(0), system.kill(1)])
  await system.advance(10)
  const view = await system.inspect()
  t.deepEqual(
    view.actors.map(({ path, status, restarts }) => ({ path, status, restarts })),
    [0, 1].map((worker) => ({ path: `r${worker}`, status: 'running', restarts: 1 })),
  )
  t.is(of('failed').filter((event) => event.outcome === 'restart').length, 2)
})

test('One-for-all: all siblings end and restart', async (t) => {
  const { system } = await start(t)
  const log: string[] = []
  await system.spawn(worker(log), undefined, { name: 'a' })
  const b = await system.spawn(worker(log), undefined, { name: 'b', strategy: 'one-for-all' })
  log.length = 0
  b.tell({ type: 'fail', text: 'x' })
  await system.advance(10)
  t.deepEqual(log.slice(0, 2).sort(), ['down a sibling', 'down b exception'])
  t.deepEqual(log.slice(2), ['up a', 'up b'])
})

test('Rest-for-one: the failing actor and those spawned after it end and restart', async (t) => {
  const { system } = await start(t)
  const log: string[] = []
  const [a, b, c] = await Promise.all(
    ['a', 'b', 'c', 'd'].map((name) =>
      system.spawn(worker(log), undefined, { name, strategy: 'rest-for-one', maxRestarts: 2 }),
    ),
  )
  log.length = 0
  b!.tell({ type: 'fail', text: 'x' })
  await system.advance(10)
  t.deepEqual(log.slice(0, 3).sort(), ['down b exception', 'down c sibling', 'down d sibling'])
  t.deepEqual(log.slice(3), ['up b', 'up c', 'up d'])
  // One before them that fails while they are down widens the set; that is one failure still.
  log.length = 0
  c!.tell({ type: 'fail', text: 'y' })
  await system.settle()
  a!.tell({ type: 'fail', text: 'z' })
  await system.advance(20)
  t.deepEqual(log.slice(0, 4).sort(), ['down a exception', 'down b sibling', 'down c exception', 'down d sibling'])
  t.deepEqual(log.slice(4), ['up a', 'up b', 'up c', 'up d'])
  // The budget is that of all.
  a!.tell({ type: 'fail', text: 'last' })
  await system.advance(100)
  t.deepEqual((await system.inspect()).actors, [])
})

test('Siblings of different strategies that fail at once each restart once', async (t) => {
  const { system } = await start(t)
  const log: string[] = []
  const one = await system.spawn(worker(log), undefined, { name: 'one', backoff: { initial: 20 } })
  const all = await system.spawn(worker(log), undefined, { name: 'all', strategy: 'one-for-all' })
  log.length = 0
  one.tell({ type: 'fail', text: 'x' })
  all.tell({ type: 'fail', text: 'y' })
  await system.advance(1000)
  t.deepEqual(log.slice(0, 2).sort(), ['down all exception', 'down one exception'])
  t.deepEqual(log.slice(2), ['up one', 'up all'])
  t.is((await system.inspect()).actors.length, 2)
})

test('Jitter shortens a wait by a part that the seed of the system draws', async (t) => {
  const delays = async (seed: number) => {
    const { system } = await start(t, 0, seed)
    const times: number[] = []
    const log: string[] = []
    const ref = await system.spawn(worker(log), undefined, { backoff: { initial: 100, factor: 1, jitter: 0.5 } })
    for (let restart = 1; restart <= 3; restart++) {
      ref.tell({ type: 'fail', text: 'x' })
      const from = system.clock.now()
      await system.settle()
      while (log.filter((line) => line.startsWith('up')).length === restart) await system.advance(1)
      times.push(system.clock.now() - from)
    }
    return times
  }
  const first = await delays(1)
  t.deepEqual(await delays(1), first)
  t.notDeepEqual(await delays(2), first)
  for (const time of first) t.true(time >= 50 && time <= 100, String(time))
  t.true(new Set(first).size > 1)
})

test('A worker that does not answer a forced stop for 2 s is ended: its actors have stalled', async (t) => {
  const { system, of } = await start(t, 1)
  const stuck = await system.spawn(counter, { start: 0 }, { name: 'stuck', worker: 0 })
  const beside = await system.spawn(counter, { start: 3 }, { name: 'beside', worker: 0 })
  const watch = await system.spawn(watcher, undefined, { worker: 'main' })
  await watch.ask({ type: 'watch', ref: beside })
  system.freeze(0)
  const stopping = stuck.stop({ force: true })
  await system.advance(1999)
  t.deepEqual(of('worker-exit'), [])
  await system.advance(1)
  await stopping
  t.like(of('worker-exit')[0], { worker: 0, cause: { kind: 'stalled' } })
  await system.advance(100)
  const [end] = await watch.ask({ type: 'ends' })
  t.like(end, { path: 'beside', cause: { kind: 'stalled' }, restarting: true })
  t.is(await beside.ask({ type: 'get' }), 3)
})

test('An abandoned actor is ended with its worker as stalled, and its supervisor decides', async (t) => {
  const { system, of } = await start(t, 1)
  const stuck = await system.spawn(counter, { start: 4 }, { name: 'stuck', worker: 0 })
  const main = await system.spawn(counter, { start: 0 }, { name: 'main', worker: 'main' })
  system.freeze(0)
  const waiting = t.throwsAsync(stuck.ask({ type: 'get' }), { code: 'DEAD_ACTOR', message: /no word for an hour/ })
  const abandoning = stuck.abandon('no word for an hour')
  await system.advance(0)
  await abandoning
  await waiting
  t.like(of('worker-exit')[0], { worker: 0, cause: { kind: 'stalled', message: 'no word for an hour' } })
  await system.advance(100)
  t.is(await stuck.ask({ type: 'get' }), 4)
  await t.throwsAsync(main.abandon('it hangs'), { code: 'BAD_OPTION', message: /main, expected an actor on a worker/ })
})

test('Restarts wait longer each time, up to the bound', async (t) => {
  const { system } = await start(t)
  const log: string[] = []
  const backoff = { initial: 100, factor: 2, max: 300 }
  const ref = await system.spawn(worker(log), undefined, { name: 'w', backoff })
  for (const delay of [100, 200, 300]) {
    log.length = 0
    ref.tell({ type: 'fail', text: 'x' })
    await system.advance(delay - 1)
    t.deepEqual(log, ['down w exception'])
    await system.advance(1)
    t.deepEqual(log, ['down w exception', 'up w'])
  }
})

test('Past its restarts within the window a failure escalates: the parent fails with it', async (t) => {
  const { system, of, published } = await start(t, 1)
  const top = await system.spawn(parent, { names: ['a', 'b'], maxRestarts: 1 }, { name: 'top', maxRestarts: 1 })
  const fail = async () => {
    const [a] = await top.ask({ type: 'children' })
    a!.tell({ type: 'throwNow' })
    await system.advance(10)
  }
  await fail()
  t.deepEqual(of('escalated'), [])
  await fail()
  t.like(of('escalated')[0], { actor: 'top/a', parent: 'top', cause: { message: 'now' } })
  const escalation = of('failed').find((event) => event.actor === 'top')
  t.is(escalation?.cause.kind, 'escalated')
  t.is((escalation?.cause.error as ActorError | undefined)?.code, 'ESCALATED')
  t.is(escalation?.cause.message, 'top/a failed more than 1 times within 60000 ms: now')
  t.deepEqual(published().at(-1), { up: 'top/b', restarts: 0 })
  t.is((await system.inspect()).actors[0]?.restarts, 1)
})

test('At the top, past its restarts, an actor is gone with its cause', async (t) => {
  const { system, of } = await start(t)
  const ref = await system.spawn(worker([]), undefined, { name: 'w', maxRestarts: 0 })
  const gone = ref.terminated()
  ref.tell({ type: 'fail', text: 'the end' })
  t.like(await gone, { kind: 'exception', message: 'the end' })
  t.is(of('failed')[0]?.outcome, 'stop')
  t.is(of('stopped')[0]?.actor, 'w')
  t.is((await ref.terminated()).message, 'the end')
})

test('A watcher is told of each end of a life, its cause and whether a restart follows', async (t) => {
  const { system } = await start(t, 2)
  const watch = await system.spawn(watcher, undefined, { worker: 0 })
  const ref = await system.spawn(mortal, undefined, { name: 'm', worker: 1, maxRestarts: 2 })
  await watch.ask({ type: 'watch', ref })
  ref.tell({ type: 'throwNow' })
  await system.advance(10)
  await system.kill(1)
  await system.advance(100)
  await ref.stop()
  await watch.ask({ type: 'watch', ref })
  await system.settle()
  const ends = await watch.ask({ type: 'ends' })
  t.deepEqual(
    ends.map((end) => [end.path, end.cause.kind, end.restarting]),
    [
      ['m', 'exception', true],
      ['m', 'exit', true],
      ['m', 'stopped', false],
      ['m', 'stopped', false],
    ],
  )
  const other = await system.spawn(mortal)
  await watch.ask({ type: 'watch', ref: other })
  await watch.ask({ type: 'unwatch', ref: other })
  await other.stop()
  t.is((await watch.ask({ type: 'ends' })).length, 4)
})

test('A worker that ends takes the lives of its actors, with its cause, and is replaced', async (t) => {
  const { system, of } = await start(t, 2)
  const top = await system.spawn(parent, { names: ['near', 'far'], worker: 1 }, { name: 'top', worker: 0 })
  const pending = t.throwsAsync(top.ask({ type: 'children' }), {
    code: 'DEAD_ACTOR',
    message: /worker 0 ended: killed/,
  })
  await system.kill(0)
  await pending
  await system.advance(10)
  t.like(of('worker-exit')[0], { worker: 0, cause: { kind: 'exit' } })
  t.is((await top.ask({ type: 'children' })).length, 2)
  const view = await system.inspect()
  t.deepEqual(view.workers[1], { worker: 0, actors: 1, restarts: 1 })
})

test('A reply to a worker that was lost reaches nobody on its successor', async (t) => {
  const { system } = await start(t, 2)
  const [first, second] = await Promise.all(
    ['first', 'second'].map((name) => system.spawn(holder, { heeds: true }, { name, worker: 1 })),
  )
  const asker = await system.spawn(feeder, undefined, { name: 'asker', worker: 0 })
  asker.tell({ type: 'ask', ref: first! })
  await system.settle()
  await system.kill(0)
  await system.advance(20)
  asker.tell({ type: 'ask', ref: second! })
  await system.settle()
  await first!.stop()
  await system.settle()
  const view = (await system.inspect()).actors.find((actor) => actor.path === 'asker')
  t.deepEqual(
    view?.activity?.waitsFor.map(({ actor }) => actor),
    ['second'],
  )
  await second!.stop()
})

test('A stop waits for the running handler up to the grace time, then kills', async (t) => {
  const { system, published } = await start(t, 1)
  const ref = await system.spawn(holder, { heeds: false }, { graceMs: 500 })
  const held = t.throwsAsync(ref.ask({ type: 'hold' }), { code: 'DEAD_ACTOR' })
  await system.settle()
  let stopped = false
  const stopping = ref.stop().then(() => {
    stopped = true
  })
  await system.advance(499)
  t.false(stopped)
  await system.advance(1)
  await Promise.all([stopping, held])
  t.deepEqual(published(), [])
  t.is(system.clock.waiting, 0)
})

test('A forced stop abandons the handler, fires its signal and skips the stop hook', async (t) => {
  const { system } = await start(t)
  const log: string[] = []
  const { open, wait } = gate()
  const stubborn = defineActor(import.meta.url, 'stubborn', {
    init: () => 0,
    receive: {
      async hold(_state, _message, context) {
        context.signal.addEventListener('abort', () => log.push('signal'))
        await wait
        try {
          context.publish('late')
        } catch (error) {
          log.push((error as ActorError).code)
        }
        try {
          context.self.tell({ type: 'hold' } as never)
        } catch (error) {
          log.push((error as Error).message)
        }
        return 'ignored'
      },
    },
    stop: () => log.push('hook'),
  })
  const ref = await system.spawn(stubborn, undefined, { name: 's' })
  const held = t.throwsAsync(ref.ask({ type: 'hold' }), { code: 'DEAD_ACTOR', message: /killed/ })
  await system.settle()
  await ref.stop({ force: true })
  await held
  open()
  await system.settle()
  t.deepEqual(log, ['signal', 'DEAD_ACTOR', 'tell: the sender s is not alive any more'])
})

test('An actor may stop itself or its parent without waiting for itself', async (t) => {
  const { system } = await start(t)
  const suicidal = defineActor(import.meta.url, 'suicidal', {
    init: () => 0,
    receive: {
      async end(_state, message: { whom: ActorRef }): Promise<string> {
        await message.whom.stop()
        return 'ended'
      },
    },
  })
  const top = await system.spawn(suicidal, undefined, { name: 'top' })
  const child = await system.spawn(suicidal, undefined, { name: 'child', parent: top })
  t.is(await child.ask({ type: 'end', whom: top }), 'ended')
  t.is((await top.terminated()).kind, 'stopped')
  t.is((await child.terminated()).kind, 'parent')
})

test('A first init that throws rejects the spawn, and nothing is left', async (t) => {
  const { system, events } = await start(t, 1)
  const error = await t.throwsAsync(system.spawn(clumsy, { init: 'no way' }, { name: 'c' }), {
    code: 'SPAWN_FAILED',
    message: 'spawn: c, expected init to succeed, got exception: no way',
  })
  t.true(error?.cause instanceof RangeError)
  t.deepEqual((await system.inspect()).actors, [])
  t.deepEqual(events, [])
  await system.spawn(clumsy, {}, { name: 'c' })
  await t.throwsAsync(system.spawn(clumsy, {}, { name: 'c' }), { code: 'BAD_OPTION', message: /got c again/ })
})

test('A spawn whose arguments cannot travel rejects, and nothing is left', async (t) => {
  const { system } = await start(t, 1)
  await t.throwsAsync(system.spawn(counter, { start: (() => 1) as never }, { worker: 0 }), { code: 'NOT_SERIALISABLE' })
  t.deepEqual((await system.inspect()).actors, [])
})

test('An init that throws at a restart counts as a failure', async (t) => {
  const { system, of } = await start(t)
  let lives = 0
  const fragile = defineActor(import.meta.url, 'fragile', {
    init() {
      if (lives++ > 0 && lives < 4) throw new Error(`life ${lives}`)
    },
    receive: {
      fail(): void {
        throw new Error('first')
      },
      ping: () => 'pong',
    },
  })
  const ref = await system.spawn(fragile, undefined, { maxRestarts: 3 })
  ref.tell({ type: 'fail' })
  await system.advance(1000)
  t.deepEqual(
    of('failed').map((event) => event.cause.message),
    ['first', 'life 2', 'life 3'],
  )
  t.is(await ref.ask({ type: 'ping' }), 'pong')
})

test('A stop hook that throws is an event and changes nothing else', async (t) => {
  const { system, of } = await start(t, 1)
  const ref = await system.spawn(clumsy, { stop: 'dropped it' }, { name: 'c' })
  await ref.stop()
  t.like(of('stop-failed')[0], { actor: 'c', error: { message: 'dropped it' } })
  t.is((await ref.terminated()).kind, 'stopped')
})

test('Every send and spawn after the stop of its system fails with SYSTEM_STOPPED', async (t) => {
  const { system } = await start(t, 1)
  const ref = await system.spawn(counter, { start: 0 })
  await system.stop()
  await t.throwsAsync(ref.ask({ type: 'get' }), { code: 'SYSTEM_STOPPED' })
  t.throws(() => ref.tell({ type: 'get' }), { code: 'SYSTEM_STOPPED' })
  await t.throwsAsync(ref.ready(), { code: 'SYSTEM_STOPPED' })
  await t.throwsAsync(system.spawn(counter, { start: 0 }), { code: 'SYSTEM_STOPPED' })
})

test('watch needs a definition with onTerminated', async (t) => {
  const { system } = await start(t)
  const careless = defineActor(import.meta.url, 'careless', {
    init: () => 0,
    receive: { watch: (_state, message: { ref: ActorRef }, context) => context.watch(message.ref) },
  })
  const ref = await system.spawn(careless, undefined, { maxRestarts: 0 })
  await t.throwsAsync(ref.ask({ type: 'watch', ref }), { message: /expected a definition with onTerminated, got none/ })
})
