// Philox4x32-10, the counter-based generator behind dropout and initialisation: ten rounds turn a counter and a key into four
// uniform 32-bit words. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), and its known answers.

/** Four words of 32 bits, each from 0 to 2^32 - 1. */
export type Words = readonly [number, number, number, number]

/** The upper 32 bits of the product of two 32-bit words. */
function multiplyHigh(a: number, b: number): number {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16]
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const carry = (middle % 0x10000) + aLow * bHigh
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0
}

/** The four words of `counter` under `key` (low word first). */
export function philox(counter: Words, key: readonly [number, number]): Words {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = [multiplyHigh(0xd2511f53, c0), Math.imul(0xd2511f53, c0)]
    const [high1, low1] = [multiplyHigh(0xcd9e8d57, c2), Math.imul(0xcd9e8d57, c2)]
    c0 = (high1 ^ c1 ^ k0) >>> 0
    c1 = low1 >>> 0
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c3 = low0 >>> 0
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  return [c0, c1, c2, c3]
}

/** Low and high 32 bits of a non-negative integer below 2^53. */
export const split = (n: number): readonly [number, number] => [n >>> 0, Math.floor(n / 2 ** 32) >>> 0]
