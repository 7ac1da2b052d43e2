// Ten thousand interleavings of the recovery of a group, with more failures, killed and frozen workers and cut links while it recovers:
// its members rise as one, each in a new life, and all that holds for a supervisor holds. See explorer.test.ts.
import test from 'ava'
import { explore } from '../../../transports/testing.js'
import { recovery } from '../../support/interleavings.js'

test('10,000 interleavings of the recovery of a group', async (t) => {
  t.timeout(600_000)
  let [restarts, gone] = [0, 0]
  await explore(
    async (seed) => {
      const events = await recovery(seed)
      restarts += events.filter(({ type }) => type === 'restarted').length
      gone += events.some(({ type }) => type === 'escalated') ? 1 : 0
    },
    { runs: 10_000, firstSeed: 100_000 },
  )
  t.true(restarts > 20_000, `${restarts} restarts`)
  t.true(gone > 1000 && gone < 9000, `${gone} groups are gone`)
})
