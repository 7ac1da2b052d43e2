// A system whose actors live on worker threads of this process and on the thread that starts it.
import type { ResourceLimits } from 'node:worker_threads'
import { CreditTable } from '../../runtime/actor/credits.js'
import { systemClock } from '../../runtime/actor/envelope.js'
import { ActorError } from '../../runtime/actor/errors.js'
import { System, type SystemParts } from '../../runtime/actor/system.js'
import { Links, type ThreadWord } from './links.js'
import { Pool } from './pool.js'
import { hostedSystem } from './thread.js'

const slots = 1 << 17

export interface StartOptions {
  /** Worker threads; 0 runs everything on this thread. */
  readonly workers: number
  /** In error messages and `inspect()`; default `system-<n>`. */
  readonly name?: string
  /** Heap and stack limits of each worker. */
  readonly resourceLimits?: ResourceLimits
}

let started = 0

/** An actor system on this process's threads: `await ActorSystem.start({ workers: 2 })`. */
export class ActorSystem extends System {
  private constructor(parts: SystemParts) {
    super(parts)
  }

  /** Starts the workers; resolves when each is connected to every other. Rejects with `BAD_OPTION` or `WORKER_EXIT`. */
  static async start(options: StartOptions): Promise<ActorSystem> {
    const { workers, resourceLimits } = options
    if (!Number.isInteger(workers) || workers < 0) {
      throw new ActorError('BAD_OPTION', `start: workers, expected a whole number from 0, got ${workers}`, {
        option: 'workers',
      })
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
    const credits = CreditTable.create(slots)
    const links: Links<ThreadWord> = new Links({
      refHost: () => system.host,
      receive: (envelope) => system.host.receive(envelope),
      hear: (word, from) => pool.hear(word, from),
    })
    const pool = new Pool({
      system: name,
      workers,
      credits,
      links,
      ...(resourceLimits && { resourceLimits }),
      onDown: (host, cause) => system.guardian.hostDown(host, cause),
    })
    const system: ActorSystem = new ActorSystem({ name, credits, clock: systemClock, transport: links, spawner: pool })
    try {
      for (let host = 1; host <= workers; host++) await pool.open(host)
    } catch (error) {
      await system.stop()
      throw error
    }
    return system
  }
}
