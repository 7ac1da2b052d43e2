// save16bitModel: the folder holds the weights that the model computes with, which are the fp32 masters of a checkpoint of the same
// step rounded to nearest even, in every ZeRO stage; it is a Hugging Face folder and nothing to resume from.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type Engine, initialize } from '../../../actors/engine/engine.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import { storedAs } from '../../../kernels/reference/storage.js'
import { CheckpointError } from '../../../runtime/checkpoint/error.js'
import { SafetensorsFile } from '../../../runtime/checkpoint/safetensors.js'
import { modelFromFolder } from '../../../runtime/nn/models/huggingface.js'
import { sourceFor, tinyModel, trainConfig, withFolder } from '../../support/training.js'

type Stage = 0 | 1 | 2 | 3

const dtypes = {
  fp32: {},
  bf16: { bf16: { enabled: true } },
  fp16: { fp16: { enabled: true, initial_scale_power: 8 } },
} as const

function run(dtype: keyof typeof dtypes, stage: Stage, ranks: number, gather = true): InitializeOptions {
  const model = tinyModel()
  const zero = { stage, stage3_param_persistence_threshold: 200, stage3_gather_16bit_weights_on_model_save: gather }
  const config = { ...trainConfig({ train: 8, micro: 2 }, { zero_optimization: zero }), ...dtypes[dtype] }
  return { model, data: sourceFor(model, 19), config, ranks, threads: 1 }
}

/** Nearest even, by the bits of a finite number. */
function bf16BitsOf(value: number): number {
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0]!
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}

const roundings: Readonly<Record<string, (value: number) => number>> = { BF16: bf16BitsOf, F16: storedAs('f16') }

/** Both files' tensors: `expected` in f32, `got` in `dtypeOf` of its name. */
function compare(path: string, masters: string, dtypeOf: (name: string) => string): string[] {
  const got = new SafetensorsFile(path)
  const expected = new SafetensorsFile(masters)
  const wrong: string[] = []
  for (const [name, { dtype, shape }] of got.tensors) {
    const count = shape.reduce((a, b) => a * b, 1)
    const values = new Float32Array(count)
    expected.readFloats(name, 0, values)
    const wide = dtype === 'F32'
    const bits = wide ? new Float32Array(count) : new Uint16Array(count)
    got.readBytes(name, 0, new Uint8Array(bits.buffer))
    const round = wide ? (value: number) => value : roundings[dtype]!
    if (dtype !== dtypeOf(name) || !bits.every((value, i) => value === round(values[i]!))) wrong.push(name)
  }
  if (got.tensors.size !== expected.tensors.size) wrong.push(`${got.tensors.size} tensors`)
  got.close()
  expected.close()
  return wrong
}

const noticesOf = (engine: Engine): string[] => {
  const notices: string[] = []
  engine.events$.subscribe((event) => {
    if (event.type === 'notice') notices.push(event.message)
  })
  return notices
}

for (const [dtype, stored, named] of [
  ['bf16', 'BF16', 'bfloat16'],
  ['fp16', 'F16', 'float16'],
  ['fp32', 'F32', 'float32'],
] as const) {
  for (const [stage, ranks] of [
    [0, 1],
    [2, 2],
    [3, 2],
    [3, 4],
  ] as const) {
    test.serial(`${dtype} under ZeRO ${stage} on ${ranks} ranks: the masters rounded once`, async (t) => {
      await withFolder(async (folder) => {
        const out = join(folder, 'weights')
        await using engine = await initialize({ ...run(dtype, stage, ranks), tokenizer: '{"made":"up"}' })
        await engine.train({ steps: 3 })
        const checkpoint = await engine.save(join(folder, 'checkpoints'))
        t.true(await engine.save16bitModel(out))
        t.deepEqual(readdirSync(out).toSorted(), ['config.json', 'model.safetensors', 'tokenizer.json'])
        t.deepEqual(
          compare(join(out, 'model.safetensors'), join(checkpoint, 'model.safetensors'), () => stored),
          [],
        )
        t.like(JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')), { dtype: named, torch_dtype: named })
        // What the run computes, the folder computes.
        const { model, weights } = modelFromFolder(out)
        await using other = await initialize({ model, weights, config: { ...dtypes[dtype], train_batch_size: 1 } })
        t.deepEqual(await other.forward([3, 1, 4, 1, 5]), await engine.forward([3, 1, 4, 1, 5]))
        weights.close()
      })
    })
  }
}

test.serial('modules that are kept in fp32 keep their dtype', async (t) => {
  await withFolder(async (folder) => {
    await using engine = await initialize({ ...run('bf16', 2, 2), keepInFp32: /ln_/ })
    await engine.train({ steps: 2 })
    const checkpoint = await engine.save(join(folder, 'checkpoints'))
    t.true(await engine.save16bitModel(folder))
    const dtypeOf = (name: string): string => (/ln_/.test(name) ? 'F32' : 'BF16')
    t.deepEqual(compare(join(folder, 'model.safetensors'), join(checkpoint, 'model.safetensors'), dtypeOf), [])
  })
})

test.serial('under ZeRO 3 without the gathering key nothing is written, and a notice names the key', async (t) => {
  await withFolder(async (folder) => {
    await using engine = await initialize(run('bf16', 3, 2, false))
    const notices = noticesOf(engine)
    t.false(await engine.save16bitModel(join(folder, 'weights')))
    t.deepEqual(readdirSync(folder), [])
    t.regex(notices.join(), /^save16bitModel: .* only with stage3_gather_16bit_weights_on_model_save$/)
  })
})

test.serial('training goes on afterwards; a folder is written over, a checkpoint is not', async (t) => {
  await withFolder(async (folder) => {
    const losses = async (options: InitializeOptions, out: string | null): Promise<number[]> => {
      await using engine = await initialize(options)
      const all: number[] = []
      engine.events$.subscribe((event) => {
        if (event.type === 'step') all.push(event.loss)
      })
      for (let steps = 1; steps <= 4; steps++) {
        await engine.train({ steps })
        if (out) t.true(await engine.save16bitModel(out))
      }
      return all
    }
    const out = join(folder, 'weights')
    t.deepEqual(await losses(run('bf16', 3, 2), out), await losses(run('bf16', 3, 2), null))
    t.deepEqual(readdirSync(out).toSorted(), ['config.json', 'model.safetensors'])

    await using engine = await initialize(run('bf16', 3, 2))
    const checkpoint = await engine.save(join(folder, 'checkpoints'))
    await t.throwsAsync(engine.save16bitModel(checkpoint), {
      instanceOf: CheckpointError,
      message: /^save16bitModel: folder .*global_step0, expected one without manifest.json, got a checkpoint$/,
    })
    writeFileSync(join(folder, 'file'), '')
    await t.throwsAsync(engine.save16bitModel(join(folder, 'file', 'below')), {
      instanceOf: CheckpointError,
      message: /^save16bitModel: folder .*below, expected to write config.json, model.safetensors, got ENOTDIR/,
    })
    t.is((await engine.trainBatch()).step, 1)
  })
})
