// Who is running: the frame of a handler follows its asynchronous work, so a send knows its sender and an ask its call chain.
import { AsyncLocalStorage } from 'node:async_hooks'
import type { Address } from './envelope.js'

/** One run of a handler. */
export interface Frame {
  /** The host that runs it; frames of another system's hosts do not count. */
  readonly host: object
  readonly actor: { readonly address: Address; readonly over: boolean }
  /** Actors that wait for this run to end, from the first asker to the actor itself. */
  readonly chain: readonly Address[]
}

const storage = new AsyncLocalStorage<Frame>()
/** The frame of the synchronous run in progress, which is looked up often. */
let running: Frame | undefined

export const frames = {
  /** Runs `run` with a frame, which its asynchronous work keeps. */
  run<A extends unknown[], T>(frame: Frame, run: (...args: A) => T, ...args: A): T {
    const before = running
    running = frame
    try {
      return storage.run(frame, run, ...args)
    } finally {
      running = before
    }
  },

  /** Has what follows in this turn of the event loop run with a frame, until `leave`. */
  enter(frame: Frame): void {
    running = frame
    storage.enterWith(frame)
  },

  leave(): void {
    running = undefined
    storage.enterWith(undefined as unknown as Frame)
  },

  /** The frame of the running handler, if any. */
  getStore(): Frame | undefined {
    return running ?? storage.getStore()
  },
}
