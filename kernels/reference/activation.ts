// Pointwise non-linearities and their derivatives, by closed formula.
import { type ActivationKind, activationKinds } from '../ops/activation.js'
import { type Attributes, int } from '../ops/definition.js'
import type { ReferenceKernel } from './kernel.js'
import { load, store } from './storage.js'

/** A function and its derivative. */
interface Pointwise {
  readonly value: (x: number) => number
  readonly slope: (x: number) => number
}

/** erf by its series of positive terms, 2/sqrt(pi) e^(-x^2) sum of 2^n x^(2n+1) / (2n+1)!! (Abramowitz and Stegun 7.1.6). */
export function erf(x: number): number {
  const magnitude = Math.abs(x)
  if (!(magnitude < 6)) return Number.isNaN(x) ? x : Math.sign(x)
  let term = magnitude
  let sum = term
  for (let n = 1; term > sum * 2 ** -54; n++) {
    term *= (2 * magnitude * magnitude) / (2 * n + 1)
    sum += term
  }
  return Math.sign(x) * (2 / Math.sqrt(Math.PI)) * Math.exp(-magnitude * magnitude) * sum
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
const root = Math.sqrt(2 / Math.PI)
const inner = (x: number): number => root * (x + 0.044715 * x ** 3)

const functions: Readonly<Record<ActivationKind, Pointwise>> = {
  gelu_tanh: {
    value: (x) => (x / 2) * (1 + Math.tanh(inner(x))),
    slope: (x) => {
      const t = Math.tanh(inner(x))
      return (1 + t) / 2 + (x / 2) * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x)
    },
  },
  gelu_erf: {
    value: (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
    slope: (x) => (1 + erf(x / Math.SQRT2)) / 2 + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI),
  },
  relu: { value: (x) => (x < 0 ? 0 : x), slope: (x) => (x > 0 ? 1 : 0) },
  silu: {
    value: (x) => x * sigmoid(x),
    slope: (x) => sigmoid(x) * (1 + x * sigmoid(-x)),
  },
  tanh: { value: Math.tanh, slope: (x) => 1 - Math.tanh(x) ** 2 },
}

/** The function that the attribute `kind` selects. */
export const activationOf = (attributes: Attributes): Pointwise => functions[activationKinds[int(attributes, 'kind')]!]

export const activations: Readonly<Record<string, ReferenceKernel>> = {
  activation: ({ inputs, outputs, attributes }) =>
    store(outputs[0], load(inputs[0]!).map(activationOf(attributes).value)),
  activation_backward: ({ inputs, outputs, attributes }) => {
    const [dy, x] = [load(inputs[0]!), load(inputs[1]!)]
    const { slope } = activationOf(attributes)
    store(
      outputs[0],
      dy.map((g, i) => g * slope(x[i]!)),
    )
  },
}
