// SIGKILL at random moments of a run that saves after every step; `npm run campaign` does this for minutes.
import test from 'ava'
import { killLoop } from '../../campaign/kills.js'

test('a run that is killed again and again goes on from its newest checkpoint with the same bits', async (t) => {
  const { kills, lives } = await killLoop(20, 400, (done) => done === 4)
  t.is(kills, 4)
  t.true(lives >= 4)
})
