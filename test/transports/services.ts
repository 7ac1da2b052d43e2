// Actors for the tests of timers, stash, survival and streams: exported, so that workers can import them.
import { from } from 'rxjs'
import { type ActorRef, defineActor } from '../../transports/index.js'

/** Sets timers as told. */
export const ticker = defineActor(import.meta.url, 'ticker', {
  init: () => ({ seen: [] as string[], cancels: [] as (() => void)[] }),
  receive: {
    once(state, message: { ms: number }, context) {
      state.cancels.push(context.schedule.once(message.ms, { type: 'tick', name: 'once' }))
    },
    every(state, message: { ms: number }, context) {
      state.cancels.push(context.schedule.every(message.ms, { type: 'tick', name: 'every' }))
    },
    tick(state, message: { name: string }) {
      state.seen.push(message.name)
    },
    cancel(state) {
      for (const cancel of state.cancels) cancel()
    },
    seen: (state) => state.seen,
  },
})

/** Stashes its work until it is woken. */
export const sleeper = defineActor(import.meta.url, 'sleeper', {
  init: () => ({ awake: false, order: [] as number[] }),
  receive: {
    work(state, message: { n: number }, context) {
      if (!state.awake) {
        context.stash()
        return 'nobody hears this'
      }
      state.order.push(message.n)
      return `did ${message.n}`
    },
    wake(state, _message, context) {
      state.awake = true
      context.unstash()
      return 'awake'
    },
    order: (state) => state.order,
  },
})

/** Keeps its sum across restarts, where told. */
export const keeper = defineActor(import.meta.url, 'keeper', {
  init: (_context, args: { start: number }, survived?: { sum: number }) => ({ sum: survived?.sum ?? args.start }),
  receive: {
    add(state, message: { amount: number; keep: boolean }, context) {
      state.sum += message.amount
      if (message.keep) context.survive()
    },
    get: (state) => state.sum,
    fail(): void {
      throw new Error('as told')
    },
    exit(): void {
      process.exit(3)
    },
  },
  survive: (state) => ({ sum: state.sum }),
})

/** Yields values. */
export const source = defineActor(import.meta.url, 'source', {
  init: () => ({ made: 0, open: 0 }),
  receive: {
    async *count(state, message: { to: number }) {
      state.open++
      try {
        for (let n = 0; n < message.to; n++) {
          state.made++
          yield n
        }
      } finally {
        state.open--
      }
    },
    observed: (_state, message: { to: number }) => from([...Array(message.to).keys()]),
    silent(state): AsyncIterable<number> {
      state.open++
      let wake: (result: IteratorResult<number>) => void = () => {}
      const end = { done: true, value: undefined } as const
      return {
        [Symbol.asyncIterator]: () => ({
          next: () =>
            new Promise<IteratorResult<number>>((resolve) => {
              wake = resolve
            }),
          async return() {
            state.open--
            wake(end)
            return end
          },
        }),
      }
    },
    async *failing() {
      yield 1
      yield 2
      throw new RangeError('dry')
    },
    async *bad() {
      yield () => 1
    },
    made: (state) => state.made,
    /** Whether nobody reads any more. */
    left: (state) => state.open === 0,
  },
})

/** Uses others. */
export const feeder = defineActor(import.meta.url, 'feeder', {
  init: () => 0,
  receive: {
    async read(_state, message: { from: ActorRef<{ silent(): AsyncIterable<number> }> }) {
      for await (const _value of message.from.stream({ type: 'silent' }));
    },
    async ask(_state, message: { ref: ActorRef<{ hold(): string }> }) {
      await message.ref.ask({ type: 'hold' })
    },
    log(_state, message: { text: string }, context) {
      context.log.info(message.text)
    },
  },
})

/** Fails when told, keeps a count that survives, and asks its peers. */
export const member = defineActor(import.meta.url, 'member', {
  init: (_context, _args: undefined, survived?: number) => ({ count: survived ?? 0 }),
  receive: {
    step(state, _message, context) {
      state.count++
      context.survive()
      return state.count
    },
    fail(): void {
      throw new Error('as told')
    },
    async meet(_state, message: { peer: ActorRef<{ ping(): string }> }): Promise<string> {
      return message.peer.ask({ type: 'ping' }, { deadline: 500 })
    },
    ping: () => 'pong',
  },
  survive: (state) => state.count,
})
