// Conversions between float64 and the storage formats: every bit pattern of the 16-bit formats, and rounding by definition.
import test from 'ava'
import fc from 'fast-check'
import type { DType } from '../../../kernels/ops/definition.js'
import { load, rounding, store } from '../../../kernels/reference/storage.js'
import { tensorOf } from '../../support/tensors.js'

const bitsOf = (dtype: DType, x: number): number => tensorOf(dtype, [1], [x]).data[0]!
const numberOf = (dtype: DType, bits: number): number => load({ dtype, shape: [1], data: Uint16Array.of(bits) })[0]!

test('bf16 is the upper half of a float32, for all patterns', (t) => {
  const float = new Float32Array(1)
  const words = new Uint32Array(float.buffer)
  for (let bits = 0; bits < 0x10000; bits++) {
    words[0] = bits << 16
    if (!Object.is(numberOf('bf16', bits), float[0])) t.fail(`bf16 ${bits.toString(16)}`)
  }
  t.pass()
})

test('f16 patterns of IEEE 754 binary16', (t) => {
  const known: readonly [number, number][] = [
    [0x3c00, 1],
    [0xc000, -2],
    [0x7bff, 65504],
    [0x0400, 2 ** -14],
    [0x0001, 2 ** -24],
    [0x3555, 0.333251953125],
    [0x7c00, Infinity],
    [0xfc00, -Infinity],
    [0x8000, -0],
  ]
  for (const [bits, value] of known) {
    t.is(numberOf('f16', bits), value)
    t.is(bitsOf('f16', value), bits)
  }
})

for (const dtype of ['bf16', 'f16'] as const) {
  test(`${dtype}: every number survives a round trip`, (t) => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = numberOf(dtype, bits)
      if (!Number.isNaN(value) && bitsOf(dtype, value) !== bits) t.fail(`${dtype} ${bits.toString(16)}`)
    }
    t.true(Number.isNaN(numberOf(dtype, bitsOf(dtype, NaN))))
  })

  test(`${dtype}: rounds to the nearest, ties to even`, (t) => {
    const positive = fc.integer({ min: 0, max: bitsOf(dtype, Infinity) - 2 })
    fc.assert(
      fc.property(positive, fc.double({ min: 0, max: 1, noNaN: true }), (bits, share) => {
        const [below, above] = [numberOf(dtype, bits), numberOf(dtype, bits + 1)]
        const x = below + share * (above - below)
        const [down, up] = [x - below, above - x]
        const expected = down < up ? bits : up < down ? bits + 1 : bits + (bits % 2)
        return bitsOf(dtype, x) === expected && rounding(dtype)(-x) === -numberOf(dtype, expected)
      }),
      { numRuns: 2000 },
    )
    t.pass()
  })
}

test('a load is a copy and a store to an unwanted output does nothing', (t) => {
  const tensor = tensorOf('f32', [2], [1, 2])
  const values = load(tensor)
  values[0] = 9
  t.is(tensor.data[0], 1)
  t.notThrows(() => store(null, values))
})
