// `node dist/test/bench/actors.js [--peers FOLDER] [--json FILE]`: the actor runtime against what people use for the same between
// threads and within one, in one run: a row claims a ratio. Peers come from FOLDER's node_modules where the project has none.
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { MessageChannel, Worker } from 'node:worker_threads'
import { Piscina } from 'piscina'
import { ActorSystem } from '../../transports/index.js'
import { counting, driver, sample } from './actors-cast.js'
import type { Comlink } from './actors-comlink.js'
import { type PeerOrder, timeCalls } from './actors-peer.js'
import { type Row, ratio, tableOf } from './row.js'

const { values } = parseArgs({ options: { peers: { type: 'string' }, json: { type: 'string' } } })
const load = createRequire(values.peers ? `${resolve(values.peers)}/` : import.meta.url)
const peerFile = fileURLToPath(new URL('./actors-peer.js', import.meta.url))
const rounds = 5

function find<T>(name: string): { module: T; name: string } | null {
  try {
    return { module: load(name) as T, name }
  } catch {
    return null
  }
}

const best = (figures: readonly number[], higher: boolean): number =>
  higher ? Math.max(...figures) : Math.min(...figures)

const at = (micros: readonly number[], part: number): number =>
  micros.toSorted((a, b) => a - b)[Math.floor(micros.length * part)] ?? 0

/** The best of several rounds of work that returns a count, per second. */
async function rate(work: () => Promise<number>): Promise<number> {
  const figures: number[] = []
  for (let round = 0; round < rounds; round++) {
    const start = performance.now()
    const count = await work()
    figures.push((count / (performance.now() - start)) * 1000)
  }
  return best(figures, true)
}

const sendOrder = (worker: Worker, order: PeerOrder): Promise<{ micros?: number[] }> =>
  new Promise((done) => {
    worker.once('message', done)
    worker.postMessage(order, [order.port])
  })

/** Two senders and a receiver by postMessage. */
async function postMessageRates() {
  const start = () => new Worker(peerFile, { workerData: { peer: 'postMessage' } })
  const [taker, ...senders] = [start(), start(), start()]
  const link = (): [PeerOrder, MessageChannel] => {
    const channel = new MessageChannel()
    return [{ do: 'take', port: channel.port1 }, channel]
  }
  const run = (what: 'sample' | 'record', count: number) =>
    rate(async () => {
      const orders = senders.map((sender) => {
        const [order, channel] = link()
        taker!.postMessage(order, [channel.port1])
        return sendOrder(sender, { do: 'send', port: channel.port2, what, count })
      })
      await Promise.all(orders)
      return 2 * count
    })
  const samples = await run('sample', 106_496)
  const records = await run('record', 106_496)
  const ask = async (count: number, pauseMs: number): Promise<number[]> => {
    const [order, channel] = link()
    taker!.postMessage(order, [channel.port1])
    return (await sendOrder(senders[0]!, { do: 'ask', port: channel.port2, count, pauseMs })).micros!
  }
  const hot: number[][] = []
  const cold: number[][] = []
  for (let round = 0; round < rounds; round++) {
    hot.push(await ask(5000, 0))
    cold.push(await ask(200, 1))
  }
  for (const worker of [taker!, ...senders]) await worker.terminate()
  return { samples, records, hot, cold }
}

/** A buffer of 16 MiB there and back by transfer, in microseconds. */
async function transferMicros(): Promise<number[]> {
  const { port1, port2 } = new MessageChannel()
  const worker = new Worker(
    `const { workerData: port } = require('node:worker_threads'); port.on('message', (b) => port.postMessage(b, [b]))`,
    { eval: true, workerData: port2, transferList: [port2] },
  )
  let buffer = new ArrayBuffer(1 << 24)
  const micros = await timeCalls(
    () =>
      new Promise<void>((done) => {
        port1.once('message', (back: ArrayBuffer) => {
          buffer = back
          done()
        })
        port1.postMessage(buffer, [buffer])
      }),
    500,
    0,
  )
  port1.close()
  await worker.terminate()
  return micros
}

