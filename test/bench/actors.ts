// The actor runtime against what people use for the same between threads and within one. In every round each contestant runs in turn,
// and a figure is the median of its rounds.
import { Effect, type Effect as Effects, Queue } from 'effect'
import { dispatch, spawn, start, stop } from 'nact'
import { createActor, fromTransition } from 'xstate'
import { ActorSystem } from '../../transports/index.js'
import { counting, driver, sample } from './actors-cast.js'
import { startPeers } from './actors-peers.js'
import { median, type Row } from './row.js'

const rounds = 9
const tensorBytes = 1 << 24

/** Runs all in turn, again and again; resolves with what each run gave. */
async function contest<T>(contestants: Readonly<Record<string, () => Promise<T>>>): Promise<Record<string, T[]>> {
  const results: Record<string, T[]> = Object.fromEntries(Object.keys(contestants).map((name) => [name, []]))
  // The first round warms up.
  for (let round = 0; round <= rounds; round++) {
    for (const [name, run] of Object.entries(contestants)) {
      const result = await run()
      if (round > 0) results[name]!.push(result)
    }
  }
  return results
}

type Figures = Readonly<Record<string, number>>

const figuresOf = <T>(results: Readonly<Record<string, readonly T[]>>, figure: (result: T) => number): Figures =>
  Object.fromEntries(Object.entries(results).map(([name, all]) => [name, median(all.map(figure))]))

/** A row of ours and everybody else's figures. */
function rowOf(name: string, unit: string, figures: Figures): Row {
  const { ours, ...peers } = figures
  return { row: 'actors', case: name, unit, higherIsBetter: unit.endsWith('/s'), ours: ours!, peers, notes: [] }
}

/** What was counted per second of each run. */
const rate = (work: () => Promise<number>) => async (): Promise<number> => {
  const began = performance.now()
  const count = await work()
  return (count / (performance.now() - began)) * 1000
}

const rates = async (name: string, unit: string, contestants: Readonly<Record<string, () => Promise<number>>>) => {
  const timed = Object.fromEntries(Object.entries(contestants).map(([each, work]) => [each, rate(work)]))
  return rowOf(name, unit, figuresOf(await contest(timed), Number))
}

const quantile =
  (part: number) =>
  (micros: readonly number[]): number =>
    micros.toSorted((a, b) => a - b)[Math.floor(micros.length * part)]!

/** Rows of messages from thread to thread. */
async function* between(): AsyncGenerator<Row> {
  await using system = await ActorSystem.start({ workers: 3 })
  const to = await system.spawn(counting, undefined, { worker: 0, mailbox: { capacity: 65_536 } })
  const drivers = await Promise.all([1, 2].map((worker) => system.spawn(driver, { to }, { worker })))
  const ours = (type: 'samples' | 'records', count: number) => async (): Promise<number> => {
    await Promise.all(drivers.map((each) => each.ask({ type, count })))
    return 2 * count
  }
  const peers = await startPeers()
  try {
    yield await rates('one way, 64 bytes of fixed layout, two senders', 'messages/s', {
      ours: ours('samples', 1_000_000),
      postMessage: () => peers.oneWay('sample'),
      comlink: () => peers.calls(),
    })
    yield await rates('one way, objects of 7 fields, two senders', 'messages/s', {
      ours: ours('records', 300_000),
      postMessage: () => peers.oneWay('record'),
    })
    for (const [name, count, pauseMs] of [
      ['ask, hot', 3000, 0],
      ['ask, 1 ms apart', 200, 1],
    ] as const) {
      const asks = await contest<readonly number[]>({
        ours: () => drivers[0]!.ask({ type: 'asks', count, pauseMs }),
        ...Object.fromEntries(Object.entries(peers.asks).map(([peer, ask]) => [peer, () => ask(count, pauseMs)])),
      })
      yield rowOf(`${name}, p50`, 'us', figuresOf(asks, quantile(0.5)))
      yield rowOf(`${name}, p99`, 'us', figuresOf(asks, quantile(0.99)))
    }
    const tensors = await contest<readonly number[]>({
      ours: () => drivers[0]!.ask({ type: 'tensors', count: 2000, bytes: tensorBytes }),
      'postMessage, transferred': () => peers.transfers(2000, tensorBytes),
    })
    yield rowOf('16 MiB by reference, there and back, p50', 'us', figuresOf(tensors, quantile(0.5)))
    const small = await contest<readonly number[]>({
      ours: () => drivers[0]!.ask({ type: 'tensors', count: 2000, bytes: tensorBytes }),
      'ours, 16 KiB': () => drivers[0]!.ask({ type: 'tensors', count: 2000, bytes: 1 << 14 }),
    })
    yield rowOf('16 MiB against 16 KiB by reference, p50', 'us', figuresOf(small, quantile(0.5)))
  } finally {
    await peers.close()
  }
  const before = process.cpuUsage()
  await new Promise((done) => setTimeout(done, 2000))
  const { user, system: kernel } = process.cpuUsage(before)
  yield rowOf('four parked threads', '% of a core', { ours: (user + kernel) / 2e4 })
}

/** Rows of one thread. */
async function* within(): AsyncGenerator<Row> {
  const count = 200_000
  const one = sample(1)
  await using system = await ActorSystem.start({ workers: 0 })
  const to = await system.spawn(counting)
  let done = (): void => {}
  const root = start()
  const sink = (seen: number): number => {
    if ((seen + 1) % count === 0) done()
    return seen + 1
  }
  const nact = spawn(root, sink, 'sink', { initialState: 0 })
  const machine = createActor(
    fromTransition((state, event: { type: 'sample'; a: number }) => ({ sum: state.sum + event.a }), { sum: 0 }),
  ).start()
  yield await rates('tell within a thread', 'messages/s', {
    async ours() {
      for (let n = 0; n < count; n++) while (!to.tell(one)) await to.ready()
      await to.ask({ type: 'seen' })
      return count
    },
    async nact() {
      const all = new Promise<void>((resolve) => {
        done = resolve
      })
      for (let n = 0; n < count; n++) dispatch(nact, one)
      await all
      return count
    },
    async xstate() {
      for (let n = 0; n < count; n++) machine.send(one)
      return count
    },
    effect: () => Effect.runPromise(throughQueue(count, one)),
  })
  stop(root)
  yield await rates('spawn and stop', 'actors/s', {
    async ours() {
      for (let n = 0; n < 200; n++) {
        const refs = await Promise.all(Array.from({ length: 50 }, () => system.spawn(counting)))
        await Promise.all(refs.map((ref) => ref.stop()))
      }
      return 10_000
    },
  })
}

/** Messages from one fiber to another through Effect's bounded queue. */
const throughQueue = (count: number, message: { readonly a: number }): Effects.Effect<number> =>
  Effect.gen(function* () {
    const queue = yield* Queue.bounded<{ readonly a: number }>(1000)
    const reader = yield* Effect.fork(
      Effect.gen(function* () {
        let sum = 0
        for (let n = 0; n < count; n++) sum += (yield* Queue.take(queue)).a
        return sum
      }),
    )
    for (let n = 0; n < count; n++) yield* Queue.offer(queue, message)
    yield* reader.await
    return count
  })

export async function* actorRows(): AsyncGenerator<Row> {
  yield* between()
  yield* within()
}
