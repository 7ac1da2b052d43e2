// What the loopback shows of routers, streams, survival, logs and spans, once more between real threads, where values travel otherwise.
import ava, { type ExecutionContext } from 'ava'
import { ActorSystem, type LogOptions, router, serviceKey, spawnRouter } from '../../transports/index.js'
import { counter, echo } from './cast.js'
import { feeder, keeper, source, ticker } from './services.js'

const test = ava.serial

async function start(t: ExecutionContext, log: LogOptions = {}) {
  const system = await ActorSystem.start({ workers: 2, name: 'test', seed: 1, log })
  t.teardown(() => system.stop())
  return system
}

test('a stream crosses threads with back-pressure and ends when it is left', async (t) => {
  const system = await start(t)
  const ref = await system.spawn(source, undefined, { worker: 0 })
  const values: number[] = []
  for await (const value of ref.stream({ type: 'count', to: 1000 }, { buffer: 4 })) values.push(value)
  t.deepEqual(values, [...Array(1000).keys()])
  for await (const value of ref.stream({ type: 'count', to: 1_000_000 }, { buffer: 4 })) if (value === 10) break
  while (!(await ref.ask({ type: 'left' })));
  t.true((await ref.ask({ type: 'made' })) < 1100)
  const failing = async () => {
    for await (const _value of ref.stream({ type: 'failing' }));
  }
  await t.throwsAsync(failing, { code: 'HANDLER_FAILED', message: /failed: dry/ })
})

test('routers spread over threads and travel between them', async (t) => {
  const system = await start(t)
  const all = await spawnRouter(system, counter, { start: 0 }, { size: 4, routing: { strategy: 'broadcast' } })
  t.deepEqual((await all.ask({ type: 'where' })).map(({ worker }) => worker).sort(), [0, 0, 1, 1])
  const refs = await Promise.all([0, 1].map((worker) => system.spawn(counter, { start: worker }, { worker })))
  const far = await system.spawn(echo, undefined, { worker: 1 })
  const back = (await far.ask({ type: 'echo', value: router(refs, { strategy: 'round-robin' }) })) as (typeof refs)[0]
  t.deepEqual([await back.ask({ type: 'get' }), await back.ask({ type: 'get' })], [0, 1])
  const key = serviceKey<{ get(): number }>('numbers')
  for (const ref of refs) await system.receptionist.register(key, ref)
  t.is((await system.receptionist.find(key)).length, 2)
})

test('what an actor keeps survives the end of its worker', async (t) => {
  const system = await start(t)
  const ref = await system.spawn(keeper, { start: 5 }, { worker: 0 })
  await ref.ask({ type: 'add', amount: 2, keep: true })
  await ref.ask({ type: 'add', amount: 100, keep: false })
  await t.throwsAsync(ref.ask({ type: 'exit' }), { code: 'DEAD_ACTOR' })
  await ref.ready()
  t.is(await ref.ask({ type: 'get' }), 7)
})

test('timers run on workers', async (t) => {
  const system = await start(t)
  const ref = await system.spawn(ticker, undefined, { worker: 1 })
  await ref.ask({ type: 'every', ms: 1 })
  while ((await ref.ask({ type: 'seen' })).length < 5);
  await ref.ask({ type: 'cancel' })
  t.true((await ref.ask({ type: 'seen' })).every((name) => name === 'every'))
})

test('records of workers reach the one destination, from the level on', async (t) => {
  const lines: string[] = []
  const system = await start(t, { level: 'info', write: (line) => lines.push(line) })
  const ref = await system.spawn(feeder, undefined, { name: 'far', worker: 1 })
  await ref.ask({ type: 'log', text: 'from afar' })
  await system.inspect()
  t.like(JSON.parse(lines[0]!), { actor: 'far', worker: 1, msg: 'from afar', level: 30 })
  const quiet = await start(t, { level: 'warn', write: (line) => lines.push(line) })
  const hushed = await quiet.spawn(feeder, undefined, { worker: 1 })
  await hushed.ask({ type: 'log', text: 'not heard' })
  await quiet.inspect()
  t.is(lines.length, 1)
})

test('inspect sees what workers do', async (t) => {
  const system = await start(t)
  const ref = await system.spawn(counter, { start: 0 }, { worker: 1 })
  for (let i = 0; i < 10; i++) ref.tell({ type: 'add', amount: 1 })
  await ref.ask({ type: 'get' })
  const [view] = (await system.inspect()).actors
  t.is(view?.activity?.handlers.count, 11)
  t.true((view?.activity?.handlers.p99 ?? -1) >= 0)
})
