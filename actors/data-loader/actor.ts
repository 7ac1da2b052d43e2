// Fills batches ahead of the ranks, in shared memory: row k * micro + i of a batch is sample i of micro-batch k. Whoever needs the order of
// a micro-batch's tokens has it from here, made while the ranks are at an earlier step.
import { type Behaviour, defineActor } from '../../runtime/actor/definition.js'
import { createSampler, type Sampler } from '../../runtime/data/sampler.js'
import { orderInputs, orderScratch, type SlotArrays, type SlotShape, slotArrays } from '../../runtime/data/slot.js'
import { TokenSource } from '../../runtime/data/source.js'
import type { DataLoaderArgs, DataLoaderProtocol } from './protocol.js'

interface LoaderState {
  readonly source: TokenSource
  readonly evaluation: TokenSource | null
  readonly sampler: Sampler
  readonly slots: readonly SlotArrays[]
  readonly batch: SlotShape
  /** Of `orderInputs`. */
  readonly scratch: Int32Array
}

const behaviour: Behaviour<DataLoaderProtocol, LoaderState, DataLoaderArgs> = {
  init: (_context, { source, evaluation, seed, shuffle, slots, batch }) => ({
    source: new TokenSource(source),
    evaluation: evaluation && new TokenSource(evaluation),
    sampler: createSampler({ samples: source.samples, seed, shuffle }),
    slots: slots.map((memory) => slotArrays(batch, memory)),
    batch,
    scratch: orderScratch(batch, source.vocabulary),
  }),
  receive: {
    fill(state, { slot, sample }) {
      const { source, sampler, batch, scratch } = state
      const arrays = state.slots[slot]!
      const indices = Array.from({ length: batch.rows }, (_, i) => sampler.sampleAt(sample + i))
      source.read(indices, arrays.inputs, arrays.targets)
      orderInputs(batch, arrays, scratch)
    },
    fillEvaluation(state, { slot, first, rows }) {
      const source = state.evaluation!
      const { inputs, targets } = state.slots[slot]!
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
