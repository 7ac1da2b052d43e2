// The layers that everything else is made of. Sizes are checked when a layer is made, shapes when it is traced.
import { expectCount, expectProbability } from './error.js'
import * as functional from './functional.js'
import { Module, Parameter } from './module.js'
import type { Tensor } from './tensor.js'

export interface LinearOptions {
  /** Whether a bias is added; default true. */
  readonly bias?: boolean
  /** Whether the weight is stored [in, out], as in GPT-2's Conv1D, instead of [out, in]; default false. */
  readonly transposed?: boolean
  /**
   * Standard deviation of the weight's start; the bias then starts at zero. By default both are normal with 1 / sqrt(3 in): the
   * variance of PyTorch's uniform start within 1 / sqrt(in).
   */
  readonly std?: number
  /** A parameter of another layer to share (a tied head). */
  readonly weight?: Parameter
}

/** y = x W^T + bias: [..., inFeatures] to [..., outFeatures]. */
export class Linear extends Module {
  readonly weight: Parameter
  readonly bias: Parameter | null
  readonly #transposed: boolean

  constructor(inFeatures: number, outFeatures: number, options: LinearOptions = {}) {
    super()
    expectCount('Linear', 'inFeatures', inFeatures)
    expectCount('Linear', 'outFeatures', outFeatures)
    const { bias = true, transposed = false, std } = options
    const normal = { kind: 'normal', mean: 0, std: std ?? 1 / Math.sqrt(3 * inFeatures) } as const
    const shape = transposed ? [inFeatures, outFeatures] : [outFeatures, inFeatures]
    this.weight = options.weight ?? new Parameter(shape, normal)
    this.bias = bias ? new Parameter([outFeatures], std === undefined ? normal : { kind: 'constant', value: 0 }) : null
    this.#transposed = transposed
  }

  override forward(x: Tensor): Tensor {
    return functional.linear(x, this.weight, this.bias, { transposed: this.#transposed })
  }
}

/** Rows of a table by index: i32 [...] to [..., features]. Starts normal with `std`, by default 1. */
export class Embedding extends Module {
  readonly weight: Parameter

  constructor(rows: number, features: number, options: { readonly std?: number } = {}) {
    super()
    expectCount('Embedding', 'rows', rows)
    expectCount('Embedding', 'features', features)
    this.weight = new Parameter([rows, features], { kind: 'normal', mean: 0, std: options.std ?? 1 })
  }

  override forward(indices: Tensor): Tensor {
    return functional.embedding(this.weight, indices)
  }
}

/** Layer normalization over the last dim with weight (start 1) and bias (start 0). */
export class LayerNorm extends Module {
  readonly weight: Parameter
  readonly bias: Parameter

  constructor(
    features: number,
    private readonly epsilon = 1e-5,
  ) {
    super()
    expectCount('LayerNorm', 'features', features)
    this.weight = new Parameter([features], { kind: 'constant', value: 1 })
    this.bias = new Parameter([features], { kind: 'constant', value: 0 })
  }

  override forward(x: Tensor): Tensor {
    return functional.layerNorm(x, this.weight, this.bias, this.epsilon)
  }
}

/** Dropout with probability p while training, nothing otherwise. */
export class Dropout extends Module {
  constructor(private readonly p: number) {
    super()
    expectProbability('Dropout', 'p', p)
  }

  override forward(x: Tensor): Tensor {
    return functional.dropout(x, this.p)
  }
}
