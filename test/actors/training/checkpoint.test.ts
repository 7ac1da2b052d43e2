// Checkpoints: a resumed run goes on with the same bits, whatever ranks, stage and threads it has; the files are readable by others
// and damage is one clear error.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { initialize } from '../../../actors/engine/engine.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import { CheckpointError } from '../../../runtime/checkpoint/error.js'
import { listCheckpoints, readManifest } from '../../../runtime/checkpoint/manifest.js'
import { SafetensorsFile } from '../../../runtime/checkpoint/safetensors.js'
import type { DeepSpeedConfig } from '../../../runtime/config/index.js'
import { modelFromFolder } from '../../../runtime/nn/models/huggingface.js'
import { namedParameters } from '../../../runtime/nn/module.js'
import {
  type Curve,
  curveOf,
  relativeDifference,
  smallModel,
  sourceFor,
  tinyModel,
  trainConfig,
  withFolder,
} from '../../support/training.js'

type Stage = 0 | 1 | 2 | 3

/** A schedule that moves and 19 samples for steps of 8: schedule, bias correction, dropout and data position all matter. */
function run(stage: Stage, ranks: number, threads = 1, more: Partial<InitializeOptions> = {}): InitializeOptions {
  const model = tinyModel({ dropout: 0.1 })
  const config = trainConfig(
    { train: 8, micro: 2 },
    {
      gradient_clipping: 0.5,
      scheduler: { type: 'WarmupDecayLR', params: { total_num_steps: 20, warmup_num_steps: 5, warmup_max_lr: 3e-3 } },
      zero_optimization: { stage, stage3_param_persistence_threshold: 200 },
    },
  )
  return { model, data: sourceFor(model, 19), config, ranks, threads, ...more }
}

const part = ({ losses, norms }: Curve, from: number): Curve => ({
  losses: losses.slice(from),
  norms: norms.slice(from),
})

let known: Promise<Curve> | undefined
/** Ten steps without a break. */
function whole(): Promise<Curve> {
  known ??= (async () => {
    await using engine = await initialize(run(0, 1))
    return await curveOf(engine, 10)
  })()
  return known
}

/** Trains four steps and saves, in a tree of actors that ends. */
async function saveAfterFour(folder: string, options: InitializeOptions): Promise<string> {
  await using engine = await initialize(options)
  await engine.train({ steps: 4 })
  return await engine.save(folder)
}

const pairs: readonly (readonly [[Stage, number, number], [Stage, number, number]])[] = [
  [
    [0, 1, 1],
    [0, 1, 1],
  ],
  [
    [2, 2, 1],
    [2, 2, 1],
  ],
  [
    [3, 4, 1],
    [0, 1, 2],
  ],
  [
    [0, 2, 2],
    [3, 4, 1],
  ],
  [
    [1, 4, 1],
    [2, 1, 1],
  ],
  [
    [2, 1, 1],
    [3, 2, 2],
  ],
  [
    [3, 2, 1],
    [1, 4, 1],
  ],
]
for (const [from, to] of pairs) {
  const show = ([stage, ranks, threads]: readonly number[]): string =>
    `ZeRO ${stage} on ${ranks} ranks of ${threads} threads`
  test.serial(`resumed bit by bit: from ${show(from)} to ${show(to)}`, async (t) => {
    await withFolder(async (folder) => {
      const path = await saveAfterFour(folder, run(...from))
      t.is(path, join(folder, 'global_step4'))
      await using engine = await initialize(run(...to, { seed: 99 }))
      // The seed is the checkpoint's; both ways to name the checkpoint.
      await engine.load(from[1] === 1 ? folder : path)
      t.is(engine.step, 4)
      t.deepEqual(await curveOf(engine, 10), part(await whole(), 4))
    })
  })
}

/** fp16 with a scale that overflows, grows and overflows again within ten steps. */
const halves = {
  bf16: { bf16: { enabled: true } },
  fp16: { fp16: { enabled: true, initial_scale_power: 21, loss_scale_window: 2 } },
} as const

const halfRun = (name: keyof typeof halves, stage: Stage, ranks: number, keepInFp32?: RegExp): InitializeOptions => {
  const options = run(stage, ranks)
  const config = { ...(options.config as DeepSpeedConfig), ...halves[name] }
  return { ...options, config, ...(keepInFp32 && { keepInFp32 }) }
}

