// The CPUs that this process may use, and which of them each rank's native threads have for themselves. Linux tells both as text.
import { readFileSync } from 'node:fs'

/** `0-2,8` as numbers. */
export const parseCores = (list: string): number[] =>
  list
    .trim()
    .split(',')
    .filter(Boolean)
    .flatMap((range) => {
      const [first, last = first] = range.split('-').map(Number) as [number, number?]
      return Array.from({ length: last - first + 1 }, (_, i) => first + i)
    })

/** CPUs that share one physical core, as the kernel lists them; the CPU alone where it does not. */
function siblingsOf(core: number): number[] {
  try {
    return parseCores(readFileSync(`/sys/devices/system/cpu/cpu${core}/topology/thread_siblings_list`, 'utf8'))
  } catch {
    return [core]
  }
}

/** CPUs in the order in which threads should take them: one of each physical core before a second of any. */
export function coresInOrder(allowed: readonly number[], siblings: (core: number) => readonly number[]): number[] {
  const place = (core: number): number =>
    siblings(core).filter((other) => other < core && allowed.includes(other)).length
  return allowed.toSorted((a, b) => place(a) - place(b) || a - b)
}

/** CPUs that threads of this process may use (`Cpus_allowed_list`), in the order of {@link coresInOrder}. */
export function allowedCores(): number[] {
  const status = readFileSync('/proc/self/status', 'utf8')
  const [, list = ''] = /^Cpus_allowed_list:\s*(.*)$/m.exec(status) ?? []
  return coresInOrder(parseCores(list), siblingsOf)
}

/** A CPU for each thread of each rank, by rank; null where there are fewer CPUs than threads. */
export function coresOfRanks(cores: readonly number[], ranks: number, threads: number): number[][] | null {
  if (ranks * threads > cores.length) return null
  return Array.from({ length: ranks }, (_, rank) => cores.slice(rank * threads, (rank + 1) * threads))
}
