// Which rows each rank takes in each micro-step: micro-batch k = m * world + rank, whatever the numbers.
import test from 'ava'
import fc from 'fast-check'
import { microRuns } from '../../../actors/rank/state.js'

test('the micro-batches of all ranks are the batch, in order, however it is cut', (t) => {
  const size = fc.integer({ min: 1, max: 4 })
  fc.assert(
    fc.property(size, size, size, fc.nat(1000), (world, micro, accumulation, sample) => {
      const rows = world * micro * accumulation
      const batch = { rows, micro, accumulation, sequence: 8 }
      const order = { step: 1, slot: 0, scalars: {}, sample, profile: false, faults: [] }
      const runs = Array.from({ length: world }, (_, rank) => microRuns(batch, rank, world, order))
      const taken = Array.from({ length: accumulation }, (_, m) => runs.map((own) => own[m]!)).flat()
      t.deepEqual(
        taken.flatMap(({ row }) => Array.from({ length: micro }, (_, i) => row + i)),
        Array.from({ length: rows }, (_, i) => i),
      )
      t.true(taken.every((run) => run.sample === sample + run.row))
    }),
  )
})

test('one micro-step is the only one; of several the first replaces, the last updates', (t) => {
  const names = (accumulation: number): string[] => {
    const batch = { rows: accumulation, micro: 1, accumulation, sequence: 8 }
    const order = { step: 1, slot: 0, scalars: {}, sample: 0, profile: false, faults: [] }
    return microRuns(batch, 0, 1, order).map((run) => run.program)
  }
  t.deepEqual(names(1), ['only'])
  t.deepEqual(names(2), ['first', 'last'])
  t.deepEqual(names(4), ['first', 'middle', 'middle', 'last'])
})
