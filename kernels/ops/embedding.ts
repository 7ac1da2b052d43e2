// Rows of a table by index. The gradient adds rows in token order, so its bits do not depend on threads.
import {
  elements,
  expectDtype,
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

/** y[...] = weight[indices[...]]. An index outside the table is an error of the run. */
export const embedding: OpDefinition = {
  name: 'embedding',
  opcode: 80,
  inputs: ['weight', 'indices'],
  outputs: ['y'],
  attributes: {},
  scalars: [],
  infer: (inputs) => {
    const weight = required('embedding', inputs, 0, 'weight')
    const indices = required('embedding', inputs, 1, 'indices')
    expectFloat('embedding', 'weight', weight)
    expectDtype('embedding', 'indices', indices, 'i32')
    if (weight.shape.length !== 2) throw new OpError('embedding', 'shape of weight', 'two dims', showType(weight))
    return [{ shape: [...indices.shape, weight.shape[1]!], dtype: weight.dtype }]
  },
  gradient: (builder, call, [dy]) => [
    dy
      ? builder.emit('embedding_backward', [call.inputs[1]!, dy, null], {
          rows: builder.typeOf(call.inputs[0]!).shape[0]!,
        })[0]!
      : null,
    null,
  ],
  cost: (_inputs, outputs) => streamCost([], [...outputs, ...outputs], 0),
}

/**
 * dweight (+ base) with dweight[indices[i]] += dy[i], i in order, each addition rounded to dweight's dtype; without base it starts from
 * zeros. With `wide` 1 dweight (and base) is f32 whatever dy is. `order`, i32, has the positions 0, 1, ... sorted by index, those of
 * one index as they are: it says nothing new, but saves a kernel that needs it the sorting.
 */
export const embeddingBackward: OpDefinition = {
  name: 'embedding_backward',
  opcode: 81,
  inputs: ['indices', 'dy', 'base?', 'order?'],
  outputs: ['dweight'],
  attributes: { rows: 'int', wide: 'option' },
  scalars: [],
  infer: (inputs, attributes) => {
    const indices = required('embedding_backward', inputs, 0, 'indices')
    const dy = required('embedding_backward', inputs, 1, 'dy')
    const width = dy.shape[dy.shape.length - 1]!
    if (elements(indices.shape) * width !== elements(dy.shape)) {
      throw new OpError('embedding_backward', 'shape of dy', `[${indices.shape.join(', ')}, width]`, showType(dy))
    }
    expectDtype('embedding_backward', 'indices', indices, 'i32')
    expectFloat('embedding_backward', 'dy', dy)
    const dweight = { shape: [int(attributes, 'rows'), width], dtype: widened(dy.dtype, attributes) }
    if (inputs[2]) expectType('embedding_backward', 'base', inputs[2], dweight)
    const order = { shape: [elements(indices.shape)], dtype: 'i32' as const }
    if (inputs[3]) expectType('embedding_backward', 'order', inputs[3], order)
    return [dweight]
  },
  cost: (inputs, outputs) => streamCost([inputs[1]!, inputs[1]!], outputs, 0),
  inPlace: [[2, 0]],
}

/** 0, 1, 2, ... `count` - 1, as positions. */
export const arange: OpDefinition = {
  name: 'arange',
  opcode: 82,
  inputs: [],
  outputs: ['y'],
  attributes: { count: 'int' },
  scalars: [],
  infer: (_inputs, attributes) => [{ shape: [int(attributes, 'count')], dtype: 'i32' }],
  cost: (inputs, outputs) => streamCost(inputs, outputs, 0),
}

export const embeddings = [embedding, embeddingBackward, arange]
