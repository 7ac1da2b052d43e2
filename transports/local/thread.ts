// The never-ending task of one worker: a host of the system, which lives until the pool says `close`. Its ports keep the thread's
// event loop turning, so orders are heard while handlers await.
import { type MessagePort, threadId } from 'node:worker_threads'
import { CreditTable } from '../../runtime/actor/credits.js'
import { systemClock } from '../../runtime/actor/envelope.js'
import { Host } from '../../runtime/actor/host.js'
import { type LinkMemory, Links, type PoolWord } from './links.js'

/** What the pool gives a worker. */
export interface ThreadTask {
  readonly system: string
  readonly host: number
  readonly credits: SharedArrayBuffer
  readonly bells: SharedArrayBuffer
  readonly maxMessageBytes: number
  /** To the pool's thread. */
  readonly port: MessagePort
  readonly memory: LinkMemory
}

let hosting: string | null = null

/** The system whose actors this thread runs, if it is a worker of one. */
export const hostedSystem = (): string | null => hosting

/** Runs the host; resolves when it is told to close. */
export function runThread(task: ThreadTask): Promise<void> {
  hosting = task.system
  return new Promise((resolve) => {
    const links: Links<PoolWord> = new Links({
      index: task.host,
      bells: task.bells,
      maxMessageBytes: task.maxMessageBytes,
      refHost: () => host,
      inbox: () => host,
      hear: (word) => {
        if (word.kind === 'connect') {
          links.connect(word.host, word.port, word.memory)
          links.say(0, { kind: 'connected', host: word.host })
        } else if (word.kind === 'disconnect') links.disconnect(word.host)
        else {
          host.close()
          links.close()
          resolve()
        }
      },
    })
    const host: Host = new Host({
      system: task.system,
      index: task.host,
      credits: new CreditTable(task.credits),
      transport: links,
      clock: systemClock,
    })
    links.connect(0, task.port, task.memory)
    links.say(0, { kind: 'running', threadId })
  })
}
