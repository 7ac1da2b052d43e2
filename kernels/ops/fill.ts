// Constants and initial values. A unit is a run of parameters stored side by side and sharded together (see runtime/graph/partition).
// Ops that take `start`, `count` and `shards` address a unit: a rank that holds one of `shards` equal slices writes only its part.
import {
  type Attributes,
  elements,
  expectRanges,
  int,
  ints,
  type OpDefinition,
  OpError,
  option,
  required,
  statistic,
  streamCost,
  type TensorType,
} from './definition.js'
import { dtypeNumbers } from './elementwise.js'

/** A tensor full of `value`. */
export const fill: OpDefinition = {
  name: 'fill',
  opcode: 90,
  inputs: [],
  outputs: ['y'],
  attributes: { value: 'float', dtype: 'int', shape: 'ints' },
  scalars: [],
  infer: (_inputs, attributes) => [
    { shape: ints(attributes, 'shape'), dtype: dtypeNumbers[int(attributes, 'dtype')]! },
  ],
  cost: (inputs, outputs) => streamCost(inputs, outputs, 0),
}

/**
 * Memory for the gradients of one bucket, [length]. Zeroes the `gaps` ((start, count) pairs of elements) that pad tensors to chunk
 * borders; everything else is written by the ops whose outputs the plan places there. `dtype` is a number as in `fill`, 0 (f32) if left out.
 */
export const bucket: OpDefinition = {
  name: 'bucket',
  opcode: 93,
  inputs: [],
  outputs: ['memory'],
  attributes: { length: 'int', dtype: 'option', gaps: 'ints' },
  scalars: [],
  effect: true,
  infer: (_inputs, attributes) => {
    expectRanges('bucket', 'gaps', ints(attributes, 'gaps'), int(attributes, 'length'))
    return [{ shape: [int(attributes, 'length')], dtype: dtypeNumbers[option(attributes, 'dtype')]! }]
  },
  cost: () => ({ flops: 0, bytes: 0 }),
}

/** The unit, after a check that elements `start` to `start + count` lie within it. */
function within(op: string, inputs: readonly (TensorType | null)[], attributes: Attributes): TensorType[] {
  const unit = required(op, inputs, 0, 'unit')
  if (unit.dtype !== statistic(unit.dtype)) throw new OpError(op, 'dtype of unit', 'f32', unit.dtype)
  const range = [int(attributes, 'start'), int(attributes, 'count')]
  expectRanges(op, 'elements', range, elements(unit.shape) * int(attributes, 'shards'))
  return [unit]
}

/** Sets elements `start` to `start + count` of a unit to `value`. */
export const initializeConstant: OpDefinition = {
  name: 'initialize_constant',
  opcode: 91,
  inputs: ['unit'],
  outputs: ['unit'],
  attributes: { start: 'int', count: 'int', shards: 'int', value: 'float' },
  scalars: [],
  effect: true,
  aliases: [[0, 0]],
  infer: (inputs, attributes) => within('initialize_constant', inputs, attributes),
  cost: (_inputs, _outputs, attributes) => ({ flops: 0, bytes: 4 * int(attributes, 'count') }),
}

/**
 * Fills elements `start` to `start + count` of a unit with normal draws. Element i of the parameter takes draw i % 4 of
 * Philox4x32-10 with key = (seed low ^ key_low, seed high ^ key_high) and counter (i / 4 low, i / 4 high, 0, 0x696e6974):
 * words w0..w3 give u = (w + 0.5) / 2^32 and by Box-Muller, in float64, r(u0) cos(2 pi u1), r(u0) sin(2 pi u1),
 * r(u2) cos(2 pi u3), r(u2) sin(2 pi u3) with r(u) = sqrt(-2 ln u).
 */
export const initializeNormal: OpDefinition = {
  name: 'initialize_normal',
  opcode: 92,
  inputs: ['unit'],
  outputs: ['unit'],
  attributes: {
    start: 'int',
    count: 'int',
    shards: 'int',
    mean: 'float',
    std: 'float',
    key_low: 'int',
    key_high: 'int',
  },
  scalars: ['seed'],
  effect: true,
  aliases: [[0, 0]],
  infer: (inputs, attributes) => within('initialize_normal', inputs, attributes),
  cost: (_inputs, _outputs, attributes) => ({
    flops: 40 * int(attributes, 'count'),
    bytes: 4 * int(attributes, 'count'),
  }),
}

export const fills = [fill, bucket, initializeConstant, initializeNormal]
