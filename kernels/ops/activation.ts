// Pointwise non-linearities. `kind` selects one; the backward op reads the input of the forward op.
import { expectFloat, expectType, int, type OpDefinition, OpError, required, streamCost } from './definition.js'

/** Activations by the number that the `kind` attribute holds. */
export const activationKinds = ['gelu_tanh', 'gelu_erf', 'relu', 'silu', 'tanh'] as const
export type ActivationKind = (typeof activationKinds)[number]

export function expectKind(op: string, kind: number): void {
  if (!activationKinds[kind]) throw new OpError(op, 'kind', `0 to ${activationKinds.length - 1}`, String(kind))
}

/**
 * `gelu_tanh`: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); `gelu_erf`: x/2 (1 + erf(x / sqrt 2)) (arXiv 1606.08415);
 * `relu`, `silu` (x sigmoid(x)), `tanh`.
 */
export const activation: OpDefinition = {
  name: 'activation',
  opcode: 10,
  inputs: ['x'],
  outputs: ['y'],
  attributes: { kind: 'int' },
  scalars: [],
  infer: (inputs, attributes) => {
    const x = required('activation', inputs, 0, 'x')
    expectFloat('activation', 'x', x)
    expectKind('activation', int(attributes, 'kind'))
    return [x]
  },
  gradient: (builder, call, [dy]) => [
    dy ? builder.emit('activation_backward', [dy, call.inputs[0]!], call.attributes)[0]! : null,
  ],
  cost: (inputs, outputs) => streamCost(inputs, outputs, 12),
  inPlace: [[0, 0]],
}

/** dx = dy * f'(x). */
export const activationBackward: OpDefinition = {
  name: 'activation_backward',
  opcode: 11,
  inputs: ['dy', 'x'],
  outputs: ['dx'],
  attributes: { kind: 'int' },
  scalars: [],
  infer: (inputs, attributes) => {
    const dy = required('activation_backward', inputs, 0, 'dy')
    expectFloat('activation_backward', 'dy', dy)
    expectType('activation_backward', 'x', required('activation_backward', inputs, 1, 'x'), dy)
    expectKind('activation_backward', int(attributes, 'kind'))
    return [dy]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 20),
  inPlace: [
    [0, 0],
    [1, 0],
  ],
}

export const activations = [activation, activationBackward]
