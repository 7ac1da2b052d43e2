// The batch triad against its definition: a request is valid exactly if whole positive numbers satisfy the equation.
import test from 'ava'
import { type BatchRequest, type BatchSizes, resolveBatch } from '../../../runtime/config/batch.js'
import { ConfigError } from '../../../runtime/config/error.js'

const worlds = [1, 2, 3, 8]
const sizes = [null, 1, 2, 3, 4, 6, 8, 12, 16, 24, 256]

/** By search, not by division: the open numbers that make the equation true; without both, accumulation is 1. */
function solve({ train, micro, accumulation }: BatchRequest, world: number): BatchSizes | null {
  if (train === null && micro === null) return null
  for (let g = 1; g <= 256; g++) {
    if (accumulation !== null ? g !== accumulation : g !== 1 && (train === null || micro === null)) continue
    for (let m = 1; m <= 256; m++) {
      if (micro !== null && m !== micro) continue
      if (train === null || train === m * g * world) return { train: m * g * world, micro: m, accumulation: g, world }
    }
  }
  return null
}

test('truth table over ranks 1, 2, 3, 8 and dividing and other sizes', (t) => {
  let valid = 0
  for (const world of worlds)
    for (const train of sizes)
      for (const micro of sizes)
        for (const accumulation of sizes) {
          const request = { train, micro, accumulation }
          const expected = solve(request, world)
          const label = JSON.stringify({ ...request, world })
          if (expected) {
            valid++
            t.deepEqual(resolveBatch(request, world), expected, label)
          } else {
            const error = t.throws(() => resolveBatch(request, world), { instanceOf: ConfigError }, label)
            t.is(error.code, 'CONFIG_BATCH')
            checkRemedies(t.fail, error.message, request, world)
          }
        }
  t.true(valid > 500)
})

/** Every batch that a message proposes must work in place of the one given. */
function checkRemedies(fail: (message: string) => void, message: string, request: BatchRequest, world: number): void {
  const found = /nearest: train_batch_size (\d+)(?: or (\d+))?/.exec(message)
  if (!found) {
    if (request.train !== null) fail(`no remedy: ${message}`)
    return
  }
  for (const batch of found.slice(1)) {
    if (batch !== undefined && !solve({ ...request, train: Number(batch) }, world)) fail(`wrong remedy: ${message}`)
  }
}

test('an impossible triad shows all four numbers, where W came from, and what would work', (t) => {
  const error = t.throws(() =>
    resolveBatch({ train: 16, micro: 2, accumulation: null }, 3, '--ranks 3', 'config ds.json'),
  )
  t.regex(error.message, /^config ds\.json: batch sizes, expected train_batch_size = /)
  t.regex(error.message, /train_batch_size 12 or 18/)
  t.regex(
    error.message,
    /got train_batch_size 16, train_micro_batch_size_per_gpu 2, gradient_accumulation_steps 2 \(derived\), W 3/,
  )
  t.regex(error.message, /from --ranks 3/)
})

test('a batch below the ranks proposes the nearest legal ones', (t) => {
  const error = t.throws(() => resolveBatch({ train: 4, micro: null, accumulation: null }, 8))
  t.regex(error.message, /train_batch_size 8 or 16/)
})

test('without batch and micro-batch the message asks for one', (t) => {
  const error = t.throws(() => resolveBatch({ train: null, micro: null, accumulation: 4 }, 2), {
    instanceOf: ConfigError,
  })
  t.regex(error.message, /train_batch_size or train_micro_batch_size_per_gpu.*W 2.*only gradient_accumulation_steps 4/)
})
