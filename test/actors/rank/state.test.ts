// Which rows each rank takes in each micro-step: micro-batch k = m * world + rank, whatever the numbers; and where in a program an
// abort leaves the state alone.
import test from 'ava'
import fc from 'fast-check'
import { leftAlone, microRuns } from '../../../actors/rank/state.js'
import type { ArenaName, Program } from '../../../kernels/abi/program.js'

test('the micro-batches of all ranks are the batch, in order, however it is cut', (t) => {
  const size = fc.integer({ min: 1, max: 4 })
  fc.assert(
    fc.property(size, size, size, fc.nat(1000), (world, micro, accumulation, sample) => {
      const rows = world * micro * accumulation
      const batch = { rows, micro, accumulation, sequence: 8, ordered: false }
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
    const batch = { rows: accumulation, micro: 1, accumulation, sequence: 8, ordered: false }
    const order = { step: 1, slot: 0, scalars: {}, sample: 0, profile: false, faults: [] }
    return microRuns(batch, 0, 1, order).map((run) => run.program)
  }
  t.deepEqual(names(1), ['only'])
  t.deepEqual(names(2), ['first', 'last'])
  t.deepEqual(names(4), ['first', 'middle', 'middle', 'last'])
})

test('an abort up to the first write of parameters or states leaves them alone; inside a collective that writes them it may not', (t) => {
  /** A program whose instructions write one tensor each. */
  const program = (...writes: readonly [op: string, arena: ArenaName][]): Program => ({
    name: 'test',
    ranks: 2,
    scalars: [],
    tensors: writes.map(([, arena]) => ({ arena, byteOffset: 0, dtype: 'f32', shape: [1] })),
    instructions: writes.map(([op], i) => {
      const debug = { phase: 'update', flops: 0, bytes: 0 }
      return { op, inputs: [], outputs: [null, i], scalars: [], attributes: {}, workspace: null, debug }
    }),
    bindings: {},
    arenas: {} as Program['arenas'],
  })
  const step = program(['all_gather', 'gradients'], ['clip_control', 'io'], ['adam', 'optimizer'], ['copy', 'io'])
  t.deepEqual(
    [0, 1, 2, 3].map((instruction) => leftAlone(step, instruction)),
    [true, true, true, false],
  )
  const gathering = program(['fill', 'activations'], ['all_gather', 'parameters'])
  t.deepEqual([leftAlone(gathering, 0), leftAlone(gathering, 1)], [true, false])
  t.true(leftAlone(program(['fill', 'activations'], ['all_gather', 'gathered']), 1))
})