for (const name of ['bf16', 'fp16'] as const) {
  test.serial(`${name} is resumed bit by bit across stages and ranks, from fp32 masters`, async (t) => {
    for (const keep of [undefined, /ln_/]) {
      await using straight = await initialize(halfRun(name, 0, 1, keep))
      const expected = await curveOf(straight, 10)
      for (const [from, to] of [
        [
          [3, 4],
          [0, 1],
        ],
        [
          [0, 1],
          [2, 2],
        ],
        [
          [1, 2],
          [3, 2],
        ],
      ] as const) {
        await withFolder(async (folder) => {
          const path = await saveAfterFour(folder, halfRun(name, from[0], from[1], keep))
          const file = new SafetensorsFile(join(path, 'model.safetensors'))
          t.true([...file.tensors.values()].every(({ dtype }) => dtype === 'F32'))
          file.close()
          await using engine = await initialize(halfRun(name, to[0], to[1], keep))
          await engine.load(path)
          t.deepEqual(await curveOf(engine, 10), part(expected, 4))
        })
      }
    }
  })
}

test.serial('the loss scaler is saved with its counts, and resumed with them', async (t) => {
  await withFolder(async (folder) => {
    const path = await saveAfterFour(folder, halfRun('fp16', 2, 2))
    const { progress } = readManifest(path)
    t.is(progress.step, 4)
    t.true(progress.applied < 4)
    const { loss_scale: scaler } = progress
    t.is(scaler!.iteration, 4)
    t.true(scaler!.scale < 2 ** 21 && scaler!.last_overflow >= 1)
    await using engine = await initialize(halfRun('fp16', 0, 1))
    await engine.load(path)
    const event = await engine.trainBatch()
    t.is(event.loss_scale, scaler!.scale)
    t.is(event.skipped_steps, 4 - progress.applied + (event.skipped ? 1 : 0))
    // A scale that the configuration fixes is not the checkpoint's.
    const fixed = halfRun('fp16', 0, 1)
    const config = { ...(fixed.config as DeepSpeedConfig), fp16: { enabled: true, loss_scale: 64 } }
    await using still = await initialize({ ...fixed, config })
    await still.load(path)
    t.is((await still.trainBatch()).loss_scale, 64)
  })
})

test.serial('a checkpoint goes on in another dtype from the same masters', async (t) => {
  await withFolder(async (folder) => {
    const path = await saveAfterFour(folder, halfRun('bf16', 2, 2))
    const next = async (options: InitializeOptions): Promise<number> => {
      await using engine = await initialize(options)
      await engine.load(path)
      return (await engine.trainBatch()).loss
    }
    const losses = [await next(run(0, 1)), await next(halfRun('bf16', 0, 1)), await next(halfRun('fp16', 0, 1))]
    t.is(new Set(losses).size, 3)
    for (const loss of losses) t.true(Math.abs(loss - losses[0]!) < 2e-3)
  })
})

test.serial('a run that goes back to its own checkpoint repeats itself', async (t) => {
  await withFolder(async (folder) => {
    await using engine = await initialize(run(2, 2))
    await engine.train({ steps: 4 })
    await engine.save(folder)
    const first = await curveOf(engine, 10)
    await engine.load(folder)
    t.deepEqual(await curveOf(engine, 10), first)
    t.deepEqual(first, part(await whole(), 4))
  })
})

test.serial('SGD with momentum is resumed bit by bit', async (t) => {
  const options = (stage: Stage, ranks: number): InitializeOptions => ({
    ...run(stage, ranks),
    config: trainConfig(
      { train: 8, micro: 2 },
      { optimizer: { type: 'SGD', params: { lr: 0.05, momentum: 0.9 } }, zero_optimization: { stage } },
    ),
  })
  await withFolder(async (folder) => {
    await using engine = await initialize(options(3, 2))
    await engine.train({ steps: 4 })
    const path = await engine.save(folder)
    const rest = await curveOf(engine, 8)
    await using resumed = await initialize(options(1, 1))
    await resumed.load(path)
    t.deepEqual(await curveOf(resumed, 8), rest)
    const file = new SafetensorsFile(join(path, 'optimizer.safetensors'))
    t.true([...file.tensors.keys()].every((name) => name.endsWith('.momentum_buffer')))
    file.close()
  })
})

