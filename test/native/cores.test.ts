// Native threads stay on the CPUs that they are given: seen in what the kernel says of each thread of this process.
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import test from 'ava'
import {
  allowedCores,
  coresInOrder,
  coresOfRanks,
  createGroup,
  DeviceError,
  openRank,
  parseCores,
} from '../../native/index.js'
import { arenaSizes, devices } from './support.js'

test('lists of CPUs as the kernel writes them', (t) => {
  t.deepEqual(parseCores('0\n'), [0])
  t.deepEqual(parseCores('0-2,8,10-11\n'), [0, 1, 2, 8, 10, 11])
  t.deepEqual(parseCores('\n'), [])
})

test('one CPU of each physical core comes before a second of any', (t) => {
  const neighbours = (core: number): number[] => [core & ~1, core | 1]
  t.deepEqual(coresInOrder([0, 1, 2, 3, 4, 5], neighbours), [0, 2, 4, 1, 3, 5])
  t.deepEqual(coresInOrder([1, 2, 3], neighbours), [1, 2, 3], 'the sibling of 1 is not ours')
  const halves = (core: number): number[] => [core % 4, (core % 4) + 4]
  t.deepEqual(coresInOrder([7, 6, 5, 4, 3, 2, 1, 0], halves), [0, 1, 2, 3, 4, 5, 6, 7])
})

test('each thread of each rank has a CPU, or none has', (t) => {
  t.deepEqual(coresOfRanks([4, 5, 6, 7, 8], 2, 2), [
    [4, 5],
    [6, 7],
  ])
  t.is(coresOfRanks([4, 5, 6], 2, 2), null)
})

/** What each thread of this process may run on. */
function affinities(): Map<string, string> {
  const found = new Map<string, string>()
  for (const task of readdirSync('/proc/self/task')) {
    try {
      const status = readFileSync(`/proc/self/task/${task}/status`, 'utf8')
      found.set(task, /^Cpus_allowed_list:\s*(.*)$/m.exec(status)![1]!)
    } catch {
      // It has ended.
    }
  }
  return found
}

if (devices.includes('cpu')) {
  test.serial('threads of a rank stay on their CPUs, and on any without', async (t) => {
    const allowed = allowedCores()
    const threads = Math.min(2, allowed.length)
    const cores = allowed.slice(0, threads)
    const whole = affinities().get(String(process.pid))!
    for (const bound of [true, false]) {
      const before = affinities()
      const group = createGroup({ device: 'cpu', ranks: 1, arenas: arenaSizes({}) })
      const rank = openRank(group.token, { rank: 0, threads, ...(bound && { cores }) })
      const expected = bound ? cores.map(String) : cores.map(() => whole)
      const found = (): string[] => [...affinities()].filter(([task]) => !before.has(task)).map(([, list]) => list)
      // A thread binds itself when it first runs.
      for (let i = 0; i < 500 && found().toSorted().join() !== expected.toSorted().join(); i++) await setTimeout(10)
      t.deepEqual(found().toSorted(), expected.toSorted())
      await rank.close()
      await group.close()
    }
  })

  test('CPUs that are not ours, or not one for each thread, are refused', (t) => {
    const group = createGroup({ device: 'cpu', ranks: 1, arenas: arenaSizes({}) })
    const refused = (cores: number[], message: RegExp): void => {
      t.throws(() => openRank(group.token, { rank: 0, threads: 1, cores }), { instanceOf: DeviceError, message })
    }
    refused([1023], /^rank: core, expected one that this process may use, got 1023$/)
    refused([4096], /^rank: core, expected one that this process may use, got 4096$/)
    refused([-1], /got -1$/)
    refused([], /^device: cores, expected one for each of 1 threads, got 0$/)
    return group.close()
  })
}
