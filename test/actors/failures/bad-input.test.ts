// Bad input over the real command line: each case is one clear error that names what is wrong, without a stack trace, exit code 1, and
// nothing is left behind.

import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import test from 'ava'
import { machine } from '../../../native/index.js'
import { listCheckpoints } from '../../../runtime/checkpoint/manifest.js'
import { writeSafetensors } from '../../../runtime/checkpoint/safetensors.js'
import { GPT2 } from '../../../runtime/nn/models/gpt2.js'
import { writeModelFolder } from '../../../runtime/nn/models/huggingface.js'
import { namedParameters } from '../../../runtime/nn/module.js'
import { curve, failsWith, filesOf, inFolder, linesOf, type Outcome, tiny, workshop } from '../cli/command.js'

interface Case {
  readonly name: string
  /** Files by name, made before the run; the case's folder is the working folder. */
  readonly files?: (at: (name: string) => string) => void
  readonly args: readonly string[]
  readonly pattern: RegExp
}

const text = 'x'.repeat(2000)
const write = (path: string, content: string | Uint8Array): void => {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, content)
}
const ids = (path: string, values: Int32Array | BigInt64Array | Float32Array, shape: readonly number[]): void => {
  const dtype = values instanceof Float32Array ? 'F32' : values instanceof Int32Array ? 'I32' : 'I64'
  writeSafetensors(path, [{ name: 'input_ids', dtype, shape, data: () => values }])
}
const config = (value: unknown) => (at: (name: string) => string) => write(at('c.json'), JSON.stringify(value))
const withConfig = ['--data', 'text.txt', '--config', 'c.json']

/** A Hugging Face folder whose parameters are all `value`. */
function folder(path: string, sizes: Record<string, number> = {}, value = 0.01): void {
  const model = new GPT2({
    vocab_size: 256,
    n_positions: 16,
    n_embd: 16,
    n_layer: 1,
    n_head: 2,
    resid_pdrop: 0,
    embd_pdrop: 0,
    attn_pdrop: 0,
    ...sizes,
  })
  const shapes = new Map(namedParameters(model).map(({ name, parameter }) => [name, parameter.shape]))
  writeModelFolder(path, model, (name) => new Float32Array(shapes.get(name)!.reduce((a, b) => a * b, 1)).fill(value))
}

