// Softmax over the last dim, and the log-sum-exp that cross-entropy and attention share.
import { lastDim } from '../ops/definition.js'
import type { ReferenceKernel } from './kernel.js'
import { load, store } from './storage.js'

/** log of the sum of e^x, safe for large x. */
export function logSumExp(row: Float64Array): number {
  const max = row.reduce((a, b) => Math.max(a, b), -Infinity)
  return max + Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0))
}

/** Calls `f` with each row of `width` elements, as a view. */
export function eachRow(values: Float64Array, width: number, f: (row: Float64Array, index: number) => void): void {
  for (let r = 0; r < values.length / width; r++) f(values.subarray(r * width, (r + 1) * width), r)
}

const softmax: ReferenceKernel = ({ inputs, outputs }) => {
  const values = load(inputs[0]!)
  eachRow(values, lastDim(inputs[0]!.shape), (row) => {
    const lse = logSumExp(row)
    row.forEach((x, i) => {
      row[i] = Math.exp(x - lse)
    })
  })
  store(outputs[0], values)
}

const softmaxBackward: ReferenceKernel = ({ inputs, outputs }) => {
  const [dy, y] = [load(inputs[0]!), load(inputs[1]!)]
  const width = lastDim(inputs[0]!.shape)
  const dx = new Float64Array(dy.length)
  eachRow(y, width, (row, r) => {
    const dot = row.reduce((sum, p, i) => sum + p * dy[r * width + i]!, 0)
    row.forEach((p, i) => {
      dx[r * width + i] = p * (dy[r * width + i]! - dot)
    })
  })
  store(outputs[0], dx)
}

export const softmaxes: Readonly<Record<string, ReferenceKernel>> = {
  softmax,
  softmax_backward: softmaxBackward,
}
