// The bit rules on the small model for 50 steps: first the whole matrix of stages, ranks, threads and micro-batch sizes in a seeded
// order, then random settings of everything that may not change a bit, until the time is up.
import { type InitializeOptions, prepare } from '../../actors/engine/prepare.js'
import type { DeepSpeedConfig } from '../../runtime/config/index.js'
import { planTotals } from '../../runtime/graph/compile.js'
import { type Curve, curve, smallModel, sourceFor, trainConfig } from '../support/training.js'
import { type Campaign, Draws } from './campaign.js'

const steps = 50

/** Dtypes of a run; fp16 overflows at first, and again when its scale has grown. */
const precisions = {
  fp32: {},
  bf16: { bf16: { enabled: true } },
  'bf16, gradients in fp32': { bf16: { enabled: true }, communication_data_type: 'fp32' },
  'bf16 throughout': { bf16: { enabled: true }, data_types: { grad_accum_dtype: 'bf16' } },
  fp16: { fp16: { enabled: true, initial_scale_power: 20, loss_scale_window: 5, hysteresis: 1 } },
  autocast: { torch_autocast: { enabled: true } },
} as const satisfies Readonly<Record<string, DeepSpeedConfig>>

/** What may change bits: the micro-batch size and the mathematics. */
interface Meaning {
  readonly micro: number
  readonly precision: keyof typeof precisions
  /** Whether layer norms stay in fp32. */
  readonly keepNorms?: boolean
  readonly optimizer: DeepSpeedConfig['optimizer']
}

/** What may not. */
interface Setting {
  readonly stage: 0 | 1 | 2 | 3
  readonly ranks: number
  readonly threads: number
  readonly zero?: DeepSpeedConfig['zero_optimization']
  readonly checkpointActivations?: boolean
  /** Share of the freely planned memory that a run may have. */
  readonly memory?: number
}

function options(
  { micro, optimizer, precision, keepNorms }: Meaning,
  { stage, ranks, threads, zero, checkpointActivations = false, memory }: Setting,
): InitializeOptions {
  const model = smallModel({ dropout: 0.1 })
  const config = trainConfig(
    { train: 8, micro },
    { ...precisions[precision], optimizer: optimizer!, gradient_clipping: 0.8, zero_optimization: { ...zero, stage } },
  )
  const keep = keepNorms ? { keepInFp32: /ln_/ } : {}
  const free = { model, data: sourceFor(model), config, ranks, threads, checkpointActivations, ...keep }
  if (memory === undefined) return free
  return { ...free, memoryLimit: Math.floor(memory * ranks * planTotals(prepare(free).compilation.plan).total) }
}

const adam = { type: 'AdamW', params: { lr: 1e-3, weight_decay: 0.1 } }
const sgd = { type: 'SGD', params: { lr: 0.05, momentum: 0.9, weight_decay: 0.01 } }

function randomSetting(draws: Draws): Setting {
  return {
    stage: draws.pick([0, 1, 2, 3]),
    ranks: draws.pick([1, 2, 4]),
    threads: draws.pick([1, 2, 3]),
    ...(draws.next() < 0.5 ? { checkpointActivations: draws.next() < 0.5 } : { memory: draws.pick([1, 0.97, 0.94]) }),
    zero: {
      reduce_bucket_size: draws.pick([1, 20_000, 150_000, 1e9]),
      allgather_bucket_size: draws.pick([1, 20_000, 150_000, 1e9]),
      stage3_param_persistence_threshold: draws.pick([0, 100, 10_000, 1e6]),
      stage3_model_persistence_threshold: draws.pick([0, 1000, 1e9]),
      stage3_prefetch_bucket_size: draws.pick([0, 50_000, 5e7]),
      stage3_max_reuse_distance: draws.pick([0, 200_000, 1e9]),
      stage3_max_live_parameters: draws.pick([0, 130_000, 1e9]),
    },
  }
}

export const campaign: Campaign = {
  name: 'bits',
  async run({ seed, deadline, note }) {
    const draws = new Draws(seed)
    const known = new Map<string, Curve>()
    let runs = 0
    const check = async (meaning: Meaning, setting: Setting): Promise<void> => {
      const key = JSON.stringify(meaning)
      const expected = known.get(key) ?? (await curve(options(meaning, { stage: 0, ranks: 1, threads: 1 }), steps))
      known.set(key, expected)
      const got = await curve(options(meaning, setting), steps)
      runs += 1
      const at = got.losses.findIndex((loss, s) => loss !== expected.losses[s] || got.norms[s] !== expected.norms[s])
      const where = `${JSON.stringify(setting)} with ${key}`
      if (at >= 0 || got.losses.length !== steps)
        throw new Error(`bits: ${where}, expected the bits of one rank, got others at step ${at + 1}`)
      note(`equal: ${where}`)
    }
    const matrix = (['fp32', 'bf16', 'fp16'] as const).flatMap((precision) =>
      [8, 4, 2, 1].flatMap((micro) =>
        [1, 2, 4].flatMap((ranks) =>
          ([0, 1, 2, 3] as const).flatMap((stage) =>
            [1, 2].flatMap((threads) => (micro * ranks <= 8 ? [{ precision, micro, stage, ranks, threads }] : [])),
          ),
        ),
      ),
    )
    let covered = 0
    for (const { micro, precision, ...setting } of draws.shuffled(matrix)) {
      if (performance.now() > deadline) break
      await check({ micro, precision, optimizer: adam }, setting)
      covered += 1
    }
    const names = Object.keys(precisions) as (keyof typeof precisions)[]
    while (performance.now() < deadline) {
      const setting = randomSetting(draws)
      const meaning = { micro: draws.pick([1, 2]), precision: draws.pick(names), keepNorms: draws.next() < 0.3 }
      await check({ ...meaning, optimizer: draws.pick([adam, sgd]) }, setting)
    }
    return { matrix: `${covered} of ${matrix.length}`, runs, steps }
  },
}
