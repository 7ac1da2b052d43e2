// What a reference kernel is given. Kernels compute in float64 and round once on store, except where an op's declaration fixes
// a sequence of rounded operations; they are written to be obviously right. Any output may share memory with an input.
import type { Attributes, TensorType } from '../ops/definition.js'

/** Typed view of a tensor's memory. bf16 and f16 are bit patterns in a Uint16Array; `load` and `store` (storage.ts) convert. */
export type ReferenceArray = Float32Array | Float64Array | Int32Array | Uint8Array | Uint16Array

export interface ReferenceTensor extends TensorType {
  readonly data: ReferenceArray
}

export interface ReferenceCall {
  readonly inputs: readonly (ReferenceTensor | null)[]
  /** Null where an output is not wanted. */
  readonly outputs: readonly (ReferenceTensor | null)[]
  readonly attributes: Attributes
  /** Values of the op's scalars, in the op table's order. */
  readonly scalars: readonly number[]
  readonly rank: number
  readonly ranks: number
}

export type ReferenceKernel = (call: ReferenceCall) => void

/** A kernel met a value that it cannot work with, such as an index outside a table. */
export class KernelError extends Error {
  override readonly name = 'KernelError'
  readonly code = 'KERNEL_VALUE'
  constructor(
    readonly op: string,
    readonly what: string,
    readonly expected: string,
    readonly got: string,
  ) {
    super(`${op}: ${what}, expected ${expected}, got ${got}`)
  }
}
