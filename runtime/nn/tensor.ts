// Symbolic tensors: what `forward` computes with while a trace runs. A tensor has a shape, a dtype and a place in the graph, no values.
import type { Attributes, DType } from '../../kernels/ops/definition.js'
import type { Value } from '../graph/ir.js'
import { Parameter } from './module.js'
import { type Recorder, recorderFor } from './recorder.js'

/** A result of the running trace. All methods throw {@link GraphError} where shapes do not fit. */
export class Tensor {
  readonly #recorder: Recorder

  constructor(
    recorder: Recorder,
    /** Its place in the graph. */
    readonly value: Value,
  ) {
    this.#recorder = recorder
  }

  get shape(): readonly number[] {
    return this.value.type.shape
  }

  get dtype(): DType {
    return this.value.type.dtype
  }

  /** This + other, whose shape may leave out leading dims. */
  add(other: TensorLike): Tensor {
    return record('add', [this, other])
  }

  /** This * other by elements; other's shape may leave out leading dims. */
  mul(other: TensorLike): Tensor {
    return record('multiply', [this, other])
  }

  /** factor * this. */
  scale(factor: number): Tensor {
    return record('scale', [this], { factor })
  }

  /** The same elements in the same order under another shape. */
  reshape(shape: readonly number[]): Tensor {
    return record('reshape', [this], { shape })
  }

  /** Its value for `op` of `recorder`. Throws {@link GraphError} if another trace made it. */
  valueFor(recorder: Recorder, op: string): Value {
    if (this.#recorder !== recorder)
      recorder.fail(`${op}: operand, expected a tensor of this trace, got one of another`)
    return this.value
  }
}

/** A parameter stands for its values wherever a tensor does. */
export type TensorLike = Tensor | Parameter

/** Appends `op` to the running trace; the result is its first output. Absent optional operands are null. */
export function record(op: string, inputs: readonly (TensorLike | null)[], attributes: Attributes = {}): Tensor {
  const recorder = recorderFor(op)
  const values = inputs.map((input) => {
    if (input === null) return null
    return input instanceof Parameter ? recorder.parameter(input) : input.valueFor(recorder, op)
  })
  return new Tensor(recorder, recorder.emit(op, values, attributes)[0]!)
}