test.serial('resumed at another micro-batch size: within 1e-5 over 15 steps of the small model', async (t) => {
  const options = (micro: number, ranks: number): InitializeOptions => {
    const model = smallModel()
    const config = trainConfig({ train: 8, micro }, { zero_optimization: { stage: 2 } })
    return { model, data: sourceFor(model), config, ranks, threads: 1 }
  }
  await withFolder(async (folder) => {
    await using engine = await initialize(options(4, 2))
    await engine.train({ steps: 10 })
    await engine.save(folder)
    const rest = await curveOf(engine, 25)
    for (const [micro, ranks] of [
      [1, 2],
      [8, 1],
    ] as const) {
      await using other = await initialize(options(micro, ranks))
      await other.load(folder)
      const difference = relativeDifference((await curveOf(other, 25)).losses, rest.losses)
      t.log(`micro-batches of ${micro}: ${difference}`)
      t.true(difference < 1e-5)
    }
  })
})

test.serial('checkpoints that are written while training goes on hold the step they name', async (t) => {
  const expected = await whole()
  await withFolder(async (folder) => {
    const saved: number[] = []
    {
      await using engine = await initialize(run(3, 2, 1, { checkpoints: { folder, every: 2 } }))
      engine.events$.subscribe((event) => {
        if (event.type === 'checkpoint') saved.push(event.step)
      })
      t.deepEqual(await curveOf(engine, 10), expected)
    }
    t.deepEqual(saved, [2, 4, 6, 8, 10])
    t.deepEqual(
      listCheckpoints(folder).map(({ step }) => step),
      saved,
    )
    t.is(readFileSync(join(folder, 'latest'), 'utf8'), 'global_step10\n')
    for (const step of [2, 6, 8]) {
      await using engine = await initialize(run(1, 2))
      await engine.load(join(folder, `global_step${step}`))
      t.deepEqual(await curveOf(engine, 10), part(expected, step))
    }
  })
})

test.serial('only the newest are kept', async (t) => {
  await withFolder(async (folder) => {
    {
      await using engine = await initialize(run(0, 1, 1, { checkpoints: { folder, every: 1, keep: 2 } }))
      await engine.train({ steps: 5 })
    }
    t.deepEqual(readdirSync(folder).toSorted(), ['global_step4', 'global_step5', 'latest'])
  })
})

test.serial('what is in a checkpoint: a Hugging Face folder, named states, a manifest that fits', async (t) => {
  await withFolder(async (folder) => {
    const options = run(3, 2)
    const path = await saveAfterFour(folder, { ...options, tokenizer: '{"made":"up"}' })
    t.deepEqual(readdirSync(path).toSorted(), [
      'config.json',
      'manifest.json',
      'model.safetensors',
      'optimizer.safetensors',
      'tokenizer.json',
    ])
    t.is(readFileSync(join(path, 'tokenizer.json'), 'utf8'), '{"made":"up"}')
    const manifest = readManifest(path)
    t.deepEqual(manifest.progress, { step: 4, applied: 4, samples: 32, seed: 1234, shuffle: true })
    t.deepEqual(manifest.optimizer, { kind: 'adam', states: ['exp_avg', 'exp_avg_sq'] })
    t.is(manifest.writer.ranks, 2)
    t.is(manifest.writer.stage, 3)

    const { model, weights, folder: files } = modelFromFolder(path)
    const names = namedParameters(options.model).map(({ name, parameter }) => [name, [...parameter.shape]] as const)
    t.deepEqual(
      namedParameters(model).map(({ name, parameter }) => [name, [...parameter.shape]] as const),
      names,
    )
    t.is(files.config.tie_word_embeddings, true)
    weights.close()

    const states = new SafetensorsFile(join(path, 'optimizer.safetensors'))
    for (const [name, shape] of names) {
      const second = new Float32Array(shape.reduce((a, b) => a * b, 1))
      for (const state of ['exp_avg', 'exp_avg_sq']) {
        t.deepEqual(states.tensor(`${name}.${state}`).shape, shape)
        states.readFloats(`${name}.${state}`, 0, second)
      }
      t.true(second.every((value) => value >= 0) && second.some((value) => value > 0), name)
    }
    t.is(states.tensors.size, 2 * names.length)
    states.close()

    // Trained weights that a new run starts from are the ones saved.
    const again = modelFromFolder(path)
    await using engine = await initialize({ model: again.model, weights: again.weights })
    await using resumed = await initialize(run(0, 1))
    await resumed.load(path)
    const ids = [3, 1, 4, 1, 5, 9]
    t.deepEqual(await engine.forward(ids), await resumed.forward(ids))
    again.weights.close()
  })
})

