// What long runs measure: memory after everything that can be freed is, threads and handles of the process, whether the
// machine had time for it, and how fast a figure grows.
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { defineActor } from '../../transports/index.js'

export const mebibyte = 2 ** 20

/** Frees what nothing holds on this thread, what finalizers let go of included. */
export async function collect(): Promise<void> {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  for (let round = 0; round < 4; round++) {
    gc()
    await sleep(25)
  }
}

/** Of this thread: what its heap holds, and the room of the young generation, which does not grow with what lives. */
export const ownMemory = () => ({
  heap: process.memoryUsage().heapUsed,
  young: getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space')!.physical_space_size,
})

/** Frees what nothing holds on its thread, and says what is left. */
export const sweeper = defineActor(import.meta.url, 'sweeper', {
  init: () => null,
  receive: {
    async memory(): Promise<{ heap: number; young: number }> {
      await collect()
      return ownMemory()
    },
  },
})

/** What the process has, of what a leak would add to. */
export interface Census {
  readonly threads: number
  readonly handles: number
  readonly rss: number
  readonly heap: number
}

export function census(): Census {
  const { rss, heapUsed, external } = process.memoryUsage()
  return {
    threads: readdirSync('/proc/self/task').length,
    handles: process.getActiveResourcesInfo().length,
    rss,
    heap: heapUsed + external,
  }
}

/** Milliseconds that threads of this process were ready to run and waited for a processor, since it began. */
export function waited(): number {
  let nanoseconds = 0
  for (const task of readdirSync('/proc/self/task')) {
    try {
      nanoseconds += Number(readFileSync(`/proc/self/task/${task}/schedstat`, 'utf8').split(' ')[1])
    } catch {
      // It has ended meanwhile.
    }
  }
  return nanoseconds / 1e6
}

/** How fast y grows with x: the median of the slopes between any two points (Theil and Sen), for one odd point shall not decide. */
export function slope(points: readonly { readonly x: number; readonly y: number }[]): number {
  const slopes = points.flatMap((a, i) => points.slice(i + 1).map((b) => (b.y - a.y) / (b.x - a.x)))
  slopes.sort((a, b) => a - b)
  return slopes[Math.floor(slopes.length / 2)] ?? 0
}
