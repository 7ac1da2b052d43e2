// Actors for the tests of the runtime: exported, so that workers can import them.
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type ActorRef,
  ActorSystem,
  type Behaviour,
  type Cause,
  defineActor,
  type RefOf,
} from '../../transports/index.js'

export const counter = defineActor(import.meta.url, 'counter', {
  init(_context, args: { start: number }) {
    return { count: args.start }
  },
  receive: {
    add(state, message: { amount: number }) {
      state.count += message.amount
    },
    get(state) {
      return state.count
    },
    async fail(_state, message: { text: string }): Promise<void> {
      await null
      throw new RangeError(message.text, { cause: new TypeError('the root of it') })
    },
    where(_state, _message, context) {
      return { path: context.path, worker: context.worker, restarts: context.restarts, sender: context.sender?.path }
    },
  },
})

/** Writes down the order of what it is told. */
export const recorder = defineActor(import.meta.url, 'recorder', {
  init() {
    return { seen: [] as { by: number; n: number }[] }
  },
  receive: {
    note(state, message: { by: number; n: number }) {
      state.seen.push({ by: message.by, n: message.n })
    },
    block(_state, message: { ms: number }) {
      for (const end = performance.now() + message.ms; performance.now() < end; );
    },
    all(state) {
      return state.seen
    },
  },
})

/** Adds up messages of a fixed layout. */
export const meter = defineActor(import.meta.url, 'meter', {
  init: () => ({ amount: 0, ids: [] as number[], ups: 0 }),
  layout: { add: { amount: 'f64', id: 'i32', up: 'bool' } },
  receive: {
    add(state, message: { amount: number; id: number; up: boolean }) {
      state.amount += message.amount
      state.ids.push(message.id)
      if (message.up) state.ups++
      return state
    },
  },
})

/** Uses refs that it is given. */
export const sender = defineActor(import.meta.url, 'sender', {
  init(_context, args: { to: RefOf<typeof recorder>; by: number }) {
    return args
  },
  receive: {
    async burst(state, message: { count: number }) {
      const last = message.count - 1
      for (let n = 0; n < last; n++) {
        while (!state.to.tell({ type: 'note', by: state.by, n })) await state.to.ready()
      }
      await state.to.ask({ type: 'note', by: state.by, n: last })
    },
    async relay(_state, message: { to: ActorRef<{ get(): number }> }): Promise<number> {
      return message.to.ask({ type: 'get' })
    },
  },
})

export type Node = { call(message: { path: ActorRef<Node>[] }): string }

/** Asks along a path of refs. */
export const caller = defineActor(import.meta.url, 'caller', {
  init: () => ({}),
  receive: {
    async call(_state, message: { path: ActorRef<Node>[] }, context): Promise<string> {
      const [next, ...path] = message.path
      return next ? `${context.path} > ${await next.ask({ type: 'call', path })}` : context.path
    },
  },
})

/** Holds its handler until its signal aborts, or for ever. */
export const holder = defineActor(import.meta.url, 'holder', {
  init(_context, args: { heeds: boolean }) {
    return args
  },
  receive: {
    async hold(state, _message, context): Promise<string> {
      await new Promise((resolve) => {
        if (state.heeds) context.signal.addEventListener('abort', resolve, { once: true })
      })
      context.publish('let go')
      return 'let go'
    },
    async untilCancelled(_state, _message, context): Promise<void> {
      const { askSignal } = context
      await new Promise((resolve) => askSignal.addEventListener('abort', resolve, { once: true }))
      context.publish('cancelled')
    },
    spin(): void {
      for (;;);
    },
    ping() {
      return 'pong'
    },
  },
  stop(_state, context) {
    context.publish('hook')
  },
})

/** Dies in each way that a worker can. */
export const mortal = defineActor(import.meta.url, 'mortal', {
  init(context) {
    context.publish({ up: context.path, restarts: context.restarts })
    return { memory: [] as unknown[] }
  },
  receive: {
    ping: () => 'pong',
    throwLater() {
      setTimeout(() => {
        throw new RangeError('thrown outside any handler')
      }, 0)
    },
    exit() {
      process.exit(7)
    },
    exhaust(state) {
      for (;;) state.memory.push(new Array(1000).fill(state))
    },
    async wait() {
      await sleep(60_000)
    },
    throwNow() {
      throw new Error('now')
    },
  },
  stop(_state, context, cause) {
    context.publish({ down: context.path, cause: cause.kind })
  },
})

export type TellCause = { path: string; cause: Cause; restarting: boolean }

/** Watches what it is given and remembers how lives ended. */
export const watcher = defineActor(import.meta.url, 'watcher', {
  init: () => ({ ends: [] as TellCause[], waiting: [] as { count: number; done: (ends: TellCause[]) => void }[] }),
  receive: {
    watch(_state, message: { ref: ActorRef }, context) {
      context.watch(message.ref)
    },
    unwatch(_state, message: { ref: ActorRef }, context) {
      context.unwatch(message.ref)
    },
    ends: (state) => state.ends,
  },
  onTerminated(state, { ref, cause, restarting }, context) {
    state.ends.push({ path: ref.path, cause, restarting })
    context.publish({ saw: ref.path, cause: cause.kind, restarting })
  },
})

/** A parent that spawns one child per name in `init`. */
export const parent = defineActor(import.meta.url, 'parent', {
  async init(context, args: { names: string[]; worker?: number; maxRestarts?: number }) {
    const { names, worker, maxRestarts = 3 } = args
    const children = []
    for (const name of names) {
      const options = { name, maxRestarts, ...(worker !== undefined && { worker }) }
      children.push(await context.spawn(mortal, undefined, options))
    }
    return { children }
  },
  receive: {
    children: (state) => state.children,
  },
  stop(_state, context, cause) {
    context.publish({ down: context.path, cause: cause.kind })
  },
})

/** Fails in its hooks as told. */
export const clumsy = defineActor(import.meta.url, 'clumsy', {
  async init(_context, args: { init?: string; stop?: string }) {
    if (args.init) throw new RangeError(args.init)
    return args
  },
  receive: { ping: () => 'pong' },
  stop(state) {
    if (state.stop) throw new RangeError(state.stop)
  },
})

/** Sends back what it gets. */
export const echo = defineActor(import.meta.url, 'echo', {
  init: () => null,
  receive: {
    echo: (_state, message: { value: unknown }) => message.value,
    badReply: (): unknown => () => 1,
    write(_state, message: { view: Int32Array }) {
      Atomics.store(message.view, 0, 42)
    },
  },
})

type Greeter = { greet(message: { name: string }): string; reset(): void }
const greeting: Behaviour<Greeter, { greeted: number }, { word: string }> = {
  init: () => ({ greeted: 0 }),
  receive: {
    async greet(state, message) {
      state.greeted++
      return `hello ${message.name}`
    },
    reset(state, _message, context) {
      context.self.tell({ type: 'greet', name: 'self' })
      state.greeted = 0
    },
  },
}
/** Implements a protocol that is declared on its own. */
export const greeter = defineActor(import.meta.url, 'greeter', greeting)

/** A definition that closes over a value, so no other thread can import it. */
export const enclosed = (offset: number, name = 'enclosed') =>
  defineActor(import.meta.url, name, { init: () => 0, receive: { get: () => offset } })

/** Starts a system where it lives. */
export const nested = defineActor(import.meta.url, 'nested', {
  async init() {
    await (await ActorSystem.start({ workers: 0 })).stop()
  },
  receive: {},
})