const cases: readonly Case[] = [
  // Data
  {
    name: 'data that is not there',
    args: ['--data', 'nowhere.txt'],
    pattern: /data: nowhere\.txt, expected a readable file, got ENOENT/,
  },
  {
    name: 'empty data',
    files: (at) => write(at('empty.txt'), ''),
    args: ['--data', 'empty.txt'],
    pattern: /empty\.txt, expected text, got nothing \(0 bytes\)/,
  },
  {
    name: 'an empty folder',
    files: (at) => mkdirSync(at('void')),
    args: ['--data', 'void'],
    pattern: /void, expected a folder with text files, got nothing/,
  },
  {
    name: 'data shorter than a sample',
    files: (at) => write(at('short.txt'), 'abc'),
    args: ['--data', 'short.txt'],
    pattern: /short\.txt, expected at least 17 tokens .*, got 3/,
  },
  {
    name: 'a truncated token stream',
    files: (at) => write(at('odd.bin'), new Uint8Array(1001)),
    args: ['--data', 'odd.bin'],
    pattern: /odd\.bin, expected a multiple of 2 bytes .*, got 1001 bytes/,
  },
  {
    name: 'four-byte tokens cut short',
    files: (at) => write(at('odd.bin'), new Uint8Array(1002)),
    args: ['--data', 'odd.bin', '--token-bytes', '4'],
    pattern: /odd\.bin, expected a multiple of 4 bytes/,
  },
  {
    name: 'a token past the vocabulary in a stream',
    files: (at) =>
      write(at('big.bin'), new Uint8Array(Uint16Array.from({ length: 100 }, (_, i) => (i === 7 ? 300 : 1)).buffer)),
    args: ['--data', 'big.bin'],
    pattern: /token 7 of big\.bin, expected an id from 0 to 255 .*, got 300/,
  },
  {
    name: 'a byte past a small vocabulary',
    args: ['--data', 'text.txt', '--vocab', '60'],
    pattern: /token 0 of text\.txt, expected an id from 0 to 59 .*, got 120/,
  },
  {
    name: 'a token past the vocabulary in rows',
    files: (at) =>
      ids(
        at('r.safetensors'),
        Int32Array.from({ length: 20 }, (_, i) => (i === 13 ? 256 : 3)),
        [2, 10],
      ),
    args: ['--data', 'r.safetensors'],
    pattern: /row 1, position 3 of input_ids of r\.safetensors, .* got 256/,
  },
  {
    name: 'a negative token in rows',
    files: (at) => ids(at('r.safetensors'), Int32Array.of(1, 2, -3, 4), [2, 2]),
    args: ['--data', 'r.safetensors'],
    pattern: /row 1, position 0 of input_ids .* got -3/,
  },
  {
    name: 'rows longer than the model',
    files: (at) => ids(at('r.safetensors'), new Int32Array(60), [2, 30]),
    args: ['--data', 'r.safetensors'],
    pattern: /input_ids of r\.safetensors, expected at most 16 tokens, .*, got 29/,
  },
  {
    name: 'rows of floats',
    files: (at) => ids(at('r.safetensors'), new Float32Array(20), [2, 10]),
    args: ['--data', 'r.safetensors'],
    pattern: /input_ids of r\.safetensors, expected integers of shape \[N, T\], got F32/,
  },
  {
    name: 'safetensors without input_ids',
    files: (at) =>
      writeSafetensors(at('r.safetensors'), [
        { name: 'ids', dtype: 'I32', shape: [1, 4], data: () => new Int32Array(4) },
      ]),
    args: ['--data', 'r.safetensors'],
    pattern: /r\.safetensors, expected a tensor named input_ids, got ids/,
  },
  {
    name: 'truncated safetensors',
    files: (at) => {
      ids(at('r.safetensors'), new Int32Array(20), [2, 10])
      truncateSync(at('r.safetensors'), 120)
    },
    args: ['--data', 'r.safetensors'],
    pattern: /r\.safetensors/,
  },
  {
    name: 'a header that says more than the file holds',
    files: (at) =>
      lying(at('r.safetensors'), (header) => header.replace(/\[2,10\]/, '[2,99]').replace(/\[0,80\]/, '[0,792]')),
    args: ['--data', 'r.safetensors'],
    pattern: /r\.safetensors/,
  },
  {
    name: 'a header whose shape and bytes differ',
    files: (at) => lying(at('r.safetensors'), (header) => header.replace(/\[2,10\]/, '[2,11]')),
    args: ['--data', 'r.safetensors'],
    pattern: /input_ids/,
  },
  {
    name: 'a header longer than the file',
    files: (at) => write(at('r.safetensors'), new Uint8Array([255, 255, 255, 255, 255, 255, 0, 0, 123])),
    args: ['--data', 'r.safetensors'],
    pattern: /r\.safetensors/,
  },
  {
    name: 'a header that is no JSON',
    files: (at) =>
      write(at('r.safetensors'), Buffer.concat([Buffer.from([3, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('{,}')])),
    args: ['--data', 'r.safetensors'],
    pattern: /r\.safetensors/,
  },
  {
    name: 'data of two kinds',
    files: (at) => write(at('a.bin'), new Uint8Array(100)),
    args: ['--data', 'text.txt', 'a.bin'],
    pattern: /a\.bin, expected text like text\.txt, got a token stream/,
  },
  {
    name: 'a sequence longer than the model',
    files: (at) => folder(at('hf')),
    args: ['--init', 'hf', '--seq', '17', '--data', 'text.txt'],
    pattern: /sequence length, expected at most 16 tokens, .*, got 17/,
  },
  {
    name: 'more ranks than samples',
    files: (at) => write(at('short.txt'), 'x'.repeat(49)),
    args: ['--data', 'short.txt', '--ranks', '4'],
    pattern: /samples of short\.txt, expected at least 32 .*, got 3/,
  },
  {
    name: 'evaluation data that is not there',
    args: ['--data', 'text.txt', '--eval-data', 'nowhere'],
    pattern: /nowhere, expected a readable file/,
  },
  // Configuration
  {
    name: 'a configuration that is not there',
    args: withConfig,
    pattern: /config c\.json: file, expected a readable JSON file, got ENOENT/,
  },
  {
    name: 'broken JSON',
    files: (at) => write(at('c.json'), '{"zero_optimization": {"stage": 2}'),
    args: withConfig,
    pattern: /config c\.json: JSON at line 1, column \d+, expected .* got the end of the file/,
  },
  {
    name: 'an unknown key',
    files: config({ train_batchsize: 8 }),
    args: withConfig,
    pattern: /train_batchsize, .*did you mean train_batch_size\?/,
  },
  {
    name: 'a wrong type',
    files: config({ train_micro_batch_size_per_gpu: 8, gradient_clipping: 'much' }),
    args: withConfig,
    pattern: /gradient_clipping, expected .*, got "much"/,
  },
  {
    name: 'a stage that is not there',
    files: config({ train_micro_batch_size_per_gpu: 8, zero_optimization: { stage: 4 } }),
    args: withConfig,
    pattern: /zero_optimization\.stage, expected .*, got 4/,
  },
  {
    name: 'an impossible batch triad',
    files: config({ train_batch_size: 9, train_micro_batch_size_per_gpu: 4 }),
    args: [...withConfig, '--ranks', '2'],
    pattern: /config c\.json: .*train_batch_size.*9/,
  },
  {
    name: '"auto"',
    files: config({ train_batch_size: 'auto' }),
    args: withConfig,
    pattern: /train_batch_size, .*auto/,
  },
  {
    name: 'what is not supported yet',
    files: config({ train_batch_size: 8, sparse_gradients: true }),
    args: withConfig,
    pattern: /sparse_gradients, .*not supported yet/,
  },
  {
    name: 'fp16 and bf16 together',
    files: config({ train_batch_size: 8, fp16: { enabled: true }, bf16: { enabled: true } }),
    args: withConfig,
    pattern: /fp16\.enabled and bf16\.enabled, expected at most one of them true, got both/,
  },
  {
    name: 'a memory limit that is no size',
    args: ['--data', 'text.txt', '--memory-limit', 'much'],
    pattern: /--memory-limit, expected a size .*got much/,
  },
  {
    name: 'a memory limit that nothing fits into',
    args: [
      '--data',
      'text.txt',
      '--layers',
      '1',
      '--hidden',
      '16',
      '--heads',
      '2',
      '--seq',
      '8',
      '--memory-limit',
      '1MiB',
    ],
    pattern: /memory limit, expected at most 1\.00 MiB on 1 ranks, got a plan of .* too much/,
  },
  {
    name: 'a pattern of modules that matches none',
    args: ['--data', 'text.txt', '--keep-in-fp32', 'nothing'],
    pattern: /keepInFp32 \(\/nothing\/\), expected at least one module, got none/,
  },
  // Models
  {
    name: 'a hidden size that heads do not divide',
    args: ['--data', 'text.txt', '--hidden', '18', '--heads', '4'],
    pattern: /--hidden, expected a multiple of --heads \(4\), got 18/,
  },
  {
    name: 'a model folder that is not there',
    args: ['--data', 'text.txt', '--init', 'nowhere'],
    pattern: /--init, expected a Hugging Face folder.*, got nowhere, which is not there/,
  },
  {
    name: 'a model folder without weights',
    files: (at) => write(at('hf/config.json'), '{"model_type":"gpt2"}'),
    args: ['--data', 'text.txt', '--init', 'hf'],
    pattern: /hf/,
  },
  {
    name: 'a broken config.json',
    files: (at) => {
      folder(at('hf'))
      write(at('hf/config.json'), '{"model_type":')
    },
    args: ['--data', 'text.txt', '--init', 'hf'],
    pattern: /hf\/config\.json/,
  },
  {
    name: 'another architecture',
    files: (at) => {
      folder(at('hf'))
      write(at('hf/config.json'), '{"model_type":"llama"}')
    },
    args: ['--data', 'text.txt', '--init', 'hf'],
    pattern: /model_type of hf\/config\.json, expected one of gpt2, got llama/,
  },
  {
    name: 'weights whose shapes do not fit config.json',
    files: (at) => {
      folder(at('hf'))
      folder(at('wide'), { n_embd: 32 })
      copyFileSync(at('wide/config.json'), at('hf/config.json'))
    },
    args: ['--data', 'text.txt', '--init', 'hf'],
    pattern: /hf.*transformer.*\[.*32.*\].*\[.*16.*\]/,
  },
  {
    name: 'weights of fewer layers than config.json',
    files: (at) => {
      folder(at('hf'))
      folder(at('deep'), { n_layer: 2 })
      copyFileSync(at('deep/config.json'), at('hf/config.json'))
    },
    args: ['--data', 'text.txt', '--init', 'hf'],
    pattern: /hf.*h\.1\./,
  },
  {
    name: 'truncated weights',
    files: (at) => {
      folder(at('hf'))
      truncateSync(at('hf/model.safetensors'), 9000)
    },
    args: ['--data', 'text.txt', '--init', 'hf'],
    pattern: /hf\/model\.safetensors/,
  },
  {
    name: 'a weight that is NaN',
    files: (at) => folder(at('hf'), {}, Number.NaN),
    args: ['--data', 'text.txt', '--init', 'hf'],
    pattern:
      /loss of step 1, expected a finite number, got NaN; first in the output of \w+.*\. Parameters are as before this step/,
  },
  {
    name: 'a learning rate that explodes',
    files: config({ train_batch_size: 8, gradient_clipping: 0, optimizer: { type: 'SGD', params: { lr: 1e38 } } }),
    args: withConfig,
    pattern:
      /(loss|gradient norm) of step [23], expected a finite number, got (NaN|-?Infinity); first in the output of/,
  },
  {
    name: 'a plan that does not fit into the machine',
    args: ['--data', 'text.txt', '--layers', '2', '--hidden', '300000', '--seq', '16'],
    pattern: /initialize: memory of the plan, expected at most [\d.]+ \wiB on 1 ranks, got [\d.]+ TiB/,
  },
  // Checkpoints
  {
    name: '--resume of nothing',
    args: ['--data', 'text.txt', '--resume', 'nowhere'],
    pattern: /resume: checkpoint nowhere, expected a checkpoint or a folder of them, got no such folder/,
  },
  {
    name: '--resume of a folder without checkpoints',
    files: (at) => mkdirSync(at('void')),
    args: ['--data', 'text.txt', '--resume', 'void'],
    pattern: /resume: checkpoint void, .* got a folder without one/,
  },
  {
    name: 'a file where --save wants a folder',
    args: ['--data', 'text.txt', '--save', 'text.txt'],
    pattern: /--save, expected a folder, got the file text\.txt/,
  },
  {
    name: 'a file in the way of --save',
    args: ['--data', 'text.txt', '--save', 'text.txt/inside'],
    pattern: /--save, expected a folder, got the file/,
  },
]

/** Rows of ids under a header that was changed afterwards, its length kept true. */
function lying(path: string, change: (header: string) => string): void {
  ids(path, new Int32Array(20), [2, 10])
  const bytes = readFileSync(path)
  const length = Number(bytes.readBigUInt64LE(0))
  const header = Buffer.from(change(bytes.toString('utf8', 8, 8 + length)))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(header.length))
  writeFileSync(path, Buffer.concat([size, header, bytes.subarray(8 + length)]))
}

/** `train` in a folder, with the tiny model unless a folder brings one. */
const train = (cwd: string, ...args: readonly string[]): Promise<Outcome> => {
  const model = args.includes('--init') ? ['--threads', '1'] : tiny
  return inFolder(cwd, ['train', ...model, ...args, '--json'])
}

for (const { name, files, args, pattern } of cases) {
  test(name, async (t) => {
    const { folder: cwd, at } = workshop(t)
    write(at('text.txt'), text)
    files?.((file) => at(file))
    const before = filesOf(cwd)
    const outcome = await train(cwd, '--steps', '4', ...args)
    failsWith(t, outcome, pattern)
    t.deepEqual(filesOf(cwd), before, 'nothing is left behind')
  })
}

const bare = tiny.slice(0, tiny.indexOf('--threads'))
const { devices } = machine().gpu

test('the device cuda: settings of the CPU, more ranks than GPUs or none at all are one line each', async (t) => {
  const { folder: cwd, data } = workshop(t)
  const cuda = (...args: readonly string[]): Promise<Outcome> =>
    inFolder(cwd, ['train', ...bare, '--data', data, '--device', 'cuda', '--steps', '1', '--json', ...args])
  failsWith(t, await cuda('--threads', '2'), /threads, expected none with device cuda, got 2/)
  failsWith(t, await train(cwd, '--data', data, '--tf32'), /--tf32, expected --device cuda with it, got no --device/)
  const ranks = String(devices.length + 1)
  const lacking =
    devices.length > 0 ? /ranks, expected at most \d+, one for each GPU, got \d+/ : /(gpu|addon): .*, expected .*, got/
  failsWith(t, await cuda('--ranks', ranks), lacking)
  const planned = await cuda('--ranks', ranks, '--dry-run')
  t.is(planned.code, 0, planned.stderr)
  const [plan] = linesOf(planned)
  t.like(plan, { type: 'plan', device: 'cuda', logit_chunks: 1 })
  t.like(plan!['environment'], { device: 'cuda', gpu: devices[0]?.name ?? 'unknown' })
})

test('a loss that is not finite leaves the parameters as they were: what was saved before it goes on with another rate', async (t) => {
  const { folder: cwd, data, at } = workshop(t)
  const optimizer = (lr: number) => ({
    train_batch_size: 8,
    gradient_clipping: 0,
    optimizer: { type: 'SGD', params: { lr } },
  })
  write(at('wild.json'), JSON.stringify(optimizer(1e38)))
  write(at('calm.json'), JSON.stringify(optimizer(0.01)))
  const wild = await train(
    cwd,
    '--data',
    data,
    '--config',
    'wild.json',
    '--steps',
    '5',
    '--save',
    'out',
    '--save-every',
    '1',
  )
  failsWith(t, wild, /expected a finite number/)
  const done = linesOf(wild).filter(({ type }) => type === 'step').length
  const saved = listCheckpoints(at('out')).map(({ step }) => step)
  t.true(saved.every((step) => step <= done))
})

test('--resume: another architecture, another optimizer, changed bytes', async (t) => {
  const { folder: cwd, data, at } = workshop(t)
  const made = await train(cwd, '--data', data, '--steps', '2', '--save', 'out')
  t.is(made.code, 0, made.stderr)
  const resume = (...args: readonly string[]) => train(cwd, '--data', data, '--steps', '4', '--resume', 'out', ...args)
  failsWith(
    t,
    await resume('--hidden', '32'),
    /resume: tensor \S+ of out\/global_step2\/model\.safetensors, expected \[.*32.*\], got \[.*16.*\]/,
  )
  failsWith(
    t,
    await resume('--layers', '2'),
    /tensor transformer\.h\.1\.\S+ of out\/global_step2\/model\.safetensors, expected \[16\], got none/,
  )
  config({ train_batch_size: 8, optimizer: { type: 'SGD', params: { lr: 0.1 } } })(at)
  failsWith(t, await resume('--config', 'c.json'), /resume: optimizer of out\/global_step2, expected sgd .*, got adam/)
  const weights = at('out', 'global_step2', 'model.safetensors')
  const bytes = readFileSync(weights)
  bytes[bytes.length - 5]! ^= 1
  writeFileSync(weights, bytes)
  failsWith(
    t,
    await resume(),
    /file model\.safetensors of checkpoint out\/global_step2, expected the checksum of the manifest/,
  )
  truncateSync(weights, 1000)
  failsWith(
    t,
    await resume(),
    /file model\.safetensors of checkpoint out\/global_step2, expected \d+ bytes, got 1000 bytes/,
  )
  write(at('out', 'global_step2', 'manifest.json'), '{')
  failsWith(t, await resume(), /manifest\.json of checkpoint out\/global_step2, expected JSON/)
})

test('a checkpoint with more layers than the model asked for is refused', async (t) => {
  const { folder: cwd, data } = workshop(t)
  const made = await train(cwd, '--data', data, '--layers', '2', '--steps', '1', '--save', 'out')
  t.is(made.code, 0, made.stderr)
  const outcome = await train(cwd, '--data', data, '--layers', '1', '--steps', '2', '--resume', 'out')
  failsWith(t, outcome, /tensor transformer\.h\.1\.\S+ of out\/global_step1\/model\.safetensors, expected none/)
})

test('a disk that fills up during a save is one error; the checkpoints before it stay whole', async (t) => {
  const { folder: cwd, data, at } = workshop(t)
  mkdirSync(at('disk'))
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', at('disk')]).status !== 0) {
    t.log('skipped: mounting a small disk needs root')
    t.pass()
    return
  }
  try {
    const args = ['--data', data, '--steps', '9', '--save', 'disk/out', '--save-every', '1']
    const outcome = await train(cwd, ...args)
    failsWith(t, outcome, /save: folder disk\/out, expected to write global_step\d+, got ENOSPC/)
    const whole = listCheckpoints(at('disk', 'out'))
    t.true(whole.length > 0)
    t.deepEqual(
      filesOf(at('disk', 'out')).filter((name) => name.startsWith('.')),
      [],
    )
    const resumed = await train(cwd, '--data', data, '--steps', '9', '--resume', 'disk/out')
    t.is(resumed.code, 0, resumed.stderr)
    t.deepEqual(
      curve(linesOf(resumed))
        .map(([step]) => step)
        .at(-1),
      9,
    )
  } finally {
    spawnSync('umount', [at('disk')])
  }
})

test('a file in the way of a checkpoint is one error that names the folder', async (t) => {
  const { folder: cwd, data, at } = workshop(t)
  write(at('out', '.writing-global_step2', 'x'), '')
  write(at('out', 'latest', 'x'), '')
  const outcome = await train(cwd, '--data', data, '--steps', '2', '--save', 'out')
  failsWith(t, outcome, /save: folder out, expected to write global_step2, got E\w+/)
})
