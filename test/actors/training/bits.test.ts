// The order rules end to end: for one micro-batch size and one global batch, losses and gradient norms are the same bits whatever
// the ZeRO stage, ranks, threads, buckets, gathers and recomputation. A short matrix on a tiny model; `npm run campaign` has the long one.
import test from 'ava'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import type { DeepSpeedConfig } from '../../../runtime/config/index.js'
import {
  type Curve,
  curve,
  relativeDifference,
  smallModel,
  sourceFor,
  tinyModel,
  trainConfig,
} from '../../support/training.js'

const steps = 8
const base = (more: Partial<InitializeOptions> = {}, zero: DeepSpeedConfig['zero_optimization'] = {}, micro = 2) => {
  const model = tinyModel({ dropout: 0.1 })
  const config = trainConfig({ train: 8, micro }, { gradient_clipping: 0.5, zero_optimization: zero })
  return { model, data: sourceFor(model), config, ranks: 1, threads: 1, ...more }
}

const known = new Map<number, Promise<Curve>>()
/** One rank, one thread, ZeRO 0. */
function truth(micro = 2): Promise<Curve> {
  const found = known.get(micro) ?? curve(base({}, { stage: 0 }, micro), steps)
  known.set(micro, found)
  return found
}

test.serial('the run that others are compared with learns, and clipping acts on it', async (t) => {
  const { losses, norms } = await truth()
  t.is(losses.length, steps)
  t.is(new Set(losses).size, steps)
  t.true(losses.at(-1)! < losses[0]!)
  t.true(norms.every((norm) => norm > 0.5))
  const unclipped = await curve(
    { ...base(), config: trainConfig({ train: 8, micro: 2 }, { gradient_clipping: 0 }) },
    steps,
  )
  t.is(unclipped.norms[0], norms[0])
  t.not(unclipped.losses.at(-1), losses.at(-1))
})

test.serial('a repeat gives the same bits, another seed others', async (t) => {
  t.deepEqual(await curve(base(), steps), await truth())
  const other = await curve(base({ seed: 5 }), steps)
  const { losses } = await truth()
  t.true(other.losses.every((loss, s) => loss !== losses[s]))
})

for (const ranks of [1, 2, 4]) {
  for (const stage of [0, 1, 2, 3] as const) {
    // Thread counts and accumulation alternate here and are all crossed in the campaign: micro 1 is 8, 4 and 2 micro-steps, micro 2 half.
    for (const [threads, micro] of [
      [1 + (stage % 2), 2],
      [2 - (stage % 2), 1],
    ] as const) {
      test.serial(`ZeRO ${stage} on ${ranks} ranks of ${threads} threads, micro-batches of ${micro}`, async (t) => {
        t.deepEqual(await curve(base({ ranks, threads }, { stage }, micro), steps), await truth(micro))
      })
    }
  }
}

const variants: Readonly<Record<string, [DeepSpeedConfig['zero_optimization'], Partial<InitializeOptions>?]>> = {
  'activation checkpointing': [{ stage: 2 }, { checkpointActivations: true }],
  'activation checkpointing in ZeRO 3': [
    { stage: 3, stage3_param_persistence_threshold: 0 },
    { checkpointActivations: true },
  ],
  'small buckets in ZeRO 1': [{ stage: 1, reduce_bucket_size: 1, allgather_bucket_size: 1 }],
  'small buckets in ZeRO 2': [{ stage: 2, reduce_bucket_size: 5000, allgather_bucket_size: 5000 }],
  'large buckets in ZeRO 2': [{ stage: 2, reduce_bucket_size: 1e9, allgather_bucket_size: 1e9 }],
  'nothing persistent': [{ stage: 3, stage3_param_persistence_threshold: 0 }],
  'biases and norms persistent': [{ stage: 3, stage3_param_persistence_threshold: 200 }],
  'some persistent, up to a limit': [
    { stage: 3, stage3_param_persistence_threshold: 200, stage3_model_persistence_threshold: 300 },
  ],
  'everything persistent': [{ stage: 3, stage3_param_persistence_threshold: 1e6 }],
  'no prefetch, no reuse': [
    { stage: 3, stage3_param_persistence_threshold: 0, stage3_prefetch_bucket_size: 0, stage3_max_reuse_distance: 0 },
  ],
  'few live parameters': [{ stage: 3, stage3_param_persistence_threshold: 0, stage3_max_live_parameters: 20000 }],
}
for (const [i, [name, [zero, more]]] of Object.entries(variants).entries()) {
  const ranks = i % 2 === 0 ? 2 : 4
  test.serial(`${name}, ${ranks} ranks`, async (t) => {
    t.deepEqual(await curve(base({ ranks, ...more }, zero), steps), await truth())
  })
}

