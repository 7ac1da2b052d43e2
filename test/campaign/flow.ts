// A producer that offers a hundred times what its consumer handles, each on a worker of its own, in three ways: it waits for room, it
// tries on whether refused or not, and its messages push out the oldest. The mailbox keeps its bound, memory stops growing, and control
// (views, stops, notices of ended lives) is answered at the consumer's worker within 10 ms while no handler runs longer than 5 ms.
import { setTimeout as sleep } from 'node:timers/promises'
import {
  ActorError,
  type ActorRef,
  ActorSystem,
  type ActorView,
  defineActor,
  type RefOf,
  type SpawnOptions,
} from '../../transports/index.js'
import { collect, mebibyte, ownMemory, slope, sweeper, waited } from '../support/soak.js'
import type { Campaign } from './campaign.js'

/** How long the consumer takes for a message, in milliseconds, and how many are offered in that time. */
const handlerMs = 1
const times = 100
export const capacity = 500
const longHandlerMs = 5
const mostWaitMs = 1
/** Undisturbed samples of each kind that say something. */
const leastSamples = 30
export const mostControlMs = 10
/** Bytes a minute, where there is time to tell: within one minute the heaps and compiled code of three threads settle by as much. */
const mostGrowth = mebibyte
const leastSeconds = 120
const mostSeconds = 240
const latest = 5000
/** Seconds until memory is to stop growing. */
const warmUp = 10

const epoch = (): number => performance.timeOrigin + performance.now()

interface Span {
  readonly from: number
  readonly to: number
}

export const consumer = defineActor(import.meta.url, 'consumer', {
  init: () => ({ handled: 0, last: -1, long: [] as Span[] }),
  receive: {
    item(state, message: { n: number; text: string }) {
      const from = epoch()
      if (message.n <= state.last)
        throw new Error(`flow: item after ${state.last}, expected a later one, got ${message.n}`)
      state.last = message.n
      state.handled++
      let to = from
      while (to - from < handlerMs) to = epoch()
      if (to - from > longHandlerMs) state.long.push({ from, to })
    },
    handled: (state) => ({ handled: state.handled, long: state.long }),
  },
})

export type Manner = 'waits for room' | 'tries on' | 'drops the oldest'

export const producer = defineActor(import.meta.url, 'producer', {
  init: (_context, args: { to: RefOf<typeof consumer> }) => args,
  receive: {
    /** Offers for `ms`; resolves with how many were taken and refused. */
    async offer({ to }, message: { ms: number; manner: Manner }) {
      const { ms, manner } = message
      const from = performance.now()
      let [taken, refused] = [0, 0]
      for (let now = from; now - from < ms; now = performance.now()) {
        const due = Math.floor(((now - from) / handlerMs) * times)
        while (taken + refused < due) {
          const n = taken + refused
          if (to.tell({ type: 'item', n, text: `item ${n}` })) taken++
          else if (manner === 'waits for room') {
            await to.ready()
            if (performance.now() - from >= ms) break
          } else refused++
        }
        await sleep(1)
      }
      return { taken, refused }
    },
  },
})

/** Lives beside the consumer. */
export const neighbour = defineActor(import.meta.url, 'neighbour', {
  init: () => null,
  receive: {
    ping: () => 'pong',
    watch(_state, message: { ref: ActorRef }, context) {
      context.watch(message.ref)
    },
  },
  onTerminated(_state, { ref }, context) {
    context.publish({ ended: ref.path })
  },
})

export interface Flow {
  readonly handled: number
  readonly taken: number
  readonly refused: number
  readonly deepest: number
  /** Milliseconds. `ask` is one of an actor beside the consumer, which waits for its turn and so is no control. */
  readonly latency: Readonly<Record<'inspect' | 'stop' | 'notice' | 'ask', Latency>>
  /** Samples that do not count, for a handler ran longer than 5 ms or a thread waited for a processor for more than 1 ms meanwhile. */
  readonly disturbed: number
  /** The longest of control, those included. */
  readonly mostDisturbed: number
  /** Bytes of resident memory per minute, after the first seconds. */
  readonly growth: number
}

export interface Latency {
  readonly samples: number
  readonly p50: number
  readonly p99: number
  readonly most: number
}

interface Sample extends Span {
  readonly what: keyof Flow['latency']
  /** Milliseconds that threads waited for a processor. */
  readonly waited: number
}

function latencyOf(samples: readonly Sample[], what: Sample['what']): Latency {
  const ms = samples.filter((each) => each.what === what).map(({ from, to }) => to - from)
  ms.sort((a, b) => a - b)
  const at = (part: number): number => Number((ms[Math.ceil(part * ms.length) - 1] ?? 0).toFixed(2))
  return { samples: ms.length, p50: at(0.5), p99: at(0.99), most: at(1) }
}

