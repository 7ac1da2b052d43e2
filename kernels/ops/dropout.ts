// Dropout whose mask is a function of (seed, op, step, global sample, element): the same for every rank count and recomputable.
import { expectFloat, expectType, type OpDefinition, required, streamCost } from './definition.js'

/**
 * y = x * factor where kept, 0 where dropped (+ residual): product and sum each rounded to f32 (f64 in f64), the result to y's dtype;
 * factor = 1 / (1 - p) rounded from float64.
 * The first dim of x is the batch. Element e of its row r is dropped where word e % 4 of Philox4x32-10 with
 * key = (seed low, seed high) and counter = (op_id, step, sample + r, e / 4) is below floor(p * 2^32). Its gradient is itself.
 */
export const dropout: OpDefinition = {
  name: 'dropout',
  opcode: 70,
  inputs: ['x', 'residual?'],
  outputs: ['y'],
  attributes: { p: 'float', op_id: 'int' },
  scalars: ['seed', 'step', 'sample'],
  infer: (inputs) => {
    const x = required('dropout', inputs, 0, 'x')
    expectFloat('dropout', 'x', x)
    if (inputs[1]) expectType('dropout', 'residual', inputs[1], x)
    return [x]
  },
  gradient: (builder, call, [dy]) => [
    dy ? builder.emit('dropout', [dy, null], call.attributes)[0]! : null,
    call.inputs[1] ? (dy ?? null) : null,
  ],
  cost: (inputs, outputs) => streamCost(inputs, outputs, 3),
  inPlace: [
    [0, 0],
    [1, 0],
  ],
}

export const dropouts = [dropout]
