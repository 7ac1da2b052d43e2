// The flags of `train` act: each is seen in what the command prints, writes or computes.
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { allowedCores } from '../../../native/index.js'
import { listCheckpoints, readManifest } from '../../../runtime/checkpoint/manifest.js'
import { SafetensorsFile, writeSafetensors } from '../../../runtime/checkpoint/safetensors.js'
import { curve, type Line, linesOf, readJson, run, tiny, workshop } from './command.js'

const train = async (
  data: string,
  ...args: readonly string[]
): Promise<{ lines: Line[]; stderr: string; stdout: string }> => {
  const outcome = await run('train', ...tiny, '--data', data, ...args)
  if (outcome.code !== 0) throw new Error(`exit code ${outcome.code}: ${outcome.stderr}`)
  return { lines: args.includes('--json') ? linesOf(outcome) : [], stderr: outcome.stderr, stdout: outcome.stdout }
}

const numbers = (value: object): boolean => Object.values(value).every(Number.isFinite)

test('--json: step and evaluation lines have exactly their fields, numbers in full precision', async (t) => {
  const { data } = workshop(t)
  const { lines, stderr } = await train(data, '--steps', '4', '--eval-data', data, '--eval-every', '2', '--json')
  t.is(stderr, '')
  t.deepEqual(
    lines.map(({ type, step }) => [type, step]),
    [
      ['step', 1],
      ['step', 2],
      ['eval', 2],
      ['step', 3],
      ['step', 4],
      ['eval', 4],
    ],
  )
  for (const line of lines) {
    const { type, skipped, ...fields } = line
    t.is(skipped, type === 'step' ? false : undefined)
    t.true(numbers(fields), JSON.stringify(line))
    t.deepEqual(
      Object.keys(line),
      type === 'step'
        ? [
            ...['type', 'step', 'loss', 'grad_norm', 'lr', 'skipped', 'skipped_steps'],
            ...['tokens', 'tokens_per_second', 'seconds', 'native_seconds'],
          ]
        : ['type', 'step', 'loss', 'perplexity', 'tokens'],
    )
  }
  const [first] = lines
  t.is(first!['tokens'], 8 * 16)
  t.is(first!['tokens'], Math.round(Number(first!['tokens_per_second']) * Number(first!['seconds'])))
  t.is(
    Math.fround(Number(first!['loss'])) === Number(first!['loss']) && String(first!['loss']).length > 10,
    true,
    'an f32, whole',
  )
  const evaluation = lines[2]!
  t.is(evaluation['perplexity'], Math.exp(Number(evaluation['loss'])))
  t.is(evaluation['tokens'], Math.floor((4000 - 1) / 16) * 16)
})

test('text mode: progress and notes on stderr, nothing on stdout; --eval-data alone evaluates at the end', async (t) => {
  const { data, at } = workshop(t)
  const { stdout, stderr } = await train(data, '--steps', '3', '--eval-data', data, '--save', at('out'))
  t.is(stdout, '')
  t.regex(stderr, /step 1\/3 {2}loss \d\.\d+ {2}\S+ tokens\/s {2}.* to go/)
  t.regex(stderr, /evaluation after step 3: loss \d\.\d+, perplexity \d/)
  t.regex(stderr, /checkpoint \S+global_step3/)
  t.is(stderr.match(/evaluation after/g)?.length, 1)
})

test('steps_per_print and wall_clock_breakdown act, as text and as lines', async (t) => {
  const { data, at } = workshop(t)
  const config = at('c.json')
  writeFileSync(config, JSON.stringify({ train_batch_size: 8, steps_per_print: 3, wall_clock_breakdown: true }))
  const { stderr } = await train(data, '--config', config, '--steps', '7')
  t.deepEqual(
    [...stderr.matchAll(/step (\d)\/7/g)].map((found) => found[1]),
    ['1', '3', '6', '7'],
  )
  t.deepEqual(
    [...stderr.matchAll(/^step (\d): forward \S+ ms, backward \S+ ms, communication \S+ ms, update \S+ ms$/gm)].map(
      (found) => found[1],
    ),
    ['3', '6'],
  )
  const { lines } = await train(data, '--config', config, '--steps', '2', '--json')
  t.deepEqual(
    lines.map(({ type }) => type),
    ['step', 'timing', 'step', 'timing'],
  )
  const { type: _, ...timing } = lines[3]!
  t.deepEqual(Object.keys(timing), ['step', 'forward_ms', 'backward_ms', 'communication_ms', 'update_ms'])
  t.true(numbers(timing))
  t.true(Number(timing['backward_ms']) > 0 && Number(timing['forward_ms']) > 0 && Number(timing['update_ms']) > 0)
  t.true(Number(timing['forward_ms']) + Number(timing['backward_ms']) < Number(lines[2]!['seconds']) * 1000)
})

