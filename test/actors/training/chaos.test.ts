// Some jobs of the campaign of seeded faults; `npm run campaign` runs hundreds.
import test from 'ava'
import { chaosRuns } from '../../campaign/chaos.js'

test('seeded faults: each job ends with the bits of the quiet one, or past its budget with one error, and leaves nothing', async (t) => {
  // Kills, a freeze, ZeRO 0, 2 and 3, both devices, a budget of none; fp32, bf16 and fp16 with steps that are skipped.
  const counts = await chaosRuns(195_995, (runs) => runs === 4, t.log)
  t.is(counts.bitEqual, 3)
  t.is(counts.pastBudget, 1)
  t.true(counts.skipped > 0)
})
