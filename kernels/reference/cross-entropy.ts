// Cross-entropy of next-token prediction, alone and fused with the head's matrix product. A target of -1 masks its row.
import { lastDim, rowsOf } from '../ops/definition.js'
import { KernelError, type ReferenceCall, type ReferenceKernel, type ReferenceTensor } from './kernel.js'
import { weightKN } from './linear.js'
import { multiply, transpose } from './matrix.js'
import { eachRow, logSumExp } from './softmax.js'
import { load, rounding, store } from './storage.js'

function targetsOf(op: string, tensor: ReferenceTensor, classes: number): ArrayLike<number> {
  const bad = tensor.data.findIndex((target) => target < -1 || target >= classes)
  if (bad < 0) return tensor.data
  throw new KernelError(op, `targets[${bad}]`, `-1 to ${classes - 1}`, String(tensor.data[bad]))
}

/** Sum over the unmasked rows of lse - logit of the target, in row order. */
function totalLoss(logits: Float64Array, lse: Float64Array, targets: ArrayLike<number>, classes: number): number {
  let total = 0
  for (let r = 0; r < targets.length; r++) {
    if (targets[r]! >= 0) total += lse[r]! - logits[r * classes + targets[r]!]!
  }
  return total
}

/** factor * (softmax(logits) - onehot(target)), zero in masked rows. */
function logitGradients(
  logits: Float64Array,
  lse: Float64Array,
  targets: ArrayLike<number>,
  classes: number,
  factor: number,
): Float64Array {
  const gradients = new Float64Array(logits.length)
  eachRow(logits, classes, (row, r) => {
    const target = targets[r]!
    if (target < 0) return
    row.forEach((x, c) => {
      gradients[r * classes + c] = factor * (Math.exp(x - lse[r]!) - (c === target ? 1 : 0))
    })
  })
  return gradients
}

function logSumExps(logits: Float64Array, classes: number): Float64Array {
  const lse = new Float64Array(logits.length / classes)
  eachRow(logits, classes, (row, r) => {
    lse[r] = logSumExp(row)
  })
  return lse
}

const crossEntropy: ReferenceKernel = ({ inputs, outputs, attributes }) => {
  const logits = load(inputs[0]!)
  const classes = lastDim(inputs[0]!.shape)
  const targets = targetsOf('cross_entropy', inputs[1]!, classes)
  const lse = logSumExps(logits, classes)
  store(outputs[0], [(attributes.scale as number) * totalLoss(logits, lse, targets, classes)])
  store(outputs[1], lse)
}

const crossEntropyBackward: ReferenceKernel = ({ inputs, outputs, attributes }) => {
  const [logits, lse] = [load(inputs[0]!), load(inputs[2]!)]
  const classes = lastDim(inputs[0]!.shape)
  const targets = targetsOf('cross_entropy_backward', inputs[1]!, classes)
  const factor = (attributes.scale as number) * load(inputs[3]!)[0]!
  store(outputs[0], logitGradients(logits, lse, targets, classes, factor))
}

/** The logits of the fused head and all that follows from them. */
function head(op: string, { inputs, attributes }: ReferenceCall) {
  const [x, weight] = inputs
  const [rows, features] = [rowsOf(x!.shape), lastDim(x!.shape)]
  const kn = weightKN(weight!, attributes)
  const classes = kn.length / features
  const logits = multiply(load(x!), kn, rows, features, classes)
  const targets = targetsOf(op, inputs[2]!, classes)
  const lse = logSumExps(logits, classes)
  const loss = (attributes.scale as number) * totalLoss(logits, lse, targets, classes)
  return { rows, features, kn, classes, logits, targets, lse, loss }
}

const linearCrossEntropy: ReferenceKernel = (call) => store(call.outputs[0], [head('linear_cross_entropy', call).loss])

const linearCrossEntropyGradients: ReferenceKernel = (call) => {
  const { inputs, outputs, attributes } = call
  const { rows, features, kn, classes, logits, targets, lse, loss } = head('linear_cross_entropy_gradients', call)
  const factor = (attributes.scale as number) * load(inputs[3]!)[0]!
  const dlogits = logitGradients(logits, lse, targets, classes, factor).map(rounding(inputs[0]!.dtype))
  const dx = multiply(dlogits, transpose(kn, features, classes), rows, classes, features)
  const dwKN = multiply(transpose(load(inputs[0]!), rows, features), dlogits, features, rows, classes)
  store(outputs[0], [loss])
  store(outputs[1], dx)
  store(outputs[2], attributes.transposed ? dwKN : transpose(dwKN, features, classes))
}

export const crossEntropies: Readonly<Record<string, ReferenceKernel>> = {
  cross_entropy: crossEntropy,
  cross_entropy_backward: crossEntropyBackward,
  linear_cross_entropy: linearCrossEntropy,
  linear_cross_entropy_gradients: linearCrossEntropyGradients,
}
