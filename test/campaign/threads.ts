// Systems with workers started and stopped in turn, a thousand threads in all. Each does some work, some lose a worker on the way; then
// threads and handles are as many as before, the heap has not grown and resident memory comes down to where it came down to at first.
// Between, the allocator holds up to a hundred megabytes of ended threads' memory, more or less of it: only its floor says something.
import { setTimeout as sleep } from 'node:timers/promises'
import { ActorSystem, defineActor } from '../../transports/index.js'
import { type Census, census, collect, mebibyte, slope } from '../support/soak.js'
import { type Campaign, Draws } from './campaign.js'

const most = 1000
/** Growth of the heap for each thread, by the line of least squares, in bytes; code that gets optimised has some of it. */
export const mostHeap = 2048
/** Growth of the lowest resident memory from the first third of the time to the last, for each thread between. */
const mostFloor = 32_768

export const visitor = defineActor(import.meta.url, 'visitor', {
  init: () => ({ bytes: 0 }),
  receive: {
    take(state, message: { values: Float64Array; text: string }) {
      state.bytes += message.values.byteLength + message.text.length
      return state.bytes
    },
    exit(): void {
      process.exit(1)
    },
  },
})

const shared = new Float64Array(new SharedArrayBuffer(8192))

/** One system: actors on each worker work, and where `loses`, one worker ends and is replaced. Returns its number of threads. */
async function visit(workers: number, loses: boolean): Promise<number> {
  const system = await ActorSystem.start({ workers })
  const refs = await Promise.all(
    Array.from({ length: workers }, (_, worker) => system.spawn(visitor, undefined, { worker })),
  )
  const work = async () => {
    const text = 'x'.repeat(20_000)
    const asks = refs.map((ref) => ref.ask({ type: 'take', values: shared, text }))
    for (const bytes of await Promise.all(asks))
      if (bytes % (shared.byteLength + text.length) !== 0) throw new Error(`threads: bytes taken, got ${bytes}`)
  }
  await work()
  if (loses) {
    await refs[0]!.ask({ type: 'exit' }).catch(() => {})
    await refs[0]!.ready()
    await work()
  }
  await system.stop()
  return workers + (loses ? 1 : 0)
}

/** Waits until threads that were told to end have; there is no other way to see it than to look. */
async function calm(threads: number): Promise<Census> {
  await collect()
  for (let looks = 0; census().threads > threads && looks < 100; looks++) await sleep(20)
  return census()
}

export interface ThreadsFound {
  readonly threads: number
  readonly systems: number
  readonly before: Census
  readonly after: Census
  /** Growth for each thread, in bytes. */
  readonly heapGrowth: number
  readonly floorGrowth: number
}

/** Starts and stops systems until they have had `count` threads. Rejects where a thread or handle is left. */
export async function threads(
  seed: number,
  count: number,
  note: (text: string) => void = () => {},
): Promise<ThreadsFound> {
  const draws = new Draws(seed)
  // The first makes what stays: piscina, the threads of libuv, code.
  for (let n = 0; n < 3; n++) await visit(2, n === 1)
  const before = await calm(0)
  const counts: (Census & { x: number })[] = []
  let [started, systems] = [0, 0]
  let after = before
  while (started < count) {
    started += await visit(draws.pick([1, 2]), draws.next() < 0.2)
    systems += 1
    if (systems % Math.max(Math.floor(count / 100), 2) !== 0 && started < count) continue
    after = await calm(before.threads)
    if (after.threads !== before.threads)
      throw new Error(`threads: after ${started}, expected ${before.threads} as before, got ${after.threads}`)
    if (after.handles !== before.handles)
      throw new Error(
        `threads: handles after ${started}, expected ${before.handles} as before, got ${after.handles}: ${process.getActiveResourcesInfo().join(', ')}`,
      )
    counts.push({ ...after, x: started })
    note(
      `${started} threads: resident ${(after.rss / mebibyte).toFixed(1)} MiB, heap ${(after.heap / mebibyte).toFixed(1)} MiB`,
    )
  }
  const third = Math.ceil(counts.length / 3)
  const floor = (some: readonly Census[]): number => Math.min(...some.map(({ rss }) => rss))
  const floorGrowth = (floor(counts.slice(-third)) - floor(counts.slice(0, third))) / ((started * 2) / 3)
  const heapGrowth = slope(counts.slice(Math.floor(third / 2)).map(({ x, heap }) => ({ x, y: heap })))
  const [heap, resident] = [Math.round(heapGrowth), Math.round(floorGrowth)]
  return { threads: started, systems, before, after, heapGrowth: heap, floorGrowth: resident }
}

export const campaign: Campaign = {
  name: 'threads',
  async run({ seed, note }) {
    const found = await threads(seed, most, note)
    for (const [what, got, most] of [
      ['heap', found.heapGrowth, mostHeap],
      ['lowest resident memory', found.floorGrowth, mostFloor],
    ] as const) {
      if (got > most)
        throw new Error(`threads: growth of the ${what} for each, expected at most ${most} bytes, got ${got}`)
    }
    return { ...found }
  },
}
