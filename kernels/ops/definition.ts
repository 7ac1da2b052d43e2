// What an operation is, for every backend and every compiler pass. An op is declared once, here in `kernels/ops`:
// its shape and dtype rule, its gradient, its cost and which outputs may take over an input's memory.
// Nothing in this folder imports from outside it.

/** Element types. `f64` exists on the reference backend and for norms and control values; integers carry tokens. */
export type DType = 'f32' | 'f64' | 'bf16' | 'f16' | 'i32' | 'u8'

/** Bytes of one element of each dtype. */
export const dtypeBytes: Readonly<Record<DType, number>> = { f32: 4, f64: 8, bf16: 2, f16: 2, i32: 4, u8: 1 }

/** A dense, row-major tensor's shape and element type. */
export interface TensorType {
  readonly shape: readonly number[]
  readonly dtype: DType
}

/** A number (integer or float, as the op declares) or, for kind `ints`, a list of integers. */
export type AttributeValue = number | readonly number[]
export type Attributes = Readonly<Record<string, AttributeValue>>
/** `int` is stored as int64, `float` as float64; an `option` is an int that is 0 where a call leaves it out; at most one `ints`, last. */
export type AttributeKind = 'int' | 'float' | 'option' | 'ints'

/** Emits nodes while a gradient rule runs. `V` is the compiler's value type, opaque to the rules. */
export interface GradientBuilder<V> {
  emit(op: string, inputs: readonly (V | null)[], attributes?: Attributes): V[]
  typeOf(value: V): TensorType
}

/** One recorded call of an op, as its gradient rule sees it. Absent optional inputs are null. */
export interface OpCall<V> {
  readonly inputs: readonly (V | null)[]
  readonly outputs: readonly V[]
  readonly attributes: Attributes
}

export interface OpCost {
  /** Floating-point operations, a multiply-add counted as two. */
  readonly flops: number
  /** Bytes read and written at the least, each operand once. */
  readonly bytes: number
}

export interface OpDefinition {
  readonly name: string
  /** Stable number in programs; never reused for another meaning. */
  readonly opcode: number
  /** Operand names; a trailing `?` marks an optional input. */
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes: Readonly<Record<string, AttributeKind>>
  /** Roles of the run-time scalars (float64 slots) that the kernel reads, in order. */
  readonly scalars: readonly string[]
  /** Output types from input types. Throws {@link OpError} where they do not fit. */
  infer(inputs: readonly (TensorType | null)[], attributes: Attributes): TensorType[]
  /** Gradients of the inputs from gradients of the outputs (null: none flows). Absent: not differentiable. */
  gradient?<V>(builder: GradientBuilder<V>, call: OpCall<V>, gradients: readonly (V | null)[]): (V | null)[]
  cost(inputs: readonly (TensorType | null)[], outputs: readonly TensorType[], attributes: Attributes): OpCost
  /** Pairs (input, output) where the output may be written over the input's memory. */
  readonly inPlace?: readonly (readonly [number, number])[]
  /** Pairs (input, output) where the output *is* the input's memory, updated. */
  readonly aliases?: readonly (readonly [number, number])[]
  /** True where the op only renames its input's memory and needs no instruction. */
  readonly view?: boolean
  /** True where the op has effects beyond its outputs or talks to other ranks: never removed, merged or reordered. */
  readonly effect?: boolean
}

/** An op was given operands or attributes that it cannot take. */
export class OpError extends Error {
  override readonly name = 'OpError'
  readonly code = 'OP_OPERANDS'
  constructor(
    readonly op: string,
    readonly what: string,
    readonly expected: string,
    readonly got: string,
  ) {
    super(`${op}: ${what}, expected ${expected}, got ${got}`)
  }
}

export const elements = (shape: readonly number[]): number => shape.reduce((product, dim) => product * dim, 1)
export const byteLength = (type: TensorType): number => elements(type.shape) * dtypeBytes[type.dtype]
export const showType = (type: TensorType | null | undefined): string =>
  type ? `${type.dtype}[${type.shape.join(', ')}]` : 'nothing'
export const sameShape = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((dim, i) => dim === b[i])
/** Elements of all dims but the last. */
export const rowsOf = (shape: readonly number[]): number => elements(shape.slice(0, -1))
export const lastDim = (shape: readonly number[]): number => shape[shape.length - 1] ?? 1

export const int = (attributes: Attributes, name: string): number => attributes[name] as number
export const option = (attributes: Attributes, name: string): number => (attributes[name] ?? 0) as number
/** The attributes with every option that they leave out. */
export const withOptions = ({ attributes: kinds }: OpDefinition, attributes: Attributes): Attributes => ({
  ...Object.fromEntries(Object.entries(kinds).flatMap(([name, kind]) => (kind === 'option' ? [[name, 0]] : []))),
  ...attributes,
})
export const ints = (attributes: Attributes, name: string): readonly number[] => attributes[name] as readonly number[]

/** The input at `index`, which the op requires. */
export function required(op: string, inputs: readonly (TensorType | null)[], index: number, name: string): TensorType {
  const type = inputs[index]
  if (!type) throw new OpError(op, `input ${name}`, 'a tensor', 'nothing')
  return type
}

export function expectFloat(op: string, name: string, type: TensorType): void {
  if (type.dtype === 'i32' || type.dtype === 'u8') throw new OpError(op, `dtype of ${name}`, 'a float', type.dtype)
}

/** Statistics, losses and other sums beside tensors of `dtype`: f64 beside f64, else f32. */
export const statistic = (dtype: DType): DType => (dtype === 'f64' ? 'f64' : 'f32')

/** What the option `wide` gives: `dtype` itself, or with 1 the dtype of its statistics. */
export const widened = (dtype: DType, attributes: Attributes): DType =>
  option(attributes, 'wide') ? statistic(dtype) : dtype

export function expectDtype(op: string, name: string, type: TensorType, dtype: DType): void {
  if (type.dtype !== dtype) throw new OpError(op, `dtype of ${name}`, dtype, type.dtype)
}

export function expectShape(op: string, name: string, type: TensorType, shape: readonly number[]): void {
  if (!sameShape(type.shape, shape)) throw new OpError(op, `shape of ${name}`, `[${shape.join(', ')}]`, showType(type))
}

/** The shape and the dtype. */
export function expectType(op: string, name: string, type: TensorType, expected: TensorType): void {
  expectShape(op, name, type, expected.shape)
  expectDtype(op, name, type, expected.dtype)
}

/** (start, count) pairs that lie within 0 to `length`. */
export function expectRanges(op: string, name: string, ranges: readonly number[], length: number): void {
  if (ranges.length % 2 !== 0) throw new OpError(op, name, 'pairs of start and count', `${ranges.length} numbers`)
  for (let i = 0; i < ranges.length; i += 2) {
    const [start, count] = [ranges[i]!, ranges[i + 1]!]
    if (start >= 0 && count >= 0 && start + count <= length) continue
    throw new OpError(op, name, `ranges within 0 to ${length}`, `${start} to ${start + count}`)
  }
}

/** The cost of an op that reads and writes each operand once and does `flopsPerElement` for each output element. */
export function streamCost(
  inputs: readonly (TensorType | null)[],
  outputs: readonly TensorType[],
  flopsPerElement = 1,
): OpCost {
  const bytes = [...inputs, ...outputs].reduce((sum, type) => sum + (type ? byteLength(type) : 0), 0)
  const first = outputs[0]
  return { flops: first ? flopsPerElement * elements(first.shape) : 0, bytes }
}
