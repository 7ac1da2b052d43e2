// A system whose actors live on worker threads of this process and on the thread that starts it.
import { randomInt } from 'node:crypto'
import type { ResourceLimits } from 'node:worker_threads'
import { CreditTable } from '../../runtime/actor/credits.js'
import { systemClock } from '../../runtime/actor/envelope.js'
import { ActorError } from '../../runtime/actor/errors.js'
import { type LogOptions, System, type SystemParts } from '../../runtime/actor/system.js'
import { bellMemory } from './bell.js'
import { Links, type ThreadWord } from './links.js'
import { Pool } from './pool.js'
import { hostedSystem } from './thread.js'

const slots = 1 << 17
const defaultMessageBytes = 1 << 28

export interface StartOptions {
  /** Worker threads; 0 runs everything on this thread. */
  readonly workers: number
  /** In error messages and `inspect()`; default `system-<n>`. */
  readonly name?: string
  /** The largest message between threads, encoded; beyond it a send throws `TOO_LARGE`. Default 256 MiB. */
  readonly maxMessageBytes?: number
  /** Heap and stack limits of each worker. */
  readonly resourceLimits?: ResourceLimits
  /** Of the jitter of restarts; default: another with each start. */
  readonly seed?: number
  readonly log?: LogOptions
}

let started = 0

/** How busy the event loop of a thread was since it began: Node's `performance.eventLoopUtilization()`. */
export interface LoopView {
  readonly worker: 'main' | number
  /** Milliseconds in which it ran JavaScript or was blocked by it, and in which it waited. */
  readonly activeMs: number
  readonly idleMs: number
}

/** An actor system on this process's threads: `await ActorSystem.start({ workers: 2 })`. */
export class ActorSystem extends System {
  private constructor(
    parts: SystemParts,
    private readonly pool: Pool,
  ) {
    super(parts)
  }

  /** The thread that started the system, then the workers in their order. The share of JavaScript in a stretch of time is a difference of two. */
  loops(): LoopView[] {
    const main = [0, performance.eventLoopUtilization()] as const
    return [main, ...[...this.pool.loops()].sort(([a], [b]) => a - b)].map(([host, { active, idle }]) => ({
      worker: host === 0 ? 'main' : host - 1,
      activeMs: active,
      idleMs: idle,
    }))
  }

  /** Starts the workers; resolves when each is connected to every other. Rejects with `BAD_OPTION` or `WORKER_EXIT`. */
  static async start(options: StartOptions): Promise<ActorSystem> {
    const { workers, resourceLimits, seed = randomInt(2 ** 32), log = {} } = options
    const { maxMessageBytes = defaultMessageBytes } = options
    if (!Number.isInteger(workers) || workers < 0) {
      throw new ActorError('BAD_OPTION', `start: workers, expected a whole number from 0, got ${workers}`, {
        option: 'workers',
      })
    }
    if (!Number.isInteger(maxMessageBytes) || maxMessageBytes < 1) {
      const message = `start: maxMessageBytes, expected a whole number from 1, got ${maxMessageBytes}`
      throw new ActorError('BAD_OPTION', message, { option: 'maxMessageBytes' })
    }
    const within = hostedSystem()
    if (within !== null) {
      throw new ActorError(
        'BAD_OPTION',
        `start: thread, expected one outside any system, got a worker of ${within}. ` +
          'A module that defines actors is imported by workers: start systems elsewhere, or only if isMainThread',
      )
    }
    const name = `${options.name ?? 'system'}-${++started}`
    const credits = CreditTable.create(slots, workers + 1)
    const bells = bellMemory(workers)
    const links: Links<ThreadWord> = new Links({
      index: 0,
      bells,
      maxMessageBytes,
      refHost: () => system.host,
      inbox: () => system.host,
      hear: (word, from) => pool.hear(word, from),
    })
    const pool = new Pool({
      system: name,
      workers,
      credits,
      bells,
      maxMessageBytes,
      links,
      ...(resourceLimits && { resourceLimits }),
      onDown: (host, cause) => system.guardian.hostDown(host, cause),
    })
    const system: ActorSystem = new ActorSystem(
      { name, credits, clock: systemClock, transport: links, spawner: pool, seed, log },
      pool,
    )
    try {
      for (let host = 1; host <= workers; host++) await pool.open(host)
    } catch (error) {
      await system.stop()
      throw error
    }
    return system
  }
}
