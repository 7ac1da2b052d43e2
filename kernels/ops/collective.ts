// Collectives between the ranks of one communicator. Memory is symmetric: an operand has the same arena and offset on every rank.
// Sums are taken in rank order, so their bits depend on nothing else. L is the length of one rank's slice, N the ranks.
import {
  elements,
  expectFloat,
  expectType,
  int,
  type OpDefinition,
  OpError,
  required,
  showType,
  streamCost,
  widened,
} from './definition.js'

/**
 * shard_L = (base_L +) source of rank 0 + source of rank 1 + ..., each source's slice of this rank, added left to right.
 * With `whole` 1 the output (and base) are [N * L], of which only this rank's slice is touched; it may then be the source itself.
 * Each addition is rounded to the dtype of shard and base: the source's, or with `wide` 1 f32 for sources of 16 bits.
 */
export const reduceScatter: OpDefinition = {
  name: 'reduce_scatter',
  opcode: 110,
  inputs: ['source', 'base?'],
  outputs: ['shard'],
  attributes: { ranks: 'int', whole: 'int', wide: 'option' },
  scalars: [],
  effect: true,
  infer: (inputs, attributes) => {
    const source = required('reduce_scatter', inputs, 0, 'source')
    const ranks = int(attributes, 'ranks')
    const length = elements(source.shape)
    if (length % ranks !== 0) throw new OpError('reduce_scatter', 'length', `a multiple of ${ranks}`, showType(source))
    const shape = [int(attributes, 'whole') ? length : length / ranks]
    const shard = { shape, dtype: widened(source.dtype, attributes) }
    expectFloat('reduce_scatter', 'source', source)
    if (inputs[1]) expectType('reduce_scatter', 'base', inputs[1], shard)
    return [shard]
  },
  inPlace: [
    [1, 0],
    [0, 0],
  ],
  cost: (inputs, outputs) => ({ ...streamCost(inputs, outputs), flops: elements(inputs[0]!.shape) }),
}

/**
 * full = the shards of ranks 0, 1, ... side by side. With `whole` 1 the input is [N * L] and this rank's slice of it is the shard;
 * it may then be the output itself.
 */
export const allGather: OpDefinition = {
  name: 'all_gather',
  opcode: 111,
  inputs: ['shard'],
  outputs: ['full'],
  attributes: { ranks: 'int', whole: 'int' },
  scalars: [],
  effect: true,
  infer: (inputs, attributes) => {
    const shard = required('all_gather', inputs, 0, 'shard')
    const length = elements(shard.shape) * (int(attributes, 'whole') ? 1 : int(attributes, 'ranks'))
    return [{ shape: [length], dtype: shard.dtype }]
  },
  inPlace: [[0, 0]],
  cost: (inputs, outputs) => streamCost(inputs, outputs, 0),
}

/** y = x of rank 0 + x of rank 1 + ..., on every rank: summed in f32 (f64 in f64) and rounded once. */
export const allReduce: OpDefinition = {
  name: 'all_reduce',
  opcode: 112,
  inputs: ['x'],
  outputs: ['y'],
  attributes: { ranks: 'int' },
  scalars: [],
  effect: true,
  infer: (inputs) => {
    const x = required('all_reduce', inputs, 0, 'x')
    expectFloat('all_reduce', 'x', x)
    return [x]
  },
  cost: (inputs, outputs, attributes) => ({
    ...streamCost(inputs, outputs),
    flops: elements(inputs[0]!.shape) * int(attributes, 'ranks'),
  }),
}

/** y = x of rank `root`. */
export const broadcast: OpDefinition = {
  name: 'broadcast',
  opcode: 113,
  inputs: ['x'],
  outputs: ['y'],
  attributes: { ranks: 'int', root: 'int' },
  scalars: [],
  effect: true,
  infer: (inputs) => [required('broadcast', inputs, 0, 'x')],
  cost: (inputs, outputs) => streamCost(inputs, outputs, 0),
}

/** Slice j of y = slice `rank` of x on rank j. */
export const allToAll: OpDefinition = {
  name: 'all_to_all',
  opcode: 114,
  inputs: ['x'],
  outputs: ['y'],
  attributes: { ranks: 'int' },
  scalars: [],
  effect: true,
  infer: (inputs, attributes) => {
    const x = required('all_to_all', inputs, 0, 'x')
    const ranks = int(attributes, 'ranks')
    if (elements(x.shape) % ranks !== 0)
      throw new OpError('all_to_all', 'length', `a multiple of ${ranks}`, showType(x))
    return [x]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 0),
}

/** Every rank waits for every other. */
export const barrier: OpDefinition = {
  name: 'barrier',
  opcode: 115,
  inputs: [],
  outputs: [],
  attributes: { ranks: 'int' },
  scalars: [],
  effect: true,
  infer: () => [],
  cost: () => ({ flops: 0, bytes: 0 }),
}

export const collectives = [reduceScatter, allGather, allReduce, broadcast, allToAll, barrier]
