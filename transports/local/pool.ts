// Threads for hosts: one piscina pool whose every worker runs one host. A host that ends is told to the system with its cause, and
// its place is filled again when the system asks. Every two hosts have a message channel of their own.
import type { EventLoopUtilization } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { MessageChannel, type MessagePort, type ResourceLimits } from 'node:worker_threads'
import { Piscina } from 'piscina'
import type { CreditTable } from '../../runtime/actor/credits.js'
import type { Spawner } from '../../runtime/actor/envelope.js'
import { ActorError, asError, type Cause } from '../../runtime/actor/errors.js'
import type { LinkMemory, Links, PoolWord, ThreadWord } from './links.js'
import type { ThreadTask } from './thread.js'
import { wireMemory } from './wire.js'

const closeMs = 2000

export interface PoolOptions {
  readonly system: string
  readonly workers: number
  readonly credits: CreditTable
  readonly bells: SharedArrayBuffer
  readonly maxMessageBytes: number
  readonly resourceLimits?: ResourceLimits
  readonly links: Links<ThreadWord>
  /** A host that was running has ended. */
  onDown(host: number, cause: Cause): void
}

interface Thread {
  readonly abort: AbortController
  /** Resolves when the task has ended, however. */
  readonly ended: Promise<void>
  running: boolean
  /** Resolves when the thread itself is gone, natively too. */
  exited: Promise<unknown>
  /** Of its event loop, since it began; null: it does not run yet. */
  loop: (() => EventLoopUtilization) | null
  /** Hosts that have not yet taken their port to this one. */
  readonly unconnected: Set<number>
  progress(): void
}

export class Pool implements Spawner {
  readonly workers: number
  private readonly piscina: Piscina | null
  private readonly threads = new Map<number, Thread>()
  private closing = false

  constructor(private readonly options: PoolOptions) {
    const { workers, resourceLimits } = options
    this.workers = workers
    this.piscina =
      workers === 0
        ? null
        : new Piscina({
            filename: fileURLToPath(new URL('./thread.js', import.meta.url)),
            name: 'runThread',
            minThreads: workers,
            maxThreads: workers,
            concurrentTasksPerWorker: 1,
            ...(resourceLimits && { resourceLimits }),
          })
    // A worker that fails between tasks; the pool replaces it by itself.
    this.piscina?.on('error', () => {})
  }

  open(host: number): Promise<void> {
    if (this.closing)
      return Promise.reject(new ActorError('SYSTEM_STOPPED', `spawn: the system ${this.options.system} stops`))
    const { port1, port2 } = new MessageChannel()
    const [near, far] = linkMemory()
    this.options.links.connect(host, port1, near)
    return new Promise((resolve, reject) => {
      const abort = new AbortController()
      const thread: Thread = {
        abort,
        running: false,
        loop: null,
        exited: Promise.resolve(),
        unconnected: new Set(),
        ended: this.run(host, port2, far, abort.signal).then(async (error) => {
          if (error) await briefly(thread.exited)
          this.ended(host, thread, error, reject)
        }),
        progress: () => {
          if (thread.running && thread.unconnected.size === 0) resolve()
        },
      }
      this.threads.set(host, thread)
    })
  }

  /** Hears a worker's word. */
  hear(word: ThreadWord, from: number): void {
    if (word.kind === 'connected') {
      this.connected(word.host, from)
      return
    }
    const thread = this.threads.get(from)
    if (!thread) return
    thread.running = true
    const worker = this.piscina!.threads.find(({ threadId }) => threadId === word.threadId)
    if (worker) {
      thread.exited = new Promise((resolve) => worker.once('exit', resolve))
      thread.loop = () => worker.performance.eventLoopUtilization()
    }
    // Channels only between threads that run: a port that waits in a queue is lost with the thread that was to get its peer.
    for (const [other, { running }] of this.threads) {
      if (other === from || !running) continue
      const { port1, port2 } = new MessageChannel()
      const [near, far] = linkMemory()
      thread.unconnected.add(other)
      this.tell(from, { kind: 'connect', host: other, port: port1, memory: near }, [port1])
      this.tell(other, { kind: 'connect', host: from, port: port2, memory: far }, [port2])
    }
    thread.progress()
  }

  /** How busy the event loop of each running worker was since it began, by host. */
  loops(): Map<number, EventLoopUtilization> {
    return new Map([...this.threads].flatMap(([host, { loop }]) => (loop ? [[host, loop()] as const] : [])))
  }

  kill(host: number): void {
    this.threads.get(host)?.abort.abort()
  }

  async close(): Promise<void> {
    this.closing = true
    for (const host of this.threads.keys()) this.tell(host, { kind: 'close' })
    const ended = Promise.all([...this.threads.values()].map((thread) => thread.ended))
    await briefly(ended)
    await this.piscina?.destroy()
    await ended
    this.options.links.close()
  }

  private tell(host: number, word: PoolWord, ports: readonly MessagePort[] = []): void {
    this.options.links.say(host, word, ports)
  }

  /** Runs the task; resolves with why it ended, or null where it was closed. */
  private async run(host: number, port: MessagePort, memory: LinkMemory, signal: AbortSignal): Promise<Error | null> {
    const { system, credits, bells, maxMessageBytes } = this.options
    const task: ThreadTask = { system, host, credits: credits.buffer, bells, maxMessageBytes, port, memory }
    try {
      await this.piscina!.run(task, { transferList: [port], signal })
      return null
    } catch (error) {
      return asError(error)
    }
  }

  private ended(host: number, thread: Thread, error: Error | null, reject: (error: Error) => void): void {
    if (this.threads.get(host) === thread) this.threads.delete(host)
    this.options.links.disconnect(host)
    for (const other of this.threads.keys()) {
      this.tell(other, { kind: 'disconnect', host })
      this.connected(other, host)
    }
    const cause = causeOf(host - 1, error)
    if (thread.running && !this.closing) this.options.onDown(host, cause)
    reject(new ActorError('WORKER_EXIT', `start: ${cause.message}`, { worker: host - 1 }, { cause: error }))
  }

  /** `other` has its port to `host`, or is gone and needs none. */
  private connected(host: number, other: number): void {
    const thread = this.threads.get(host)
    thread?.unconnected.delete(other)
    thread?.progress()
  }
}

/** Waits for what should come soon, but not for long. */
async function briefly(event: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const patience = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, closeMs)
  })
  await Promise.race([event, patience])
  clearTimeout(timer)
}

/** The memory of a new link as each of its ends sees it. */
function linkMemory(): [LinkMemory, LinkMemory] {
  const there = wireMemory()
  const back = wireMemory()
  return [
    { out: there, in: back },
    { out: back, in: there },
  ]
}

function causeOf(worker: number, error: Error | null): Cause {
  const code = (error as NodeJS.ErrnoException | null)?.code
  if (code === 'ERR_WORKER_OUT_OF_MEMORY') {
    return { kind: 'out-of-memory', message: `worker ${worker} ran out of memory`, error: error! }
  }
  const why = error?.name === 'AbortError' ? 'it was ended' : (error?.message ?? 'its host ended')
  return { kind: 'exit', message: `worker ${worker} ended: ${why}`, ...(error && { error }) }
}