/** Settings of lower precision, each with its own truth: one rank, one thread, ZeRO 0. */
const halves: Readonly<Record<string, [DeepSpeedConfig, Partial<InitializeOptions>?]>> = {
  bf16: [{ bf16: { enabled: true } }],
  fp16: [{ fp16: { enabled: true, initial_scale_power: 21, loss_scale_window: 2, hysteresis: 1 } }],
  'bf16 with gradients in fp32': [{ bf16: { enabled: true }, communication_data_type: 'fp32' }],
  'bf16 added up in bf16': [{ bf16: { enabled: true }, data_types: { grad_accum_dtype: 'bf16' } }],
  'bf16 with norms and one block in fp32': [{ bf16: { enabled: true } }, { keepInFp32: /ln_|h\.1$/ }],
  'autocast to bf16': [{ torch_autocast: { enabled: true } }],
}
const truths = new Map<string, Promise<Curve>>()
const half = (name: string, more: Partial<InitializeOptions>, zero: DeepSpeedConfig['zero_optimization']) => {
  const [config, options] = halves[name]!
  const made = base({ ...options, ...more }, zero)
  return { ...made, config: { ...(made.config as DeepSpeedConfig), ...config } }
}
function halfTruth(name: string): Promise<Curve> {
  const found = truths.get(name) ?? curve(half(name, {}, { stage: 0 }), steps)
  truths.set(name, found)
  return found
}

for (const name of Object.keys(halves)) {
  const main = name === 'bf16' || name === 'fp16'
  for (const [i, stage] of ([0, 1, 2, 3] as const).entries()) {
    for (const ranks of main ? [1, 2, 4] : [i % 2 === 0 ? 2 : 4]) {
      const threads = 1 + ((stage + ranks) % 2)
      test.serial(`${name}: ZeRO ${stage} on ${ranks} ranks of ${threads} threads`, async (t) => {
        const zero = { stage, stage3_param_persistence_threshold: main ? 200 : 0 }
        t.deepEqual(await curve(half(name, { ranks, threads }, zero), steps), await halfTruth(name))
      })
    }
  }
  test.serial(`${name}: recomputation and small buckets change no bit`, async (t) => {
    const zero = { stage: 2, reduce_bucket_size: 5000, allgather_bucket_size: 5000 } as const
    const { losses, norms } = await halfTruth(name)
    t.is(new Set(losses).size, steps)
    t.true(norms.some((norm) => norm > 0.5))
    t.deepEqual(await curve(half(name, { ranks: 2, checkpointActivations: true }, zero), steps), { losses, norms })
  })
}

test.serial('lower precision differs from fp32, each in its own way; fp16 skips its first steps', async (t) => {
  const curves = await Promise.all(['bf16', 'fp16', 'bf16 added up in bf16', 'autocast to bf16'].map(halfTruth))
  const last = [await truth(), ...curves].map(({ losses }) => losses.at(-1))
  t.is(new Set(last).size, last.length)
  const { norms } = await halfTruth('fp16')
  t.is(norms[0], -1)
  t.true(norms.at(-1)! > 0)
})

for (const dtype of ['bf16', 'fp16'] as const) {
  test.serial(`SGD in ${dtype}: the same bits in every stage`, async (t) => {
    const options = (ranks: number, stage: 0 | 1 | 2 | 3): InitializeOptions => ({
      ...base({ ranks }),
      config: trainConfig(
        { train: 8, micro: 2 },
        {
          [dtype]: { enabled: true, ...(dtype === 'fp16' && { loss_scale: 256 }) },
          optimizer: { type: 'SGD', params: { lr: 0.1, momentum: 0.9, weight_decay: 0.01 } },
          zero_optimization: { stage, stage3_param_persistence_threshold: 200 },
        },
      ),
    })
    const first = await curve(options(1, 0), steps)
    t.true(first.losses.at(-1)! < first.losses[0]!)
    for (const stage of [0, 1, 2, 3] as const) t.deepEqual(await curve(options(2, stage), steps), first)
  })
}

test.serial('SGD with momentum: the same bits in every stage', async (t) => {
  const options = (ranks: number, stage: 0 | 1 | 2 | 3): InitializeOptions => ({
    ...base({ ranks }),
    config: trainConfig(
      { train: 8, micro: 2 },
      {
        optimizer: { type: 'SGD', params: { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01 } },
        zero_optimization: { stage, stage3_param_persistence_threshold: 200 },
      },
    ),
  })
  const first = await curve(options(1, 0), steps)
  t.true(first.losses.at(-1)! < first.losses[0]!)
  for (const stage of [1, 3] as const) t.deepEqual(await curve(options(2, stage), steps), first)
})

test.serial('micro-batches of another size: losses of the small model within 2e-6 for 50 steps', async (t) => {
  const run = (micro: number, ranks: number): Promise<Curve> => {
    const model = smallModel()
    const config = trainConfig({ train: 8, micro }, { zero_optimization: { stage: 2 } })
    return curve({ model, data: sourceFor(model), config, ranks, threads: 1 }, 50)
  }
  const whole = await run(8, 1)
  t.true(whole.losses[49]! < whole.losses[0]! - 1)
  for (const [micro, ranks] of [
    [4, 2],
    [2, 1],
    [1, 2],
  ] as const) {
    const other = await run(micro, ranks)
    t.notDeepEqual(other.losses, whole.losses)
    const difference = relativeDifference(other.losses, whole.losses)
    t.log(`micro-batches of ${micro}: ${difference}`)
    t.true(difference < 2e-6, `micro-batches of ${micro}: ${difference}`)
  }
})
