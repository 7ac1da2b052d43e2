// Fills batches ahead of the ranks, in shared memory: row k * micro + i of a batch is sample i of micro-batch k.
import { type Behaviour, defineActor } from '../../runtime/actor/definition.js'
import { createSampler, type Sampler } from '../../runtime/data/sampler.js'
import { TokenSource } from '../../runtime/data/source.js'
import type { DataLoaderArgs, DataLoaderProtocol } from './protocol.js'

interface LoaderState {
  readonly source: TokenSource
  readonly evaluation: TokenSource | null
  readonly sampler: Sampler
  readonly slots: readonly SharedArrayBuffer[]
  readonly rows: number
}

function arrays({ slots, rows }: LoaderState, slot: number, seq: number): { inputs: Int32Array; targets: Int32Array } {
  const length = rows * seq
  const batch = new Int32Array(slots[slot]!)
  return { inputs: batch.subarray(0, length), targets: batch.subarray(length, 2 * length) }
}

const behaviour: Behaviour<DataLoaderProtocol, LoaderState, DataLoaderArgs> = {
  init: (_context, { source, evaluation, seed, shuffle, slots, rows }) => ({
    source: new TokenSource(source),
    evaluation: evaluation && new TokenSource(evaluation),
    sampler: createSampler({ samples: source.samples, seed, shuffle }),
    slots,
    rows,
  }),
  receive: {
    fill(state, { slot, sample }) {
      const { inputs, targets } = arrays(state, slot, state.source.seq)
      const indices = Array.from({ length: state.rows }, (_, i) => state.sampler.sampleAt(sample + i))
      state.source.read(indices, inputs, targets)
    },
    fillEvaluation(state, { slot, first, rows }) {
      const source = state.evaluation!
      const { inputs, targets } = arrays(state, slot, source.seq)
      const count = Math.max(0, Math.min(rows, source.samples - first))
      inputs.fill(0)
      targets.fill(-1)
      source.read(
        Array.from({ length: count }, (_, i) => first + i),
        inputs,
        targets,
      )
      return count * source.seq
    },
  },
}

export const dataLoader = defineActor(import.meta.url, 'dataLoader', behaviour)
