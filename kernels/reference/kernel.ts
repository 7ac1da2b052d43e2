// What a reference kernel is given. Kernels compute in float64 and round once on store; they are written to be obviously right.
import type { Attributes, TensorType } from '../ops/definition.js'

/** Typed view of a tensor's memory. bf16 and f16 are Uint16Array with conversion by the caller (see storage.ts). */
export type ReferenceArray = Float32Array | Float64Array | Int32Array | Uint8Array | Uint16Array

export interface ReferenceTensor extends TensorType {
  readonly data: ReferenceArray
}

export interface ReferenceCall {
  readonly inputs: readonly (ReferenceTensor | null)[]
  readonly outputs: readonly (ReferenceTensor | null)[]
  readonly attributes: Attributes
  readonly scalars: readonly number[]
  readonly rank: number
  readonly ranks: number
}

export type ReferenceKernel = (call: ReferenceCall) => void
