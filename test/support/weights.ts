// Weights by formula, the same in TypeScript and in the Python that computed the figures of tests, so that no file is needed.
import { elements } from '../../kernels/ops/definition.js'
import { type Module, namedParameters } from '../../runtime/nn/module.js'

/** Element i of parameter p is 0.3 sin(0.7 i + p), plus 1 in the weights of layer norms (`ln_...weight`). */
export function formulaWeights(model: Module): Record<string, Float64Array> {
  return Object.fromEntries(
    namedParameters(model).map(({ name, parameter }, p) => {
      const base = name.includes('ln_') && name.endsWith('weight') ? 1 : 0
      return [
        name,
        Float64Array.from({ length: elements(parameter.shape) }, (_, i) => base + 0.3 * Math.sin(0.7 * i + p)),
      ]
    }),
  )
}
