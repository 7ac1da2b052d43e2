// Layer normalisation by its definition: two passes per row for the statistics. Legend: x_RC, R rows of C elements.
import { lastDim, rowsOf } from '../ops/definition.js'
import type { ReferenceKernel } from './kernel.js'
import { sumOfRows } from './matrix.js'
import { load, rounding, store } from './storage.js'

const layerNorm: ReferenceKernel = ({ inputs, outputs, attributes }) => {
  const { shape } = inputs[0]!
  const [rows, width] = [rowsOf(shape), lastDim(shape)]
  const x_RC = load(inputs[0]!)
  const [weight, bias] = [inputs[1] && load(inputs[1]), inputs[2] && load(inputs[2])]
  const y_RC = new Float64Array(rows * width)
  const [means, rstds] = [new Float64Array(rows), new Float64Array(rows)]
  for (let r = 0; r < rows; r++) {
    const row = x_RC.subarray(r * width, (r + 1) * width)
    const mean = row.reduce((sum, x) => sum + x, 0) / width
    const variance = row.reduce((sum, x) => sum + (x - mean) ** 2, 0) / width
    const rstd = 1 / Math.sqrt(variance + (attributes.epsilon as number))
    row.forEach((x, c) => {
      y_RC[r * width + c] = (x - mean) * rstd * (weight?.[c] ?? 1) + (bias?.[c] ?? 0)
    })
    means[r] = mean
    rstds[r] = rstd
  }
  store(outputs[0], y_RC)
  store(outputs[1], means)
  store(outputs[2], rstds)
}

/** With h = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - h mean(g h)), dweight = sum dy h, dbias = sum dy. */
const layerNormBackward: ReferenceKernel = ({ inputs, outputs }) => {
  const { shape } = inputs[0]!
  const [rows, width] = [rowsOf(shape), lastDim(shape)]
  const [dy_RC, x_RC] = [load(inputs[0]!), load(inputs[1]!)]
  const [means, rstds] = [load(inputs[3]!), load(inputs[4]!)]
  const [weight, residual_RC] = [inputs[2] && load(inputs[2]), inputs[5] && load(inputs[5])]
  const dx_RC = new Float64Array(rows * width)
  const [dweight, dbias] = [new Float64Array(width), new Float64Array(width)]
  for (let r = 0; r < rows; r++) {
    const [mean, rstd] = [means[r]!, rstds[r]!]
    let [sumG, sumGH] = [0, 0]
    for (let c = 0; c < width; c++) {
      const dy = dy_RC[r * width + c]!
      const h = (x_RC[r * width + c]! - mean) * rstd
      const g = dy * (weight?.[c] ?? 1)
      sumG += g
      sumGH += g * h
      dweight[c]! += dy * h
      dbias[c]! += dy
    }
    for (let c = 0; c < width; c++) {
      const i = r * width + c
      const h = (x_RC[i]! - mean) * rstd
      const g = dy_RC[i]! * (weight?.[c] ?? 1)
      dx_RC[i] = rstd * (g - sumG / width - (h * sumGH) / width) + (residual_RC?.[i] ?? 0)
    }
  }
  store(outputs[0], dx_RC)
  store(outputs[1], dweight)
  store(outputs[2], dbias)
  store(outputs[3], sumOfRows(dx_RC.map(rounding(inputs[0]!.dtype)), width))
}

export const norms: Readonly<Record<string, ReferenceKernel>> = {
  layer_norm: layerNorm,
  layer_norm_backward: layerNormBackward,
}
