// Actors that take and push views of memory, for tests of mailboxes that count bytes.
import { bytesIn } from '../../runtime/actor/weight.js'
import { defineActor, type RefOf } from '../../transports/index.js'

/** What the takers of this thread handle, and whether they may go on. */
export const gate = { open: true, wait: Promise.resolve(), release: () => {}, handled: 0 }
export const shut = (): void => {
  gate.open = false
  gate.wait = new Promise((resolve) => {
    gate.release = resolve
  })
}

export const taker = defineActor(import.meta.url, 'taker', {
  init: () => ({ bytes: 0 }),
  receive: {
    async take(state, message: { data: unknown }) {
      if (!gate.open) await gate.wait
      const bytes = bytesIn(message.data)
      gate.handled += bytes
      state.bytes += bytes
      return state.bytes
    },
    fail(): void {
      throw new Error('as told')
    },
    taken: (state) => state.bytes,
  },
})

export const pusher = defineActor(import.meta.url, 'pusher', {
  init: (_context, args: { to: RefOf<typeof taker> }) => args,
  receive: {
    /** Tells views of an arena, each of some bytes, as fast as they are taken; answers once all its own are handled. */
    async push({ to }, message: { view: Uint8Array; count: number }): Promise<void> {
      for (let n = 0; n < message.count; n++) {
        const data = message.view.subarray(0, 1 + ((n * 7919) % message.view.length))
        while (!to.tell({ type: 'take', data })) await to.ready()
      }
      await to.ask({ type: 'taken' })
    },
  },
})
