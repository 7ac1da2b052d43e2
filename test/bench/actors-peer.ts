// The other side of the actor runtime's peers: a worker that takes messages by postMessage or piscina, or sends them.
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { record, sample } from './actors-cast.js'

/** For piscina. */
export default function echo(value: unknown): unknown {
  return value
}

/** Microseconds of each of `count` calls, `pauseMs` apart. */
export async function timeCalls(call: () => Promise<unknown>, count: number, pauseMs: number): Promise<number[]> {
  const micros: number[] = []
  for (let n = 0; n < count; n++) {
    if (pauseMs > 0) await sleep(pauseMs)
    const start = performance.now()
    await call()
    micros.push((performance.now() - start) * 1000)
  }
  return micros
}

export type PeerOrder =
  | { readonly do: 'take'; readonly port: MessagePort }
  | { readonly do: 'send'; readonly port: MessagePort; readonly what: 'sample' | 'record'; readonly count: number }
  | { readonly do: 'ask'; readonly port: MessagePort; readonly count: number; readonly pauseMs: number }

/** Messages that may be on their way, so that the sender's memory stays bounded. */
const window = 4096
/** The receiver tells after so many; what is sent is a multiple of it. */
export const acknowledged = window / 2

function take(port: MessagePort): void {
  let seen = 0
  let sum = 0
  port.on('message', (message: { type: string; a?: number; loss?: number }) => {
    if (message.type === 'echo') {
      port.postMessage(0)
      return
    }
    sum += message.a ?? message.loss ?? 0
    if (++seen % acknowledged === 0) port.postMessage(sum)
  })
}

async function send(port: MessagePort, what: 'sample' | 'record', count: number): Promise<void> {
  const make = what === 'sample' ? sample : record
  let credit = window
  let wake: (() => void) | null = null
  port.on('message', () => {
    credit += acknowledged
    wake?.()
  })
  for (let n = 0; n < count; n++) {
    if (credit === 0) {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
    credit--
    port.postMessage(make(n))
  }
  while (credit < window) {
    await new Promise<void>((resolve) => {
      wake = resolve
    })
  }
  port.removeAllListeners('message')
}

async function ask(port: MessagePort, count: number, pauseMs: number): Promise<number[]> {
  let resolve: () => void = () => {}
  port.on('message', () => resolve())
  const call = () =>
    new Promise<void>((done) => {
      resolve = done
      port.postMessage({ type: 'echo' })
    })
  const micros = await timeCalls(call, count, pauseMs)
  port.removeAllListeners('message')
  return micros
}

const role = isMainThread ? undefined : (workerData as { peer?: string; port?: MessagePort } | null)
if (role?.peer === 'postMessage') {
  parentPort!.on('message', (order: PeerOrder) => {
    if (order.do === 'take') take(order.port)
    else if (order.do === 'send') {
      void send(order.port, order.what, order.count).then(() => parentPort!.postMessage({ done: true }))
    } else void ask(order.port, order.count, order.pauseMs).then((micros) => parentPort!.postMessage({ micros }))
  })
} else if (role?.peer === 'bounce') {
  role.port!.on('message', (buffer: ArrayBuffer) => role.port!.postMessage(buffer, [buffer]))
}
