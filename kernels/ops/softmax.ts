// Softmax over the last dim.
import { expectFloat, expectType, type OpDefinition, required, streamCost } from './definition.js'

/** y = exp(x - max) / sum. */
export const softmax: OpDefinition = {
  name: 'softmax',
  opcode: 50,
  inputs: ['x'],
  outputs: ['y'],
  attributes: {},
  scalars: [],
  infer: (inputs) => {
    const x = required('softmax', inputs, 0, 'x')
    expectFloat('softmax', 'x', x)
    return [x]
  },
  gradient: (builder, call, [dy]) => [dy ? builder.emit('softmax_backward', [dy, call.outputs[0]!])[0]! : null],
  cost: (inputs, outputs) => streamCost(inputs, outputs, 10),
  inPlace: [[0, 0]],
}

/** dx = y * (dy - sum(dy * y)). */
export const softmaxBackward: OpDefinition = {
  name: 'softmax_backward',
  opcode: 51,
  inputs: ['dy', 'y'],
  outputs: ['dx'],
  attributes: {},
  scalars: [],
  infer: (inputs) => {
    const dy = required('softmax_backward', inputs, 0, 'dy')
    expectFloat('softmax_backward', 'dy', dy)
    expectType('softmax_backward', 'y', required('softmax_backward', inputs, 1, 'y'), dy)
    return [dy]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 4),
  inPlace: [[0, 0]],
}

export const softmaxes = [softmax, softmaxBackward]