/** Lets the producer offer in its manner for so long. Rejects where the mailbox is above its bound, or a view or item is missing. */
export async function flow(manner: Manner, seconds: number): Promise<Flow> {
  await using system = await ActorSystem.start({ workers: 2 })
  const mailbox: NonNullable<SpawnOptions['mailbox']> = {
    capacity,
    overflow: manner === 'drops the oldest' ? 'drop-oldest' : 'refuse',
  }
  const to = await system.spawn(consumer, undefined, { name: 'consumer', worker: 1, mailbox })
  const from = await system.spawn(producer, { to }, { worker: 0 })
  const beside = await system.spawn(neighbour, undefined, { name: 'beside', worker: 1 })
  let lost = 0
  const ends = new Map<string, () => void>()
  system.events$.subscribe((event) => {
    if (event.type === 'dead-letter') lost += event.count
    if (event.type === 'published') ends.get((event.event as { ended: string }).ended)?.()
  })

  const samples: Sample[] = []
  const memory: { x: number; y: number }[] = []
  let deepest = 0
  const time = async (what: Sample['what'], run: () => Promise<unknown>): Promise<void> => {
    const before = waited()
    const began = epoch()
    await run()
    const ended = epoch()
    samples.push({ what, from: began, to: ended, waited: waited() - before })
  }
  const sweepers = await Promise.all([0, 1].map((worker) => system.spawn(sweeper, undefined, { worker })))
  // Garbage is freed first, and the room for young objects left out: how long the one lies about, and how large the other is, is up
  // to the engine, and changes by megabytes.
  const resident = async (): Promise<number> => {
    const others = await Promise.all(sweepers.map((each) => each.ask({ type: 'memory' })))
    await collect()
    return process.memoryUsage().rss - [...others, ownMemory()].reduce((sum, { young }) => sum + young, 0)
  }
  let count = 0
  const probe = async (): Promise<void> => {
    let seen: ActorView | undefined
    await time('inspect', async () => {
      seen = (await system.inspect()).actors.find(({ path }) => path === 'consumer')
    })
    if (!seen?.activity) throw new Error('flow: a view of the consumer, expected its activity, got none')
    deepest = Math.max(deepest, seen.mailbox.depth)
    await time('ask', () => beside.ask({ type: 'ping' }))
    const there = await system.spawn(neighbour, undefined, { worker: 1 })
    await time('stop', () => there.stop())
    const name = `watched-${count++}`
    const watched = await system.spawn(neighbour, undefined, { name, worker: 'main' })
    await beside.ask({ type: 'watch', ref: watched })
    const noticed = new Promise<void>((resolve) => ends.set(name, resolve))
    await time('notice', async () => {
      void watched.stop()
      await noticed
    })
    ends.delete(name)
  }
  // Tables of the latest actors are as full as they get.
  for (const worker of ['main', 1] as const) {
    const some = Array.from({ length: latest }, () => system.spawn(neighbour, undefined, { worker }))
    await Promise.all((await Promise.all(some)).map((ref) => ref.stop()))
  }
  const offering = from.ask({ type: 'offer', ms: seconds * 1000, manner }, { deadline: seconds * 1000 + 30_000 })
  // Whatever else goes wrong is told first.
  offering.catch(() => {})
  const began = performance.now()
  for (;;) {
    const elapsed = (performance.now() - began) / 1000
    if (elapsed >= seconds) break
    await probe()
    if (elapsed >= Math.min(warmUp, seconds / 3) + memory.length * (seconds / 30))
      memory.push({ x: elapsed / 60, y: await resident() })
    await sleep(seconds < warmUp ? 10 : 400)
  }
  const { taken, refused } = await offering
  /** Newer messages that are still on their way may push this one out. */
  const report = async (): ReturnType<typeof to.ask<'handled'>> => {
    for (;;) {
      try {
        return await to.ask({ type: 'handled' })
      } catch (error) {
        if (!(error instanceof ActorError && error.code === 'MAILBOX_FULL')) throw error
        await sleep(20)
      }
    }
  }
  let { handled, long } = await report()
  for (let looks = 0; handled + lost < taken && looks < 200; looks++) {
    await sleep(50)
    ;({ handled, long } = await report())
  }
  if (handled + lost !== taken)
    throw new Error(`flow: handled and lost, expected all ${taken} that were taken, got ${handled} and ${lost}`)
  if (deepest > capacity) throw new Error(`flow: messages waiting, expected at most ${capacity}, got ${deepest}`)
  const calm = samples.filter(
    (sample) => sample.waited <= mostWaitMs && !long.some((span) => span.from < sample.to && span.to > sample.from),
  )
  const latency = (what: Sample['what']): Latency => latencyOf(calm, what)
  return {
    handled,
    taken,
    refused,
    deepest,
    latency: { inspect: latency('inspect'), stop: latency('stop'), notice: latency('notice'), ask: latency('ask') },
    disturbed: samples.length - calm.length,
    mostDisturbed: Number(
      Math.max(...samples.map(({ what, from, to }) => (what === 'ask' ? 0 : to - from))).toFixed(2),
    ),
    growth: Math.round(slope(memory)),
  }
}

export const campaign: Campaign = {
  name: 'flow',
  async run({ deadline, note }) {
    const flows: Record<string, Flow> = {}
    const manners: Manner[] = ['waits for room', 'tries on', 'drops the oldest']
    const seconds = Math.min(mostSeconds, (deadline - performance.now()) / 1000 / manners.length)
    for (const manner of manners) {
      const found = await flow(manner, seconds)
      note(`${manner}: ${JSON.stringify(found)}`)
      flows[manner] = found
      for (const what of ['inspect', 'stop', 'notice'] as const) {
        const { most, samples } = found.latency[what]
        if (samples < leastSamples)
          throw new Error(
            `flow: undisturbed samples, expected at least ${leastSamples}, got ${samples}: the machine is too busy`,
          )
        if (most > mostControlMs)
          throw new Error(
            `flow: ${what} while the producer ${manner}, expected within ${mostControlMs} ms, got ${most} ms`,
          )
      }
      if (seconds >= leastSeconds && found.growth > mostGrowth)
        throw new Error(
          `flow: growth of memory while the producer ${manner}, expected at most ${mostGrowth} bytes a minute, got ${found.growth}`,
        )
    }
    return flows
  },
}