test('notices of the configuration come as lines', async (t) => {
  const { data, at } = workshop(t)
  const config = at('c.json')
  writeFileSync(config, JSON.stringify({ train_batch_size: 8, zero_optimization: { stage: 1, overlap_comm: true } }))
  const { lines } = await train(data, '--config', config, '--steps', '1', '--json')
  const notice = lines.find(({ type }) => type === 'notice')
  t.regex(String(notice?.['message']), /overlap_comm/)
})

test('--seed, --dropout, --no-shuffle, --layers and --seq change the run; --ranks, --threads, --checkpoint-activations do not', async (t) => {
  const { data, at } = workshop(t)
  const config = at('c.json')
  writeFileSync(config, JSON.stringify({ train_batch_size: 8, train_micro_batch_size_per_gpu: 4 }))
  const losses = async (...args: readonly string[]) =>
    curve((await train(data, '--steps', '3', '--config', config, '--json', ...args)).lines)
  const base = await losses()
  const [same, ...others] = [
    [['--seed', '1234'], ['--ranks', '2'], ['--threads', '2'], ['--checkpoint-activations'], ['--shuffle']],
    ['--seed', '7'],
    ['--dropout', '0.2'],
    ['--no-shuffle'],
    ['--layers', '2'],
    ['--seq', '8'],
    ['--hidden', '32'],
    ['--heads', '4'],
    ['--vocab', '300'],
  ] as const
  for (const args of same) t.deepEqual(await losses(...args), base, args.join(' '))
  const seen = new Set([JSON.stringify(base)])
  for (const args of others) {
    const got = JSON.stringify(await losses(...args))
    t.false(seen.has(got), args.join(' '))
    seen.add(got)
  }
})

test('--device reference trains the same model within rounding', async (t) => {
  const { data } = workshop(t)
  const losses = async (device: string) =>
    curve((await train(data, '--steps', '2', '--device', device, '--json')).lines).map(([, loss]) => Number(loss))
  const [cpu, reference] = [await losses('cpu'), await losses('reference')]
  for (const [i, loss] of cpu.entries()) t.true(Math.abs(loss - reference[i]!) < 1e-5)
})

test('--checkpoint-activations needs less memory, --dry-run says so and starts nothing', async (t) => {
  const { data, at } = workshop(t)
  const plan = async (...args: readonly string[]) =>
    (await train(data, '--layers', '4', '--dry-run', '--json', ...args)).lines[0]!
  const [whole, sparing] = [await plan('--save', at('out')), await plan('--checkpoint-activations')]
  t.false(existsSync(at('out')))
  t.is(whole.type, 'plan')
  const bytes = whole['bytes_per_rank'] as Record<string, number>
  const { total, ...arenas } = bytes
  t.deepEqual(Object.keys(arenas), [
    'parameters',
    'gradients',
    'optimizer',
    'activations',
    'buckets',
    'gathered',
    'workspace',
    'io',
  ])
  t.is(
    Object.values(arenas).reduce((a, b) => a + b, 0),
    total!,
  )
  t.true((sparing['bytes_per_rank'] as Record<string, number>)['activations']! < bytes['activations']!)
  const text = await train(data, '--dry-run', '--ranks', '2')
  t.regex(text.stdout, /parameters on 2 ranks x 1 threads/)
  for (const name of Object.keys(arenas)) t.regex(text.stdout, new RegExp(`^ +${name} +[\\d.]+ (B|KiB|MiB)`, 'm'))
  t.is(text.stderr, '')
})

