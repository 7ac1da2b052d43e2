// Flags that are wrong or do not go together: one line, exit code 1, nothing started. Flags that act are in train.test.ts.
import test from 'ava'
import { failsWith, run, start, workshop } from './command.js'

const wrong: readonly [args: string, pattern: RegExp][] = [
  ['trian', /^error: unknown command 'trian' \(Did you mean train\?\)$/],
  ['train --lauers 3 --data x', /^error: unknown option '--lauers' \(Did you mean --layers\?\)$/],
  ['train --dat x', /Did you mean --data\?/],
  ['report --jso', /Did you mean --json\?/],
  ['report all', /too many arguments/],
  ['generate --modle x', /Did you mean --model\?/],
  ['train', /^error: --data, expected at least one file or folder, got none$/],
  ['train --data', /'--data <path...>' argument missing/],
  ['generate --prompt x', /^error: --model, expected a folder, got none$/],
  ['generate --model x', /^error: --prompt, expected text, got none$/],
  ['train --data x --steps abc', /^error: --steps, expected an integer of at least 0, got abc$/],
  ['train --data x --steps 1.5', /^error: --steps, expected an integer of at least 0, got 1.5$/],
  ['train --data x --steps -1', /^error: --steps, expected an integer of at least 0, got -1$/],
  ['train --data x --ranks 0', /^error: --ranks, expected an integer of at least 1, got 0$/],
  ['train --data x --threads 0', /^error: --threads, expected an integer of at least 1, got 0$/],
  ['train --data x --seed x', /^error: --seed, expected an integer/],
  ['train --data x --layers 0', /^error: --layers, expected an integer of at least 1, got 0$/],
  ['train --data x --model bert', /^error: --model, expected gpt2, got bert$/],
  ['train --data x --device gpu', /^error: --device, expected cpu or cuda or reference, got gpu$/],
  ['train --data x --dropout 1', /^error: --dropout, expected a number from 0 to 0.999, got 1$/],
  ['train --data x --token-bytes 3', /^error: --token-bytes, expected 2 or 4, got 3$/],
  ['train --data x --token-bytes 4', /^error: --token-bytes, expected a .bin file in --data, got x$/],
  ['train --data x --eval-every 2', /^error: --eval-every, expected --eval-data with it, got none$/],
  ['train --data x --save-every 2', /^error: --save-every, expected --save with it, got none$/],
  ['train --data x --keep 2', /^error: --keep, expected --save with it, got none$/],
  ['train --data x --profile .', /^error: --profile, expected a file, got the folder \.$/],
  ['train --data x --profile package.json/trace.json', /^error: --profile, expected a folder, got the file/],
  ['train --data x --hidden 33', /^error: --hidden, expected a multiple of --heads \(4\), got 33$/],
  ['train --data x --init . --layers 2', /^error: --layers, expected no size together with --init, got 2$/],
  ['generate --model x --prompt x --top-p 1.5', /^error: --top-p, expected a number from 0 to 1, got 1.5$/],
  ['generate --model x --prompt x --temperature cold', /^error: --temperature, expected a number/],
  ['start --data nowhere', /nowhere, expected a readable file/],
]

for (const [args, pattern] of wrong) {
  test(`deeptroupe ${args}`, async (t) => {
    const outcome = await run(...args.split(' '))
    failsWith(t, outcome, pattern)
    t.is(outcome.stdout, '')
    t.is(outcome.stderr.split('\n').length, 2, 'one line')
  })
}

test('help and version go to stdout; no command at all is told on stderr', async (t) => {
  const [help, train, version, nothing] = await Promise.all([
    run('--help'),
    run('train', '--help'),
    run('--version'),
    run(),
  ])
  t.is(help.code, 0)
  t.regex(help.stdout, /train.*\n.*generate.*\n.*start.*\n.*build.*\n.*report/)
  t.is(train.code, 0)
  t.regex(train.stdout, /--checkpoint-activations/)
  t.is(version.code, 0)
  t.regex(version.stdout, /^\d+\.\d+\.\d+\n$/)
  t.is(nothing.code, 1)
  t.is(nothing.stdout, '')
  t.regex(nothing.stderr, /Usage: deeptroupe/)
})

test('report: a line for everything, also as JSON, also without any tool in PATH', async (t) => {
  const { folder } = workshop(t)
  const [text, json, bare] = await Promise.all([
    run('report'),
    run('report', '--json'),
    start(['report'], { env: { PATH: folder } }).outcome,
  ])
  for (const outcome of [text, json, bare]) t.is(outcome.code, 0, outcome.stderr)
  const names = [
    'Node',
    'processor',
    'memory',
    'addon',
    'instruction sets',
    'backends',
    'compiler',
    'cmake',
    'nats-server',
  ]
  const found = JSON.parse(json.stdout)
  for (const name of names) {
    t.true(name in found, name)
    t.true(
      text.stdout.split('\n').some((line) => line.startsWith(name)),
      name,
    )
  }
  t.is(found.Node.found, process.version)
  for (const { found: what, remedy } of Object.values<{ found: string | null; remedy?: string }>(found)) {
    t.true(what !== null || (remedy !== undefined && remedy !== ''))
  }
  t.regex(bare.stdout, /^compiler +not found: apt-get install/m)
  t.regex(bare.stdout, /^nats-server +not found: ./m)
})
