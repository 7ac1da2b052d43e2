// Linear layers. Legend: M rows of x, K input features, N output features; weight_NK, or weight_KN where `transposed`.
import { type Attributes, int, lastDim, rowsOf } from '../ops/definition.js'
import { activationOf } from './activation.js'
import type { ReferenceCall, ReferenceKernel, ReferenceTensor } from './kernel.js'
import { multiply, sumOfRows, transpose } from './matrix.js'
import { load, rounding, store } from './storage.js'

/** The weight as K x N. */
export function weightKN(weight: ReferenceTensor, attributes: Attributes): Float64Array {
  const [rows, columns] = weight.shape as [number, number]
  return int(attributes, 'transposed') ? load(weight) : transpose(load(weight), rows, columns)
}

/** x W (+ bias) of a call whose operands begin with x, weight, bias. */
function product({ inputs, attributes }: ReferenceCall): Float64Array {
  const [x, weight, bias] = inputs
  const n = weight!.shape[int(attributes, 'transposed') ? 1 : 0]!
  const y = multiply(load(x!), weightKN(weight!, attributes), rowsOf(x!.shape), lastDim(x!.shape), n)
  if (!bias) return y
  const b = load(bias)
  return y.map((value, i) => value + b[i % n]!)
}

const linear: ReferenceKernel = (call) => {
  const y = product(call)
  const residual = call.inputs[3] ? load(call.inputs[3]) : null
  store(call.outputs[0], residual ? y.map((value, i) => value + residual[i]!) : y)
}

/** dy W^T of a call whose operands begin with dy, weight. */
function inputGradient({ inputs, attributes }: ReferenceCall): Float64Array {
  const [dy, weight] = inputs
  const n = lastDim(dy!.shape)
  const k = weight!.shape[int(attributes, 'transposed') ? 0 : 1]!
  const weightNK = transpose(weightKN(weight!, attributes), k, n)
  return multiply(load(dy!), weightNK, rowsOf(dy!.shape), n, k)
}

const linearWeightGradient: ReferenceKernel = ({ inputs, outputs, attributes }) => {
  const [x, dy] = inputs
  const [m, k, n] = [rowsOf(x!.shape), lastDim(x!.shape), lastDim(dy!.shape)]
  const dwKN = multiply(transpose(load(x!), m, k), load(dy!), k, m, n)
  store(outputs[0], int(attributes, 'transposed') ? dwKN : transpose(dwKN, k, n))
}

const linearActivation: ReferenceKernel = (call) => {
  const pre = product(call).map(rounding(call.inputs[0]!.dtype))
  store(call.outputs[0], pre)
  store(call.outputs[1], pre.map(activationOf(call.attributes).value))
}

const linearInputGradientActivation: ReferenceKernel = (call) => {
  const pre = load(call.inputs[2]!)
  const { slope } = activationOf(call.attributes)
  const dpre = inputGradient(call)
    .map((g, i) => g * slope(pre[i]!))
    .map(rounding(call.inputs[0]!.dtype))
  store(call.outputs[0], dpre)
  store(call.outputs[1], sumOfRows(dpre, lastDim(call.inputs[2]!.shape)))
}

export const linears: Readonly<Record<string, ReferenceKernel>> = {
  linear,
  linear_input_gradient: (call) => store(call.outputs[0], inputGradient(call)),
  linear_weight_gradient: linearWeightGradient,
  linear_activation: linearActivation,
  linear_input_gradient_activation: linearInputGradientActivation,
}
