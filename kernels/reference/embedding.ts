// Rows of a table by index, and their gradient: rows are added in token order, each addition rounded to the tensor's dtype.
import { lastDim } from '../ops/definition.js'
import { KernelError, type ReferenceKernel, type ReferenceTensor } from './kernel.js'
import { load, rounding, store } from './storage.js'

function indicesOf(op: string, tensor: ReferenceTensor, rows: number): ArrayLike<number> {
  const bad = tensor.data.findIndex((index) => index < 0 || index >= rows)
  if (bad < 0) return tensor.data
  throw new KernelError(op, `indices[${bad}]`, `0 to ${rows - 1}`, String(tensor.data[bad]))
}

const embedding: ReferenceKernel = ({ inputs, outputs }) => {
  const [rows, width] = inputs[0]!.shape as [number, number]
  const weight = load(inputs[0]!)
  const indices = indicesOf('embedding', inputs[1]!, rows)
  const y = new Float64Array(indices.length * width)
  for (let i = 0; i < indices.length; i++)
    y.set(weight.subarray(indices[i]! * width, (indices[i]! + 1) * width), i * width)
  store(outputs[0], y)
}

/** Whether an order is what it should be: positions in the order of their indices, equal ones in their own. */
function expectOrder(order: ArrayLike<number>, indices: ArrayLike<number>): void {
  for (let i = 0; i < order.length; i++) {
    const [before, at] = [order[i - 1] ?? -1, order[i]!]
    const [least, index] = [indices[before] ?? -1, indices[at] ?? -1]
    if (index > least || (index === least && index >= 0 && at > before)) continue
    throw new KernelError('embedding_backward', `order[${i}]`, `the position that follows ${before}`, String(at))
  }
}

const embeddingBackward: ReferenceKernel = ({ inputs, outputs, attributes }) => {
  const rows = attributes.rows as number
  const dy = load(inputs[1]!)
  const width = lastDim(inputs[1]!.shape)
  const indices = indicesOf('embedding_backward', inputs[0]!, rows)
  if (inputs[3]) expectOrder(inputs[3].data, indices)
  const round = rounding(outputs[0]!.dtype)
  const dweight = inputs[2] ? load(inputs[2]) : new Float64Array(rows * width)
  for (let i = 0; i < indices.length; i++) {
    for (let c = 0; c < width; c++) {
      const at = indices[i]! * width + c
      dweight[at] = round(dweight[at]! + dy[i * width + c]!)
    }
  }
  store(outputs[0], dweight)
}

const arange: ReferenceKernel = ({ outputs }) =>
  store(
    outputs[0],
    outputs[0]!.data.map((_, i) => i),
  )

export const embeddings: Readonly<Record<string, ReferenceKernel>> = {
  embedding,
  embedding_backward: embeddingBackward,
  arange,
}
