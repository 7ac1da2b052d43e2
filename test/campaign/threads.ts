// Systems with workers started and stopped in turn, a thousand threads in all. Each does some work, some lose a worker on the way; then
// threads and handles are as many as before, and neither heap nor resident memory has grown. It runs in a process of its own in which
// the C allocator gives back what is freed; as usual it holds up to a hundred megabytes of ended threads, now more, now less.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isMainThread } from 'node:worker_threads'
import { ActorSystem, defineActor } from '../../transports/index.js'
import { type Census, census, collect, mebibyte, slope } from '../support/soak.js'
import { type Campaign, Draws } from './campaign.js'

const most = 1000
/** Bytes for each thread after the first fifth; code that gets optimised has some of it. */
const mostGrowth = { heap: 2048, rss: 8192 }

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
    const words = 'x'.repeat(20_000)
    const asks = refs.map((ref) => ref.ask({ type: 'take', values: shared, text: words }))
    for (const bytes of await Promise.all(asks))
      if (bytes % (shared.byteLength + words.length) !== 0) throw new Error(`threads: bytes taken, got ${bytes}`)
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
  /** Of heap and resident memory for each thread, in bytes. */
  readonly growth: { readonly heap: number; readonly rss: number }
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
  const later = counts.slice(Math.floor(counts.length / 5))
  const growth = (of: 'heap' | 'rss'): number => Math.round(slope(later.map((each) => ({ x: each.x, y: each[of] }))))
  return { threads: started, systems, before, after, growth: { heap: growth('heap'), rss: growth('rss') } }
}

const file = fileURLToPath(import.meta.url)

export const campaign: Campaign = {
  name: 'threads',
  async run({ seed, note }) {
    const child = spawn(process.execPath, [file, String(seed)], {
      env: { ...process.env, MALLOC_ARENA_MAX: '1', MALLOC_MMAP_THRESHOLD_: '65536', MALLOC_TRIM_THRESHOLD_: '131072' },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    createInterface(child.stderr).on('line', note)
    const [output] = await Promise.all([text(child.stdout), once(child, 'close')])
    if (child.exitCode !== 0) throw new Error('threads: the process, expected exit code 0, got an error, printed above')
    const found: ThreadsFound = JSON.parse(output)
    for (const what of ['heap', 'rss'] as const) {
      const [got, most] = [found.growth[what], mostGrowth[what]]
      if (got > most) throw new Error(`threads: growth of ${what} for each, expected at most ${most} bytes, got ${got}`)
    }
    return { ...found }
  },
}

if (isMainThread && process.argv[1] === file) {
  const note = (line: string): void => {
    process.stderr.write(`${line}\n`)
  }
  process.stdout.write(JSON.stringify(await threads(Number(process.argv[2]), most, note)))
}
