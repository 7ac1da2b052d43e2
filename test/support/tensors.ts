// Seeded random tensors and single calls of reference kernels, for tests that check kernels one by one.
// Outputs are poisoned with NaN before a kernel runs, so that an element it forgets is seen.
import {
  type Attributes,
  type DType,
  elements,
  type GradientBuilder,
  int,
  statistic,
  type TensorType,
} from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import { normals } from '../../kernels/reference/fill.js'
import { type ReferenceTensor, referenceKernels, viewOf } from '../../kernels/reference/index.js'
import { philox, type Words } from '../../kernels/reference/philox.js'
import { numbersOf, store } from '../../kernels/reference/storage.js'

export type Operand = ReferenceTensor | null

/** Values of scalars by the role that the op table gives them. */
export type ScalarRoles = Readonly<Record<string, number>>

/** A fresh tensor, its floats NaN. */
export function emptyTensor({ shape, dtype }: TensorType): ReferenceTensor {
  const count = elements(shape)
  const data = viewOf(dtype, new ArrayBuffer(8 * count), 0, count)
  return { shape, dtype, data: data.fill(dtype === 'bf16' || dtype === 'f16' ? 0xffff : dtype === 'i32' ? -77 : NaN) }
}

export function tensorOf(dtype: DType, shape: readonly number[], values: ArrayLike<number>): ReferenceTensor {
  const tensor = emptyTensor({ dtype, shape })
  store(tensor, values)
  return tensor
}

/** The same numbers in float64. */
export const widened = (tensor: ReferenceTensor): ReferenceTensor => ({
  ...tensor,
  dtype: 'f64',
  data: numbersOf(tensor.dtype, tensor.data),
})

export const copyOf = (tensor: ReferenceTensor): ReferenceTensor => ({ ...tensor, data: tensor.data.slice() })

/** The dtype of an op's floats. */
export type FloatType = 'f32' | 'f64' | 'bf16' | 'f16'

/** A stream of random tensors, the same for the same seed. `float` is the dtype of its float tensors. */
export class RandomTensors {
  #blocks = 0
  constructor(
    readonly float: FloatType,
    readonly seed = 1,
  ) {}

  /** `count` numbers, four from each block of words. */
  #draw(count: number, four: (words: Words) => readonly number[]): Float64Array {
    const values = new Float64Array(4 * Math.ceil(count / 4))
    for (let i = 0; i < count; i += 4) values.set(four(philox([this.#blocks++, 0, 0, 0], [this.seed, 0x74657374])), i)
    return values.subarray(0, count)
  }

  /** Normal with the given mean and standard deviation. */
  normal(shape: readonly number[], std = 1, mean = 0, dtype: DType = this.float): ReferenceTensor {
    return tensorOf(
      dtype,
      shape,
      this.#draw(elements(shape), normals).map((z) => mean + std * z),
    )
  }

  /** What lies beside tensors of 16 bits in f32: gradients of losses, accumulators, master parameters. */
  wide(shape: readonly number[], std = 1): ReferenceTensor {
    return this.normal(shape, std, 0, statistic(this.float))
  }

  /** Integers from `low` to `high` - 1. */
  integers(shape: readonly number[], low: number, high: number): ReferenceTensor {
    const between = (words: Words): number[] => words.map((word) => low + (word % (high - low)))
    return tensorOf('i32', shape, this.#draw(elements(shape), between))
  }
}

/** Runs one op on the reference kernels and returns its outputs; inputs that the op updates in place are copied first. */
/** The scalars of an update, now and where one update more was made. */
export const candidates = (now: ScalarRoles, next: ScalarRoles = now): ScalarRoles => ({
  ...now,
  ...Object.fromEntries(Object.entries(next).map(([role, value]) => [`${role}_next`, value])),
})

export function runReference(
  op: string,
  inputs: readonly Operand[],
  attributes: Attributes,
  roles: ScalarRoles = {},
  place: { rank: number; ranks: number } = { rank: 0, ranks: 1 },
): ReferenceTensor[] {
  const definition = opNamed(op)
  const types = definition.infer(inputs, attributes)
  const operands = [...inputs]
  const outputs = types.map((type, o) => {
    const alias = definition.aliases?.find(([, output]) => output === o)
    const source = alias && inputs[alias[0]]
    if (!source) return emptyTensor(type)
    const copy = copyOf(source)
    operands[alias[0]] = copy
    return copy
  })
  const scalars = definition.scalars.map((role) => roles[role]!)
  referenceKernels.get(op)!({ inputs: operands, outputs, attributes, scalars, rank: place.rank, ranks: place.ranks })
  return outputs
}

/** Runs each op as it is emitted: gradient rules become numbers at once. */
export class EagerBuilder implements GradientBuilder<ReferenceTensor> {
  constructor(readonly roles: ScalarRoles = {}) {}

  emit(op: string, inputs: readonly Operand[], attributes: Attributes = {}): ReferenceTensor[] {
    if (!opNamed(op).view) return runReference(op, inputs, attributes, this.roles)
    const [type] = opNamed(op).infer(inputs, attributes)
    const start = op === 'slice' ? int(attributes, 'start') : 0
    return [{ ...type!, data: inputs[0]!.data.subarray(start, start + elements(type!.shape)) }]
  }

  typeOf(value: ReferenceTensor): TensorType {
    return value
  }
}