test('bf16 and fp16: the plan by dtype, a memory limit that it keeps, loss scales in the lines', async (t) => {
  const { data, at } = workshop(t)
  writeFileSync(at('bf16.json'), JSON.stringify({ train_batch_size: 8, bf16: { enabled: true } }))
  writeFileSync(at('fp16.json'), JSON.stringify({ train_batch_size: 8, fp16: { enabled: true, loss_scale: 128 } }))
  const plan = async (...args: readonly string[]) =>
    (await train(data, '--layers', '4', '--config', at('bf16.json'), '--dry-run', '--json', ...args)).lines[0]!
  const free = await plan()
  t.deepEqual(free['precision'], { weights: 'bf16', gradients: 'bf16', accumulation: 'bf16' })
  const { parameters, optimizer } = free['bytes_by_dtype'] as Record<string, Record<string, number>>
  t.deepEqual(Object.keys(parameters!), ['bf16'])
  t.is(optimizer!['fp32'], 6 * parameters!['bf16']!)
  const kept = await plan('--keep-in-fp32', 'ln_')
  t.deepEqual(Object.keys((kept['bytes_by_dtype'] as Record<string, object>)['parameters']!), ['bf16', 'fp32'])
  const limit = (free['bytes'] as number) - 1
  const limited = await plan('--memory-limit', `${limit}`)
  t.true((limited['bytes'] as number) <= limit)
  t.true((limited['recompute'] as { cheap: string[] }).cheap.includes('activation'))
  const text = await train(
    data,
    '--layers',
    '4',
    '--config',
    at('bf16.json'),
    '--dry-run',
    '--memory-limit',
    `${limit}`,
  )
  t.regex(text.stdout, /^weights and activations in bf16, gradients made and sent in bf16, added up in bf16$/m)
  t.regex(text.stdout, /^recomputed in the backward: activation functions/m)
  t.regex(text.stdout, /^ {2}parameters .*; bf16$/m)
  const { lines } = await train(data, '--config', at('fp16.json'), '--steps', '2', '--json')
  t.deepEqual(
    lines.map(({ loss_scale, skipped }) => [loss_scale, skipped]),
    [
      [128, false],
      [128, false],
    ],
  )
})

test('--profile writes a Chrome trace: every instruction of three steps on each rank, with rates', async (t) => {
  const { data, at } = workshop(t)
  const { stderr } = await train(data, '--steps', '6', '--ranks', '2', '--profile', at('trace.json'))
  t.regex(stderr, /^op +where +calls +ms +share +GFLOP\/s +GB\/s +of ceiling$/m)
  const { traceEvents } = readJson(at('trace.json')) as {
    traceEvents: {
      ph: string
      name: string
      pid: number
      cat: string
      ts: number
      dur: number
      args: Record<string, number>
    }[]
  }
  const spans = traceEvents.filter(({ ph }) => ph === 'X')
  t.deepEqual([...new Set(spans.map(({ pid }) => pid))].sort(), [0, 1])
  t.deepEqual([...new Set(spans.map(({ args }) => args['step']))], [3, 4, 5])
  t.deepEqual([...new Set(spans.map(({ cat }) => cat))].sort(), ['backward', 'communication', 'forward', 'update'])
  t.true(
    spans.every(
      ({ ts, dur, args }) => ts >= 0 && dur >= 0 && args['gflops_per_second']! >= 0 && args['gb_per_second']! >= 0,
    ),
  )
  const product = spans.find(({ name }) => name.startsWith('linear'))!
  t.true(
    Math.abs(product.args['gflops_per_second']! - product.args['flops']! / product.dur / 1e3) <
      1e-6 * product.args['gflops_per_second']!,
  )
})

test('--save, --save-every, --keep and --resume: --steps is the total, and the resumed run goes on bit for bit', async (t) => {
  const { data, at } = workshop(t)
  const whole = await train(data, '--steps', '7', '--dropout', '0.1', '--json')
  const save = ['--dropout', '0.1', '--save', at('out'), '--save-every', '2', '--json']
  await train(data, '--steps', '5', '--keep', '2', ...save)
  t.deepEqual(
    listCheckpoints(at('out')).map(({ step }) => step),
    [4, 5],
  )
  const resumed = await train(data, '--steps', '7', '--resume', at('out'), ...save)
  t.deepEqual(curve(resumed.lines), curve(whole.lines).slice(5))
  const again = await train(data, '--steps', '7', '--resume', at('out'), '--json')
  t.deepEqual(curve(again.lines), [])
  t.regex(
    String(again.lines.find(({ type }) => type === 'notice')?.['message']),
    /nothing to train: step 7 of 7 is done/,
  )
})

