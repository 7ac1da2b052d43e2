// IEEE arithmetic in a tensor's own precision, for the ops whose declaration fixes every rounding.
// A float64 sum, product, quotient or root of float32 operands rounds correctly to float32; a fused multiply-add needs more care.
import type { DType } from '../ops/definition.js'

export interface Arithmetic {
  /** Rounds a float64 to the precision. */
  readonly round: (x: number) => number
  /** a * b + c, rounded once. In float64 JavaScript has no such operation: there it rounds twice. */
  readonly fma: (a: number, b: number, c: number) => number
}

const float = new Float64Array(1)
const bits = new BigInt64Array(float.buffer)

/**
 * a * b + c in float32, rounded once. The product is exact in float64; the sum is rounded to odd (the bits lost, known from
 * Knuth's TwoSum, are folded into the last bit), which makes the second rounding correct (Boldo and Melquiond, 2008).
 */
export function fmaFloat32(a: number, b: number, c: number): number {
  const product = a * b
  const sum = product + c
  const part = sum - product
  const error = product - (sum - part) + (c - part)
  if (!Number.isFinite(sum) || error === 0) return Math.fround(sum)
  float[0] = sum
  if ((bits[0]! & 1n) === 0n) bits[0]! += error > 0 === sum > 0 ? 1n : -1n
  return Math.fround(float[0]!)
}

const float32: Arithmetic = { round: Math.fround, fma: fmaFloat32 }
const float64: Arithmetic = { round: (x) => x, fma: (a, b, c) => a * b + c }

/** The arithmetic of a tensor of `dtype`: float64's for f64, float32's for all others. */
export const arithmeticOf = (dtype: DType): Arithmetic => (dtype === 'f64' ? float64 : float32)
