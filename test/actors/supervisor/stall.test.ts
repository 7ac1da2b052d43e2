// Who hangs: a rank is found guilty when it did nothing for the whole deadline and waits for no other, and only then.
import test from 'ava'
import fc from 'fast-check'
import { looks, StallWatch } from '../../../actors/supervisor/stall.js'
import type { RankProgress } from '../../../native/index.js'

const at = (instructions: number, meeting = false): RankProgress => ({ instructions, meeting })

/** The first look, from 1, that finds someone, and whom. */
function watch(ranks: number, pending: ReadonlySet<number>, most: number, progress: (look: number) => RankProgress[]) {
  const stalls = new StallWatch(ranks)
  for (let look = 0; look < most; look++) {
    const rank = stalls.look(progress(look), pending)
    if (rank !== null) return { look, rank }
  }
  return null
}

test('the rank that does nothing is guilty, not those that meet and wait for it', (t) => {
  const pending = new Set([0, 1, 2])
  const found = watch(3, pending, 100, (look) => [at(Math.min(look, 4), look > 4), at(3), at(9, true)])
  t.deepEqual(found, { look: looks, rank: 1 })
})

test('a rank that has answered is not watched', (t) => {
  t.is(
    watch(2, new Set([0]), 100, (look) => [at(look), at(3)]),
    null,
  )
})

test('where all that are pending meet and nobody comes, the first is taken', (t) => {
  t.deepEqual(
    watch(3, new Set([1, 2]), 100, () => [at(9), at(4, true), at(4, true)]),
    { look: looks, rank: 1 },
  )
})

test('a rank that does an instruction now and then is never guilty, whatever the others do', (t) => {
  const pauses = fc.array(fc.tuple(fc.integer({ min: 1, max: looks - 1 }), fc.boolean()), { minLength: 20 })
  const others = fc.array(fc.tuple(fc.nat(3), fc.boolean()), { minLength: 30, maxLength: 30 })
  const innocent = fc.property(pauses, others, (paused, other) => {
    const own = paused.flatMap(([pause, meeting], done) => Array.from({ length: pause }, () => at(done, meeting)))
    const found = watch(2, new Set([0, 1]), own.length, (look) => [own[look]!, at(...other[look % 30]!)])
    return found?.rank !== 0
  })
  t.notThrows(() => fc.assert(innocent))
})
