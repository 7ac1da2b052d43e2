// Failures of ranks, asked for with --chaos on the command line: one clear error without restarts, with restarts the losses and norms
// of a run that nothing happened to, bit for bit.
import { writeFileSync } from 'node:fs'
import test from 'ava'
import { curve, failsWith, type Line, linesOf, run, start, tiny, workshop } from '../cli/command.js'

const steps = 8

const trained = (data: string, ...more: readonly string[]): readonly string[] => [
  'train',
  ...tiny,
  ...['--data', data, '--ranks', '2', '--steps', String(steps), '--dropout', '0.1', '--json', ...more],
]

const failing: readonly [faults: string, cause: RegExp, ...more: string[]][] = [
  ['throw:rank=1@step=3', /got rank 1: chaos: throw$/],
  ['throw:rank=0@step=3', /got rank 0: chaos: throw$/],
  ['kill:rank=1@step=3', /got rank 1: .*worker/],
  ['kill:rank=0@step=3,stall:rank=1@step=3:20s', /got rank 0: .*worker/],
  ['flood:rank=1@step=3', /mailbox of \S*rank-1/],
  ['freeze:rank=1@step=3', /got rank 1: it made no progress for 1\.5 s$/, '--stall-timeout', '1.5'],
]

for (const [faults, cause, ...more] of failing) {
  test(`${faults} without restarts is one error that names the rank`, async (t) => {
    const outcome = await run(...trained(workshop(t).data, '--chaos', faults, ...more))
    failsWith(t, outcome, /^error: train: step 3, expected every rank to finish, got /, cause)
    t.deepEqual(
      linesOf(outcome).map(({ type }) => type),
      ['step', 'step'],
    )
  })
}

test('a worker out of memory is one error that names the rank', async (t) => {
  const args = trained(workshop(t).data, '--chaos', 'oom:rank=1@step=3')
  const outcome = await start(args, { env: { NODE_OPTIONS: '--max-old-space-size=64' } }).outcome
  failsWith(t, outcome, /^error: train: step 3, .*got rank 1: .*out of memory/)
})

const restartsOf = (lines: readonly Line[]) => lines.filter(({ type }) => type === 'restart')

test('restarts: from the start, from checkpoints, past several faults, in every stage of ZeRO, all end bit-equal', async (t) => {
  const { data, at } = workshop(t)
  const undisturbed = await run(...trained(data))
  t.is(undisturbed.code, 0, undisturbed.stderr)
  const expected = curve(linesOf(undisturbed))
  t.is(expected.length, steps)
  const cases: readonly [
    faults: string,
    more: readonly string[],
    resumed: readonly [step: number, source: string][],
  ][] = [
    ['flood:rank=0@step=2,stall:rank=1@step=4:200ms,slow:rank=0:x2', ['--restarts', '3'], [[1, 'kept']]],
    ['kill:rank=1@step=5', ['--restarts', '1'], [[0, 'start']]],
    ['kill:rank=1@step=6', ['--restarts', '1', '--save', at('a'), '--save-every', '2'], [[4, 'checkpoint']]],
    [
      'throw:rank=0@step=4,kill:rank=1@step=7',
      ['--restarts', '2', '--save', at('b'), '--save-every', '3'],
      [
        [3, 'checkpoint'],
        [6, 'checkpoint'],
      ],
    ],
  ]
  for (const [stage, [faults, more, resumed]] of cases.entries()) {
    const config = at(`stage${stage}.json`)
    const settings = { train_micro_batch_size_per_gpu: 8, zero_optimization: { stage } }
    writeFileSync(config, JSON.stringify(settings))
    const outcome = await run(...trained(data, '--config', config, '--chaos', faults, ...more))
    t.is(outcome.code, 0, outcome.stderr)
    const lines = linesOf(outcome)
    t.deepEqual(curve(lines), expected, faults)
    t.deepEqual(
      restartsOf(lines).map(({ step, source }) => [step, source]),
      resumed,
    )
    t.true(restartsOf(lines).every(({ cause }) => /rank[ -][01]/.test(String(cause))))
  }
})

test('past its restarts a run ends with one error', async (t) => {
  const faults = 'kill:rank=1@step=2,kill:rank=0@step=3'
  const outcome = await run(...trained(workshop(t).data, '--chaos', faults, '--restarts', '1'))
  failsWith(t, outcome, /^error: train: step 3, .*got rank 0/)
  t.is(restartsOf(linesOf(outcome)).length, 1)
})

test('a resumed run recovers from the checkpoint that it was resumed from, not from one of another run', async (t) => {
  const { data, at } = workshop(t)
  const first = await run(...trained(data, '--save', at('first'), '--save-every', '3'))
  t.is(first.code, 0, first.stderr)
  // Another seed: its checkpoints in the folder of the second run must not be taken for that run's own.
  const other = await run(...trained(data, '--seed', '5', '--save', at('second')))
  t.is(other.code, 0, other.stderr)
  // Slices, of which no peer has a copy.
  const config = at('stage2.json')
  writeFileSync(config, JSON.stringify({ train_micro_batch_size_per_gpu: 8, zero_optimization: { stage: 2 } }))
  const args = ['--resume', at('first', 'global_step3'), '--save', at('second'), '--config', config, '--restarts', '1']
  const outcome = await run(...trained(data, ...args, '--chaos', 'kill:rank=0@step=6'))
  t.is(outcome.code, 0, outcome.stderr)
  t.deepEqual(
    restartsOf(linesOf(outcome)).map(({ step }) => step),
    [3],
  )
  t.deepEqual(curve(linesOf(outcome)), curve(linesOf(first)).slice(3))
})

test('--stall-timeout that is no number of seconds is one error', async (t) => {
  const outcome = await run(...trained(workshop(t).data, '--stall-timeout', '0'))
  failsWith(t, outcome, /--stall-timeout, expected a number from 0\.1 to 86400, got 0$/)
})

const malformed: readonly [string, RegExp][] = [
  ['kil:rank=1@step=2', /chaos, expected kill\|throw.*, got kil:rank=1@step=2$/],
  ['kill:rank=2@step=2', /chaos, expected a rank below 2, got kill:rank=2@step=2$/],
  ['kill:rank=1@step=0', /chaos, expected a step from 1, got kill:rank=1@step=0$/],
  ['stall:rank=1@step=2', /chaos, expected .*stall:rank=R@step=S:2s/],
]

test('--chaos that cannot be read is one error', async (t) => {
  const { data } = workshop(t)
  for (const [faults, pattern] of malformed) failsWith(t, await run(...trained(data, '--chaos', faults)), pattern)
})
