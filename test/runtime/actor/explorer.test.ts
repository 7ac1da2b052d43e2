// Ten thousand interleavings of the supervisor; those of group recovery are in recovery.test.ts. Each seed makes a tree, faults and an
// order of events; whatever they are, asks settle, a message is handled by the life that accepted it or is a dead letter, who is alive
// works, who is gone is known to be gone, restarts stay within their budget and nothing is left.
// A failure prints its seed: `explore(scenario, { runs: 1, firstSeed: seed })` runs it again.
import test from 'ava'
import type { SystemEvent } from '../../../transports/index.js'
import { explore } from '../../../transports/testing.js'
import { recovery, supervision } from '../../support/interleavings.js'

const trace = (events: readonly SystemEvent[]): string[] =>
  events.map(
    (event) => `${event.type} ${'actor' in event ? event.actor : ''} ${'cause' in event ? event.cause?.message : ''}`,
  )

test.serial('10,000 interleavings of a supervisor with mixed strategies', async (t) => {
  t.timeout(600_000)
  const strategies = ['one-for-one', 'rest-for-one', 'one-for-all', 'one-for-group'] as const
  let restarts = 0
  await explore(
    async (seed) => {
      const events = await supervision(seed, strategies)
      restarts += events.filter(({ type }) => type === 'restarted').length
    },
    { runs: 10_000 },
  )
  t.true(restarts > 10_000, `${restarts} restarts`)
})

for (const [name, scenario] of [
  ['supervisor', (seed: number) => supervision(seed, ['one-for-one', 'one-for-group'])],
  ['recovery', recovery],
] as const) {
  test.serial(`the same seed is the same run: ${name}`, async (t) => {
    const runs = []
    const distinct = new Set<string>()
    for (let seed = 1; seed <= 10; seed++) {
      runs.push(trace(await scenario(seed)))
      distinct.add(runs.at(-1)!.join('\n'))
      t.deepEqual(trace(await scenario(seed)), runs.at(-1))
    }
    t.true(distinct.size > 5)
  })
}

test.serial('a failure names its seed', async (t) => {
  const error = await t.throwsAsync(
    explore(
      async (seed) => {
        if (seed === 7) throw new Error('seven')
      },
      { runs: 10 },
    ),
    { message: 'explore: seed 7 of 1 to 10, expected no failure, got seven' },
  )
  t.is((error?.cause as Error | undefined)?.message, 'seven')
})
