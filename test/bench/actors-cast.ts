// Actors for the benchmark of the actor runtime: exported, so that workers can import them.
import { setTimeout as sleep } from 'node:timers/promises'
import { defineActor, type RefOf } from '../../transports/index.js'

/** 64 bytes of numbers: six doubles and four words. */
export interface Sample {
  a: number
  b: number
  c: number
  d: number
  e: number
  f: number
  rank: number
  step: number
  low: number
  high: number
}

export const sample = (step: number): Sample & { readonly type: 'sample' } => ({
  type: 'sample',
  a: step + 0.5,
  b: 1.5,
  c: 2.5,
  d: 3.5,
  e: 4.5,
  f: 5.5,
  rank: 1,
  step,
  low: 3,
  high: 4,
})

/** An object of seven fields. */
export const record = (step: number) => ({
  type: 'record' as const,
  step,
  name: 'layer.3.attention',
  loss: 2.25 + step,
  tags: ['train', 'rank-1'],
  done: false,
  at: { epoch: 1, batch: 7 },
})

/** Adds up what it gets. */
export const counting = defineActor(import.meta.url, 'counting', {
  init: () => ({ seen: 0, sum: 0 }),
  layout: {
    sample: {
      a: 'f64',
      b: 'f64',
      c: 'f64',
      d: 'f64',
      e: 'f64',
      f: 'f64',
      rank: 'i32',
      step: 'i32',
      low: 'i32',
      high: 'i32',
    },
  },
  receive: {
    sample(state, message: Sample): void {
      state.seen++
      state.sum += message.a
    },
    record(state, message: Omit<ReturnType<typeof record>, 'type'>): void {
      state.seen++
      state.sum += message.loss
    },
    tensor(state, message: { view: Float32Array }): void {
      state.seen++
      state.sum += message.view[0]!
    },
    echo(): void {},
    seen: (state): number => state.seen,
  },
})

export const driver = defineActor(import.meta.url, 'driver', {
  init: (_context, args: { to: RefOf<typeof counting> }) => args,
  receive: {
    /** Sends and waits until all of it is handled. */
    async samples({ to }, message: { count: number }): Promise<void> {
      for (let n = 0; n < message.count; n++) {
        const one = sample(n)
        while (!to.tell(one)) await to.ready()
      }
      await to.ask({ type: 'seen' })
    },
    async records({ to }, message: { count: number }): Promise<void> {
      for (let n = 0; n < message.count; n++) {
        const one = record(n)
        while (!to.tell(one)) await to.ready()
      }
      await to.ask({ type: 'seen' })
    },
    async asks({ to }, message: { count: number; pauseMs: number }) {
      const micros: number[] = []
      for (let n = 0; n < message.count; n++) {
        if (message.pauseMs > 0) await sleep(message.pauseMs)
        const start = performance.now()
        await to.ask({ type: 'echo' })
        micros.push((performance.now() - start) * 1000)
      }
      return micros
    },
    async tensors({ to }, message: { count: number; bytes: number }) {
      const view = new Float32Array(new SharedArrayBuffer(message.bytes))
      const micros: number[] = []
      for (let n = 0; n < message.count; n++) {
        const start = performance.now()
        await to.ask({ type: 'tensor', view })
        micros.push((performance.now() - start) * 1000)
      }
      return micros
    },
  },
})