const latency = (
  name: string,
  quantile: number,
  ours: readonly number[][],
  peers: Record<string, number[][]>,
): Row => ({
  row: 'actors',
  case: `${name} p${quantile * 100}`,
  unit: 'us',
  higherIsBetter: false,
  ours: best(
    ours.map((micros) => at(micros, quantile)),
    false,
  ),
  peers: Object.fromEntries(
    Object.entries(peers).map(([peer, all]) => [
      peer,
      best(
        all.map((micros) => at(micros, quantile)),
        false,
      ),
    ]),
  ),
  notes: [],
})

async function between(): Promise<Row[]> {
  const missing: string[] = []
  const peer = await postMessageRates()
  const hotPeers: Record<string, number[][]> = { postMessage: peer.hot }
  const coldPeers: Record<string, number[][]> = { postMessage: peer.cold }
  const measure = async (name: string, call: () => Promise<unknown>) => {
    hotPeers[name] = []
    coldPeers[name] = []
    for (let round = 0; round < rounds; round++) {
      hotPeers[name].push(await timeCalls(call, 2000, 0))
      coldPeers[name].push(await timeCalls(call, 200, 1))
    }
  }
  const piscina = new Piscina({ filename: peerFile, minThreads: 1, maxThreads: 1 })
  await measure('piscina', () => piscina.run(0))
  await piscina.destroy()

  const comlink = find<Comlink>('comlink')
  let comlinkSamples: number | null = null
  if (comlink) {
    const adapter = load.resolve('comlink/dist/umd/node-adapter.js')
    const worker = new Worker(new URL('./actors-comlink.js', import.meta.url), {
      workerData: { comlink: load.resolve('comlink'), adapter },
    })
    const adapt = load(adapter) as ((endpoint: unknown) => unknown) & { default?: (endpoint: unknown) => unknown }
    const remote = comlink.module.wrap<{ sample(message: object): Promise<void>; echo(): Promise<number> }>(
      (adapt.default ?? adapt)(worker),
    )
    await measure('comlink', () => remote.echo())
    comlinkSamples = await rate(async () => {
      for (let n = 0; n < 200; n++) await Promise.all(Array.from({ length: 64 }, (_, i) => remote.sample(sample(i))))
      return 200 * 64
    })
    await worker.terminate()
  } else missing.push('no comlink')

  const workerpool = find<{
    pool(options: object): { exec(run: () => number): Promise<number>; terminate(): Promise<void> }
  }>('workerpool')
  if (workerpool) {
    const pool = workerpool.module.pool({ minWorkers: 1, maxWorkers: 1, workerType: 'thread' })
    await measure('workerpool', () => pool.exec(() => 0))
    await pool.terminate()
  } else missing.push('no workerpool')

  const system = await ActorSystem.start({ workers: 3 })
  const to = await system.spawn(counting, undefined, { worker: 0, mailbox: { capacity: 65_536 } })
  const drivers = await Promise.all([1, 2].map((worker) => system.spawn(driver, { to }, { worker })))
  const run = (type: 'samples' | 'records', count: number) =>
    rate(async () => {
      await Promise.all(drivers.map((each) => each.ask({ type, count })))
      return 2 * count
    })
  const samples = await run('samples', 2_000_000)
  const records = await run('records', 200_000)
  const hot: number[][] = []
  const cold: number[][] = []
  for (let round = 0; round < rounds; round++) {
    hot.push(await drivers[0]!.ask({ type: 'asks', count: 20_000, pauseMs: 0 }))
    cold.push(await drivers[0]!.ask({ type: 'asks', count: 200, pauseMs: 1 }))
  }
  const tensor = await drivers[0]!.ask({ type: 'tensors', count: 500, bytes: 1 << 24 })
  const before = process.cpuUsage()
  await new Promise((done) => setTimeout(done, 1000))
  const parked = process.cpuUsage(before)
  await system.stop()

  const throughput = (name: string, ours: number, peers: Record<string, number>): Row => ({
    row: 'actors',
    case: name,
    unit: 'messages/s',
    higherIsBetter: true,
    ours,
    peers,
    notes: missing,
  })
  return [
    throughput('one way, 64 bytes of fixed layout, two senders', samples, {
      postMessage: peer.samples,
      ...(comlinkSamples !== null && { comlink: comlinkSamples }),
    }),
    throughput('one way, objects of 7 fields, two senders', records, { postMessage: peer.records }),
    latency('ask, hot,', 0.5, hot, hotPeers),
    latency('ask, hot,', 0.99, hot, hotPeers),
    latency('ask, 1 ms apart,', 0.5, cold, coldPeers),
    latency('ask, 1 ms apart,', 0.99, cold, coldPeers),
    latency('16 MiB there and back', 0.5, [tensor], { 'postMessage, transferred': [await transferMicros()] }),
    {
      row: 'actors',
      case: 'four parked threads',
      unit: '% of a core',
      higherIsBetter: false,
      ours: (parked.user + parked.system) / 1e4,
      peers: {},
      notes: [],
    },
  ]
}

