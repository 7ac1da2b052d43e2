// The bit rules on the small model for 50 steps: first the whole matrix of stages, ranks, threads and micro-batch sizes in a seeded
// order, then random settings of everything that may not change a bit, until the time is up.
import type { InitializeOptions } from '../../actors/engine/prepare.js'
import type { DeepSpeedConfig } from '../../runtime/config/index.js'
import { type Curve, curve, smallModel, sourceFor, trainConfig } from '../support/training.js'
import { type Campaign, Draws } from './campaign.js'

const steps = 50

/** What may change bits: the micro-batch size and the mathematics. */
interface Meaning {
  readonly micro: number
  readonly optimizer: DeepSpeedConfig['optimizer']
}

/** What may not. */
interface Setting {
  readonly stage: 0 | 1 | 2 | 3
  readonly ranks: number
  readonly threads: number
  readonly zero?: DeepSpeedConfig['zero_optimization']
  readonly checkpointActivations?: boolean
}

function options(
  { micro, optimizer }: Meaning,
  { stage, ranks, threads, zero, checkpointActivations = false }: Setting,
): InitializeOptions {
  const model = smallModel({ dropout: 0.1 })
  const config = trainConfig(
    { train: 8, micro },
    { optimizer: optimizer!, gradient_clipping: 0.8, zero_optimization: { ...zero, stage } },
  )
  return { model, data: sourceFor(model), config, ranks, threads, checkpointActivations }
}

const adam = { type: 'AdamW', params: { lr: 1e-3, weight_decay: 0.1 } }
const sgd = { type: 'SGD', params: { lr: 0.05, momentum: 0.9, weight_decay: 0.01 } }

function randomSetting(draws: Draws): Setting {
  return {
    stage: draws.pick([0, 1, 2, 3]),
    ranks: draws.pick([1, 2, 4]),
    threads: draws.pick([1, 2, 3]),
    checkpointActivations: draws.next() < 0.5,
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
    const matrix = [8, 4, 2, 1].flatMap((micro) =>
      [1, 2, 4].flatMap((ranks) =>
        ([0, 1, 2, 3] as const).flatMap((stage) =>
          [1, 2].flatMap((threads) => (micro * ranks <= 8 ? [{ micro, stage, ranks, threads }] : [])),
        ),
      ),
    )
    let covered = 0
    for (const { micro, ...setting } of draws.shuffled(matrix)) {
      if (performance.now() > deadline) break
      await check({ micro, optimizer: adam }, setting)
      covered += 1
    }
    while (performance.now() < deadline) {
      const setting = randomSetting(draws)
      await check({ micro: draws.pick([1, 2]), optimizer: draws.pick([adam, sgd]) }, setting)
    }
    return { matrix: `${covered} of ${matrix.length}`, runs, steps }
  },
}
