// Philox4x32-10 against the known answers of the Random123 distribution (kat_vectors).
import test from 'ava'
import { philox, split, type Words } from '../../../kernels/reference/philox.js'

const all = 0xffffffff
const vectors: readonly [counter: Words, key: readonly [number, number], words: Words][] = [
  [
    [0, 0, 0, 0],
    [0, 0],
    [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
  ],
  [
    [all, all, all, all],
    [all, all],
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  ],
  [
    [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    [0xa4093822, 0x299f31d0],
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  ],
]

test('known answers', (t) => {
  for (const [counter, key, words] of vectors) t.deepEqual(philox(counter, key), words)
})

test('a number splits into the words that make it', (t) => {
  for (const n of [0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 12345, Number.MAX_SAFE_INTEGER]) {
    const [low, high] = split(n)
    t.is(high * 2 ** 32 + low, n)
  }
})