interface Nact {
  start(): object
  spawn(parent: object, handler: (state: number, message: object) => number, name: string, options: object): object
  dispatch(to: object, message: object): void
  stop(system: object): void
}

interface XState {
  fromTransition(step: (state: { sum: number }, event: { a: number }) => { sum: number }, initial: object): object
  createActor(logic: object): { start(): { send(event: object): void }; getSnapshot(): unknown }
}

async function within(): Promise<Row[]> {
  const count = 200_000
  const system = await ActorSystem.start({ workers: 0 })
  const to = await system.spawn(counting, undefined, { mailbox: { capacity: 65_536 } })
  const one = sample(1)
  const tells = await rate(async () => {
    for (let n = 0; n < count; n++) while (!to.tell(one)) await to.ready()
    await to.ask({ type: 'seen' })
    return count
  })
  const lives = await rate(async () => {
    for (let n = 0; n < 200; n++) {
      const refs = await Promise.all(Array.from({ length: 50 }, () => system.spawn(counting)))
      await Promise.all(refs.map((ref) => ref.stop()))
    }
    return 10_000
  })
  await system.stop()
  const peers: Record<string, number> = {}
  const nact = find<Nact>('nact')
  if (nact) {
    const { start, spawn, dispatch, stop } = nact.module
    const root = start()
    let done = (): void => {}
    const actor = spawn(
      root,
      (seen) => {
        if ((seen + 1) % count === 0) done()
        return seen + 1
      },
      'sink',
      { initialState: 0 },
    )
    peers.nact = await rate(async () => {
      const all = new Promise<void>((resolved) => {
        done = resolved
      })
      for (let n = 0; n < count; n++) dispatch(actor, one)
      await all
      return count
    })
    stop(root)
  }
  const xstate = find<XState>('xstate')
  if (xstate) {
    const { fromTransition, createActor } = xstate.module
    const actor = createActor(fromTransition((state, event) => ({ sum: state.sum + event.a }), { sum: 0 })).start()
    peers.xstate = await rate(async () => {
      for (let n = 0; n < count; n++) actor.send(one)
      return count
    })
  }
  const row = { row: 'actors', higherIsBetter: true, notes: [] }
  return [
    { ...row, case: 'tell within a thread', unit: 'messages/s', ours: tells, peers },
    { ...row, case: 'spawn and stop', unit: 'actors/s', ours: lives, peers: {} },
  ]
}

const rows = [...(await between()), ...(await within())]
const lines = rows.map((each) => JSON.stringify({ ...each, ratio: ratio(each) })).join('\n')
if (values.json) writeFileSync(values.json, `${lines}\n`)
else process.stdout.write(`${lines}\n\n`)
process.stdout.write(tableOf(rows))