test.serial('damage is one clear error and leaves the run as it was', async (t) => {
  await withFolder(async (folder) => {
    const path = await saveAfterFour(folder, run(2, 2))
    await using engine = await initialize(run(2, 2))
    const fails = async (what: RegExp): Promise<void> => {
      const error = await t.throwsAsync(engine.load(folder), { instanceOf: CheckpointError })
      t.regex(error!.message, what)
      t.false(error!.message.includes('\n'))
      t.is(engine.step, 0)
    }
    for (const name of ['model.safetensors', 'optimizer.safetensors', 'config.json']) {
      const file = join(path, name)
      const bytes = readFileSync(file)
      const flipped = Buffer.from(bytes)
      flipped[flipped.length - 9]! ^= 1
      writeFileSync(file, flipped)
      await fails(
        new RegExp(
          `^resume: file ${name} of checkpoint .*global_step4, expected the checksum of the manifest, got another`,
        ),
      )
      writeFileSync(file, bytes.subarray(0, -1))
      await fails(
        new RegExp(
          `^resume: file ${name} of checkpoint .*, expected ${bytes.length} bytes, got ${bytes.length - 1} bytes$`,
        ),
      )
      writeFileSync(file, bytes)
    }
    const manifest = join(path, 'manifest.json')
    const text = readFileSync(manifest, 'utf8')
    writeFileSync(manifest, text.slice(0, 100))
    await fails(/^resume: manifest.json of checkpoint .*, expected JSON, got /)
    writeFileSync(manifest, text.replace('"version": 1', '"version": 7'))
    await fails(/^resume: version of checkpoint .*, expected 1, got 7$/)
    writeFileSync(manifest, '{"format":"deeptroupe-checkpoint","version":1}')
    await fails(/^resume: progress of checkpoint .*, expected object, got none$/)
    writeFileSync(manifest, text)
    await engine.load(folder)
    t.deepEqual(await curveOf(engine, 10), part(await whole(), 4))
  })
})

test.serial('a checkpoint of another model or optimizer is refused by name', async (t) => {
  await withFolder(async (folder) => {
    await saveAfterFour(folder, run(2, 2))
    {
      const model = tinyModel({ hidden: 48 })
      await using engine = await initialize({ ...run(2, 2), model })
      await t.throwsAsync(engine.load(folder), {
        instanceOf: CheckpointError,
        message: /^resume: tensor transformer.wte.weight of .*, expected \[61, 48\], got \[61, 36\]$/,
      })
    }
    const config = trainConfig({ train: 8, micro: 2 }, { optimizer: { type: 'SGD', params: { lr: 0.1 } } })
    await using engine = await initialize({ ...run(2, 2), config })
    await t.throwsAsync(engine.load(folder), {
      instanceOf: CheckpointError,
      message: /^resume: optimizer of .*, expected sgd \(no states\), got adam \(exp_avg, exp_avg_sq\)$/,
    })
    await t.throwsAsync(engine.load(join(folder, 'nothing')), {
      instanceOf: CheckpointError,
      message: /^resume: checkpoint .*nothing, expected a checkpoint or a folder of them, got no such folder$/,
    })
  })
})

test.serial('leftovers of a save that was cut off are not checkpoints and are cleared away', async (t) => {
  await withFolder(async (folder) => {
    await saveAfterFour(folder, run(0, 1))
    const draft = join(folder, '.writing-global_step9')
    mkdirSync(draft)
    writeFileSync(join(draft, 'model.safetensors'), 'cut off')
    await using engine = await initialize(run(0, 1))
    await engine.load(folder)
    t.is(engine.step, 4)
    await engine.save(folder)
    t.false(existsSync(draft))
  })
})

test.serial(
  'a save that was cut off while it replaced the checkpoint of its own step leaves that one usable',
  async (t) => {
    await withFolder(async (folder) => {
      const path = await saveAfterFour(folder, run(0, 1))
      renameSync(path, `${path}.replaced`)
      await using engine = await initialize(run(0, 1))
      await engine.load(folder)
      t.is(engine.step, 4)
      t.is(await engine.save(folder), path)
      t.deepEqual(readdirSync(folder).toSorted(), ['global_step4', 'latest'])
      await engine.load(folder)
      t.deepEqual(await curveOf(engine, 10), part(await whole(), 4))
    })
  },
)
