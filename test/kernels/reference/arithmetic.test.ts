// The float32 fused multiply-add against exact integer arithmetic.
import test from 'ava'
import fc from 'fast-check'
import { fmaFloat32 } from '../../../kernels/reference/arithmetic.js'

/** A finite float64 as an integer multiple of 2^-1100. */
function exact(x: number): bigint {
  const bits = new BigInt64Array(Float64Array.of(Math.abs(x)).buffer)[0]!
  const [exponent, mantissa] = [bits >> 52n, bits & ((1n << 52n) - 1n)]
  const magnitude = exponent === 0n ? mantissa << 26n : (mantissa | (1n << 52n)) << (exponent + 25n)
  return x < 0 ? -magnitude : magnitude
}

const floats = new Float32Array(1)
const words = new Uint32Array(floats.buffer)
/** The float32 `steps` patterns further from zero. */
function neighbour(x: number, steps: number): number {
  floats[0] = x
  words[0]! += steps
  return floats[0]!
}

const distance = (x: number, target: bigint): bigint => {
  const d = (exact(x) << 1100n) - target
  return d < 0n ? -d : d
}

/** Whether `got` is the float32 nearest to a * b + c, of even mantissa in a tie. All are far from under- and overflow. */
function isCorrect(a: number, b: number, c: number, got: number): boolean {
  const target = exact(a) * exact(b) + (exact(c) << 1100n)
  if (got === 0) return target === 0n
  const error = distance(got, target)
  floats[0] = got
  const even = (words[0]! & 1) === 0
  return [1, -1].every((steps) => {
    const farther = distance(neighbour(got, steps), target)
    return error < farther || (error === farther && even)
  })
}

const operand = fc
  .tuple(fc.integer({ min: -(2 ** 24), max: 2 ** 24 }), fc.integer({ min: -50, max: 2 }))
  .map(([mantissa, exponent]) => mantissa * 2 ** exponent)

test('rounds once, for random operands', (t) => {
  fc.assert(
    fc.property(operand, operand, operand, (a, b, c) => isCorrect(a, b, c, fmaFloat32(a, b, c))),
    { numRuns: 5000 },
  )
  t.pass()
})

test('rounds once where the float64 sum is a tie that the exact sum is not', (t) => {
  const ulp = 2 ** -23
  // 2^-24 - 2^-70 and 2^-24 + 2^-70 as products of float32 numbers; 2^46 + 1 = 8392705 * 8384513.
  const below = [1 + ulp, 2 ** -24 * (1 - ulp)] as const
  const above = [8392705 * ulp, 8384513 * 2 ** -47] as const
  t.is(fmaFloat32(...below, 1 + ulp), 1 + ulp)
  t.is(fmaFloat32(...above, 1), 1 + ulp)
  t.is(fmaFloat32(-below[0], below[1], -1 - ulp), -1 - ulp)
  t.is(fmaFloat32(-above[0], above[1], -1), -1 - ulp)
  t.not(Math.fround(below[0] * below[1] + 1 + ulp), 1 + ulp, 'two roundings are wrong here')
})

test('infinities and NaN pass through', (t) => {
  t.is(fmaFloat32(Infinity, 2, 1), Infinity)
  t.is(fmaFloat32(Infinity, 1, -Infinity), NaN)
  t.is(fmaFloat32(3e38, 3e38, -1), Infinity)
})
