// Between a tensor's memory and the float64 numbers that kernels compute with. Loads are exact copies, so a kernel that loads all
// its operands before its first store is right under every aliasing of outputs with inputs; stores round once, to nearest even.
import type { DType } from '../ops/definition.js'
import type { ReferenceArray, ReferenceTensor } from './kernel.js'

/** A 16-bit float format: bits of the mantissa and the exponent of its smallest normal number. */
interface HalfFormat {
  readonly mantissaBits: number
  readonly minExponent: number
  readonly max: number
}

const halfFormats: Readonly<Partial<Record<DType, HalfFormat>>> = {
  bf16: { mantissaBits: 7, minExponent: -126, max: 2 ** 128 - 2 ** 120 },
  f16: { mantissaBits: 10, minExponent: -14, max: 65504 },
}

function roundHalfEven(x: number): number {
  const below = Math.floor(x)
  const rest = x - below
  return rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below
}

const float = new Float64Array(1)
const words = new Uint32Array(float.buffer)

/** The exponent e of 2^e <= x < 2^(e + 1), x positive and normal in float64, as it stands in x's bits; less than any half's of smaller ones. */
function exponentOf(x: number): number {
  float[0] = x
  return (words[1]! >>> 20) - 1023
}

function roundHalf(format: HalfFormat, x: number): number {
  const magnitude = Math.abs(x)
  if (!(magnitude > 0) || magnitude === Infinity) return x
  const unit = 2 ** (Math.max(exponentOf(magnitude), format.minExponent) - format.mantissaBits)
  const rounded = roundHalfEven(magnitude / unit) * unit
  return Math.sign(x) * (rounded > format.max ? Infinity : rounded)
}

/** The bits count upwards with the number: what rounds up into the next exponent, or beyond the largest number, comes out right. */
function halfToBits({ mantissaBits, minExponent }: HalfFormat, x: number): number {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0
  const infinity = (3 - 2 * minExponent) << mantissaBits
  if (Number.isNaN(x)) return infinity | (1 << (mantissaBits - 1))
  const magnitude = Math.abs(x)
  if (magnitude === Infinity) return sign | infinity
  const exponent = Math.max(exponentOf(magnitude), minExponent)
  const bits = ((exponent - minExponent) << mantissaBits) + roundHalfEven(magnitude / 2 ** (exponent - mantissaBits))
  return sign | Math.min(bits, infinity)
}

function halfFromBits({ mantissaBits, minExponent }: HalfFormat, bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits & 0x7fff) >>> mantissaBits
  const mantissa = bits & (2 ** mantissaBits - 1)
  if (exponent === 3 - 2 * minExponent) return mantissa ? NaN : sign * Infinity
  if (exponent === 0) return sign * mantissa * 2 ** (minExponent - mantissaBits)
  return sign * (2 ** mantissaBits + mantissa) * 2 ** (exponent - 1 + minExponent - mantissaBits)
}

/** Rounds a float64 to the nearest number of `dtype`. */
export function rounding(dtype: DType): (x: number) => number {
  const format = halfFormats[dtype]
  if (format) return (x) => roundHalf(format, x)
  return dtype === 'f32' ? Math.fround : (x) => x
}

/** Every number of a format, by its bits. */
const tables = new Map<HalfFormat, Float64Array>()

function tableOf(format: HalfFormat): Float64Array {
  const known = tables.get(format)
  if (known) return known
  const table = new Float64Array(0x10000).map((_, bits) => halfFromBits(format, bits))
  tables.set(format, table)
  return table
}

/** The numbers of memory that holds `dtype`, copied. */
export function numbersOf(dtype: DType, data: ReferenceArray): Float64Array {
  const format = halfFormats[dtype]
  const numbers = new Float64Array(data)
  if (!format) return numbers
  const table = tableOf(format)
  return numbers.map((bits) => table[bits]!)
}

/** The tensor's numbers, copied. */
export const load = (tensor: ReferenceTensor): Float64Array => numbersOf(tensor.dtype, tensor.data)

/** What memory that holds `dtype` keeps of a number, rounded once. */
export function storedAs(dtype: DType): (x: number) => number {
  const format = halfFormats[dtype]
  return format ? (x) => halfToBits(format, x) : (x) => x
}

/** Writes numbers into the tensor, each rounded once; does nothing where the output is not wanted. */
export function store(tensor: ReferenceTensor | null | undefined, values: ArrayLike<number>): void {
  if (!tensor) return
  const format = halfFormats[tensor.dtype]
  if (!format) tensor.data.set(values)
  else for (let i = 0; i < values.length; i++) tensor.data[i] = halfToBits(format, values[i]!)
}

/** A typed array over `count` elements of memory, as tensors of `dtype` are held. */
export function viewOf(dtype: DType, memory: ArrayBufferLike, byteOffset: number, count: number): ReferenceArray {
  switch (dtype) {
    case 'f32':
      return new Float32Array(memory, byteOffset, count)
    case 'f64':
      return new Float64Array(memory, byteOffset, count)
    case 'i32':
      return new Int32Array(memory, byteOffset, count)
    case 'u8':
      return new Uint8Array(memory, byteOffset, count)
    default:
      return new Uint16Array(memory, byteOffset, count)
  }
}
