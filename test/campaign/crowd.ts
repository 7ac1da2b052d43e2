// Very many actors at once in one process, on the main thread and then on two workers: what each costs when it is idle, fresh and
// after it has worked, and that nothing of them is left when they have stopped.
import { type ActorRef, ActorSystem, defineActor } from '../../transports/index.js'
import { collect, ownMemory, sweeper } from '../support/soak.js'
import type { Campaign } from './campaign.js'

const mostBytes = 2048
const together = 1000

export const idler = defineActor(import.meta.url, 'idler', {
  init: () => ({ sum: 0 }),
  receive: {
    add(state, message: { amount: number }) {
      state.sum += message.amount
    },
    sum: (state) => state.sum,
  },
})

/** Bytes of each actor. */
export interface Cost {
  /** In the JavaScript heaps of all threads. */
  readonly heap: number
  /** Of the process's resident memory, what the heaps have spare included, but for their young generations. */
  readonly resident: number
  /** Those included. */
  readonly rss: number
}

export interface Crowd {
  readonly actors: number
  readonly workers: number
  readonly spawnedPerSecond: number
  readonly fresh: Cost
  /** After `tells` messages each. */
  readonly worked: Cost
  readonly stopped: Cost
}

/** Spawns `count` actors over `workers` threads, or on this one, and measures. Rejects where one does not do its work. */
export async function crowd(count: number, workers: number, tells: number): Promise<Crowd> {
  await using system = await ActorSystem.start({ workers })
  const places = workers === 0 ? (['main'] as const) : Array.from({ length: workers }, (_, worker) => worker)
  const sweepers = await Promise.all(places.map((worker) => system.spawn(sweeper, undefined, { worker })))
  const measure = async (): Promise<Cost> => {
    const others = await Promise.all(sweepers.map((each) => each.ask({ type: 'memory' })))
    await collect()
    const all = workers === 0 ? others : [...others, ownMemory()]
    const total = (of: 'heap' | 'young'): number => all.reduce((sum, memory) => sum + memory[of], 0)
    const { rss } = process.memoryUsage()
    return { heap: total('heap'), resident: rss - total('young'), rss }
  }
  const start = async (many: number) => {
    const refs = []
    for (let from = 0; from < many; from += together) {
      const some = Array.from({ length: Math.min(together, many - from) }, () => system.spawn(idler))
      refs.push(...(await Promise.all(some)))
    }
    return refs
  }
  const stop = async (refs: readonly ActorRef[]) => {
    for (let from = 0; from < refs.length; from += together)
      await Promise.all(refs.slice(from, from + together).map((ref) => ref.stop()))
  }
  // What is made once for all (code, tables, room in the heaps) is made before it counts.
  await stop(await start(Math.ceil(count / 4)))

  const before = await measure()
  const each = async (): Promise<Cost> => {
    const after = await measure()
    const share = (of: keyof Cost): number => Math.round((after[of] - before[of]) / count)
    return { heap: share('heap'), resident: share('resident'), rss: share('rss') }
  }
  const began = performance.now()
  let refs = await start(count)
  const spawnedPerSecond = Math.round((count / (performance.now() - began)) * 1000)
  const fresh = await each()
  const expected = (tells * (tells - 1)) / 2
  for (let from = 0; from < refs.length; from += together) {
    const some = refs.slice(from, from + together)
    for (const ref of some)
      for (let n = 0; n < tells; n++) while (!ref.tell({ type: 'add', amount: n })) await ref.ready()
    const sums = await Promise.all(some.map((ref) => ref.ask({ type: 'sum' })))
    const wrong = sums.findIndex((sum) => sum !== expected)
    if (wrong >= 0) throw new Error(`crowd: sum of actor ${from + wrong}, expected ${expected}, got ${sums[wrong]}`)
  }
  const worked = await each()
  await stop(refs)
  refs = []
  const stopped = await each()
  return { actors: count, workers, spawnedPerSecond, fresh, worked, stopped }
}

export const campaign: Campaign = {
  name: 'crowd',
  async run({ note }) {
    const crowds: Record<string, Crowd> = {}
    for (const workers of [0, 2]) {
      const found = await crowd(100_000, workers, 70)
      note(JSON.stringify(found))
      crowds[workers === 0 ? 'main thread' : `${workers} workers`] = found
      for (const [state, cost] of [
        ['fresh', found.fresh],
        ['idle after work', found.worked],
      ] as const) {
        for (const what of ['heap', 'resident'] as const) {
          const bytes = cost[what]
          if (bytes > mostBytes)
            throw new Error(
              `crowd: ${what} of each of ${found.actors} actors on ${workers} workers, ${state}, expected at most ${mostBytes} bytes, got ${bytes}`,
            )
        }
      }
    }
    return crowds
  },
}
