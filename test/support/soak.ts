// What long runs measure: memory after everything that can be freed is, threads and handles of the process, and how fast a figure grows.
import { readdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

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

/** Slope of the line of least squares through points, in units of y for each of x. */
export function slope(points: readonly { readonly x: number; readonly y: number }[]): number {
  const mean = (of: (point: { x: number; y: number }) => number): number =>
    points.reduce((sum, point) => sum + of(point), 0) / points.length
  const x0 = mean(({ x }) => x)
  const y0 = mean(({ y }) => y)
  const across = mean(({ x }) => (x - x0) ** 2)
  return across === 0 ? 0 : mean(({ x, y }) => (x - x0) * (y - y0)) / across
}