test('--steps 0 --save writes the initial model, --init starts from it', async (t) => {
  const { data, at } = workshop(t)
  await train(data, '--steps', '0', '--save', at('out'), '--json')
  const { path } = listCheckpoints(at('out'))[0]!
  t.is(readManifest(path).progress.step, 0)
  const file = new SafetensorsFile(`${path}/model.safetensors`)
  t.deepEqual(file.tensors.get('transformer.wte.weight')?.shape, [256, 16])
  file.close()
  const straight = await train(data, '--steps', '2', '--json')
  const outcome = await run('train', '--init', path, '--threads', '1', '--data', data, '--steps', '2', '--json')
  t.deepEqual(curve(linesOf(outcome)), curve(straight.lines))
})

test('--bind_cores_to_rank gives every thread a CPU, changes no bit, and says where there are too few', async (t) => {
  const { data } = workshop(t)
  const cores = allowedCores()
  if (cores.length < 2) return t.pass('one CPU')
  const args = ['--ranks', '2', '--threads', '1', '--steps', '3', '--json']
  const { lines } = await train(data, ...args, '--bind_cores_to_rank')
  t.deepEqual(curve(lines), curve((await train(data, ...args)).lines))
  const { stdout } = await train(data, ...args, '--bind_cores_to_rank', '--dry-run')
  t.deepEqual(
    JSON.parse(stdout).cores,
    cores.slice(0, 2).map((core) => [core]),
  )
  const crowded = await run(
    'train',
    ...tiny,
    '--data',
    data,
    '--ranks',
    '1',
    '--threads',
    `${cores.length + 1}`,
    '--bind_cores_to_rank',
  )
  t.is(crowded.code, 1)
  t.regex(
    crowded.stderr,
    new RegExp(
      `^error: initialize: bindCoresToRank, expected at most ${cores.length} threads in all, one for each CPU`,
    ),
  )
  const slow = await run('train', ...tiny, '--data', data, '--device', 'reference', '--bind_cores_to_rank')
  t.regex(
    slow.stderr,
    /^error: initialize: bindCoresToRank, expected the cpu device, whose ranks have native threads, got reference$/m,
  )
})

test('--save-16bit writes the weights in the dtype of the run at the end; ZeRO 3 must be told to gather', async (t) => {
  const { data, at } = workshop(t)
  const config = (gather: boolean): string => {
    const zero = { stage: 3, stage3_gather_16bit_weights_on_model_save: gather }
    writeFileSync(
      at('ds.json'),
      JSON.stringify({ train_batch_size: 8, bf16: { enabled: true }, zero_optimization: zero }),
    )
    return at('ds.json')
  }
  const args = ['--ranks', '2', '--steps', '2', '--save-16bit', at('weights')]
  const { lines } = await train(data, ...args, '--config', config(true), '--json')
  t.regex(String(lines.at(-1)!['message']), /^weights of step 2 in .*weights, /)
  const file = new SafetensorsFile(at('weights', 'model.safetensors'))
  t.true([...file.tensors.values()].every(({ dtype }) => dtype === 'BF16'))
  file.close()
  const refused = await run('train', ...tiny, '--data', data, ...args, '--config', config(false))
  t.is(refused.code, 1)
  t.regex(
    refused.stderr,
    /^error: --save-16bit, expected "stage3_gather_16bit_weights_on_model_save": true under ZeRO stage 3, got false\n$/,
  )
})

test('data: a folder, token streams of two and four bytes, rows of input_ids give the same tokens to the same samples', async (t) => {
  const { data, at } = workshop(t, 16 * 40 + 1)
  const bytes = Array.from({ length: 16 * 40 + 1 }, (_, i) => (i * i) % 251)
  writeFileSync(at('two.bin'), new Uint8Array(Uint16Array.from(bytes).buffer))
  writeFileSync(at('four.bin'), new Uint8Array(Uint32Array.from(bytes).buffer))
  const rows = Int32Array.from({ length: 40 * 17 }, (_, i) => bytes[Math.floor(i / 17) * 16 + (i % 17)]!)
  writeSafetensors(at('rows.safetensors'), [{ name: 'input_ids', dtype: 'I32', shape: [40, 17], data: () => rows }])
  const losses = async (path: string, ...args: readonly string[]) =>
    curve((await train(path, '--steps', '2', '--json', ...args)).lines)
  const two = await losses(at('two.bin'))
  t.deepEqual(await losses(at('four.bin'), '--token-bytes', '4'), two)
  t.deepEqual(await losses(at('rows.safetensors')), two)
  const text = await losses(data)
  t.notDeepEqual(text, two)
  mkdirSync(at('folder'))
  copyFileSync(data, at('folder', 'a.txt'))
  t.deepEqual(await losses(at('folder')), text)
})
