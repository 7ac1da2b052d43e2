// What people use in Node for messages between threads, each set up once, to do the same work as our actors.
import { fileURLToPath } from 'node:url'
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import { type Remote, wrap } from 'comlink'
import { Piscina } from 'piscina'
import { pool } from 'workerpool'
import { sample } from './actors-cast.js'
import { type ComlinkWorker, endpointOf } from './actors-comlink.js'
import { acknowledged, type PeerOrder, timeCalls } from './actors-peer.js'

const peerFile = fileURLToPath(new URL('./actors-peer.js', import.meta.url))

/** Microseconds of each of `count` asks, `pauseMs` apart. */
type Asks = (count: number, pauseMs: number) => Promise<readonly number[]>

export interface Peers {
  /** Messages of a kind from two threads to a third by postMessage; resolves with their number when all are handled. */
  oneWay(what: 'sample' | 'record'): Promise<number>
  /** The same by calls, 64 at a time, from one thread. */
  calls(): Promise<number>
  readonly asks: Readonly<Record<string, Asks>>
  /** A buffer there and back by transfer. */
  transfers(count: number, bytes: number): Promise<readonly number[]>
  close(): Promise<void>
}

const sendOrder = (worker: Worker, order: PeerOrder): Promise<{ readonly micros?: readonly number[] }> =>
  new Promise((done) => {
    worker.once('message', done)
    worker.postMessage(order, [order.port])
  })

/** Starts all peers. */
export async function startPeers(): Promise<Peers> {
  const [taker, ...senders] = [0, 1, 2].map(() => new Worker(peerFile, { workerData: { peer: 'postMessage' } }))
  /** A way to the taker. */
  const way = (): MessagePort => {
    const { port1, port2 } = new MessageChannel()
    taker!.postMessage({ do: 'take', port: port1 } satisfies PeerOrder, [port1])
    return port2
  }
  const piscina = new Piscina({ filename: peerFile, minThreads: 1, maxThreads: 1 })
  const comlinkWorker = new Worker(new URL('./actors-comlink.js', import.meta.url), { workerData: { peer: 'comlink' } })
  const remote: Remote<ComlinkWorker> = wrap<ComlinkWorker>(endpointOf(comlinkWorker))
  const workerpool = pool({ minWorkers: 1, maxWorkers: 1, workerType: 'thread' })
  const { port1: back, port2: there } = new MessageChannel()
  const bouncer = new Worker(peerFile, { workerData: { peer: 'bounce', port: there }, transferList: [there] })
  const calls =
    (call: () => Promise<unknown>): Asks =>
    (count, pauseMs) =>
      timeCalls(call, count, pauseMs)
  return {
    async oneWay(what) {
      const count = 50 * acknowledged
      await Promise.all(senders.map((sender) => sendOrder(sender, { do: 'send', port: way(), what, count })))
      return 2 * count
    },
    async calls() {
      const rounds = 100
      for (let n = 0; n < rounds; n++) await Promise.all(Array.from({ length: 64 }, (_, i) => remote.sample(sample(i))))
      return rounds * 64
    },
    asks: {
      postMessage: async (count, pauseMs) =>
        (await sendOrder(senders[0]!, { do: 'ask', port: way(), count, pauseMs })).micros!,
      'piscina.run': calls(() => piscina.run(0)),
      comlink: calls(() => remote.echo()),
      workerpool: calls(async () => await workerpool.exec(() => 0)),
    },
    async transfers(count, bytes) {
      let buffer = new ArrayBuffer(bytes)
      const call = (): Promise<void> =>
        new Promise((done) => {
          back.once('message', (same: ArrayBuffer) => {
            buffer = same
            done()
          })
          back.postMessage(buffer, [buffer])
        })
      return await timeCalls(call, count, 0)
    },
    async close() {
      back.close()
      await Promise.all([piscina.destroy(), workerpool.terminate()])
      for (const worker of [taker!, ...senders, comlinkWorker, bouncer]) await worker.terminate()
    },
  }
}
