// Ctrl-C and SIGTERM: the first saves and leaves, the second ends at once, whatever the run is doing.
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { listCheckpoints } from '../../../runtime/checkpoint/manifest.js'
import { curve, linesOf, run, start, tiny, workshop } from '../cli/command.js'

const endless = (data: string, ...more: readonly string[]) =>
  start(['train', ...tiny, '--data', data, '--ranks', '2', '--steps', '1000000', '--json', ...more])

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  test.serial(
    `the first ${signal} finishes the step, saves, and leaves; the run can be resumed from there`,
    async (t) => {
      const { data, at } = workshop(t)
      const running = endless(data, '--save', at('out'))
      await running.shows(/"step":5,/)
      running.child.kill(signal)
      const outcome = await running.outcome
      t.is(outcome.code, code, outcome.stderr)
      t.is(outcome.signal, null)
      const lines = linesOf(outcome)
      const steps = lines.filter(({ type }) => type === 'step').length
      t.deepEqual(
        listCheckpoints(at('out')).map(({ step }) => step),
        [steps],
      )
      const total = String(steps + 2)
      const args = ['train', ...tiny, '--data', data, '--ranks', '2', '--json', '--steps', total]
      const resumed = await run(...args, '--resume', at('out'))
      t.deepEqual(
        curve(linesOf(resumed)).map(([step]) => step),
        [steps + 1, steps + 2],
      )
    },
  )
}

test.serial('the second signal ends the process while a rank stalls', async (t) => {
  const { data, at } = workshop(t)
  const running = endless(data, '--save', at('out'), '--chaos', 'stall:rank=1@step=3:50s')
  await running.shows(/"step":2,/)
  await sleep(100)
  running.child.kill('SIGINT')
  await running.shows(/leaving after the steps under way/)
  running.child.kill('SIGINT')
  const outcome = await running.outcome
  t.is(outcome.code, 130, outcome.stderr)
  t.is(listCheckpoints(at('out')).length, 0)
})

test.serial('a signal before the first step leaves cleanly, however early it comes', async (t) => {
  const { data, at } = workshop(t)
  for (const delay of [150, 250, 350, 450, 600]) {
    const running = endless(data, '--save', at(`out${delay}`))
    await sleep(delay)
    running.child.kill('SIGINT')
    const { code, signal, stderr } = await running.outcome
    // Before the command listens at all, the system's own answer to Ctrl-C ends it.
    t.true(code === 130 || (code === null && signal === 'SIGINT'), `${delay} ms: ${code} ${signal} ${stderr}`)
    t.notRegex(stderr, /error|\n\s+at /)
    if (code === 130) t.is(listCheckpoints(at(`out${delay}`)).length, 1)
  }
})

test.serial('a signal while checkpoints are being written leaves only whole ones', async (t) => {
  const { data, at } = workshop(t)
  const running = endless(data, '--save', at('out'), '--save-every', '1', '--keep', '2')
  await running.shows(/"type":"checkpoint","step":3,/)
  running.child.kill('SIGINT')
  const outcome = await running.outcome
  t.is(outcome.code, 130, outcome.stderr)
  t.is(listCheckpoints(at('out')).length, 2)
  t.true(existsSync(at('out', 'latest')))
})

test.serial('a reader that goes away ends the command without an error', async (t) => {
  const running = endless(workshop(t).data)
  await running.shows(/"step":2,/)
  running.child.stdout!.destroy()
  const { code, stderr } = await running.outcome
  t.is(code, 0)
  t.is(stderr, '')
})
