// AdamW on bf16 weights without masters, rounded stochastically: bits that no stage, rank or thread changes, a loss near that of a run
// with masters, checkpoints that go on bit by bit, less memory.
import test from 'ava'
import { initialize } from '../../../actors/engine/engine.js'
import { type InitializeOptions, prepare } from '../../../actors/engine/prepare.js'
import { SafetensorsFile } from '../../../runtime/checkpoint/safetensors.js'
import type { DeepSpeedConfig } from '../../../runtime/config/index.js'
import { planTotals } from '../../../runtime/graph/compile.js'
import {
  type Curve,
  curve,
  curveOf,
  formulaSource,
  smallModel,
  sourceFor,
  tinyModel,
  trainConfig,
  withFolder,
  withHashedWeights,
} from '../../support/training.js'

const steps = 6

const adam = (bf16_stochastic_round: boolean, lr = 1e-3): DeepSpeedConfig => ({
  bf16: { enabled: true },
  optimizer: { type: 'AdamW', params: { lr, weight_decay: 0.1, bf16_stochastic_round } },
})

function tiny(zero: DeepSpeedConfig['zero_optimization'] = {}, more: Partial<InitializeOptions> = {}) {
  const model = tinyModel({ dropout: 0.1 })
  const config = trainConfig({ train: 8, micro: 2 }, { ...adam(true), zero_optimization: zero })
  return { model, data: sourceFor(model), config, ranks: 1, threads: 1, ...more } satisfies InitializeOptions
}

let known: Promise<Curve> | undefined
const truth = (): Promise<Curve> => {
  known ??= curve(tiny(), steps)
  return known
}

for (const [ranks, stage, threads] of [
  [2, 0, 1],
  [2, 1, 2],
  [4, 2, 1],
  [2, 3, 1],
  [4, 3, 1],
] as const) {
  for (const threshold of stage === 3 ? [0, 200] : [0]) {
    const zero = { stage, stage3_param_persistence_threshold: threshold }
    test.serial(`ZeRO ${stage} on ${ranks} ranks, ${threshold} elements persistent: the same bits`, async (t) => {
      t.deepEqual(await curve(tiny(zero, { ranks, threads }), steps), await truth())
    })
  }
}

test.serial('a repeat gives the same bits; without it, or with another seed, others', async (t) => {
  const { losses } = await truth()
  t.deepEqual((await curve(tiny(), steps)).losses, losses)
  const model = tinyModel({ dropout: 0.1 })
  const config = trainConfig({ train: 8, micro: 2 }, adam(false))
  const masters = await curve({ model, data: sourceFor(model), config, ranks: 1, threads: 1 }, steps)
  // Initial weights are those of masters, rounded.
  t.is(masters.losses[0], losses[0])
  t.not(masters.losses.at(-1), losses.at(-1))
})

test.serial('the loss is near that with masters at steps of less than half of what bf16 tells apart', async (t) => {
  // Weights near 0.02 have neighbours 2^-13 to 2^-14 away: what a step of 2e-5 moves them is below half of that.
  const run = async (rounds: boolean): Promise<readonly number[]> => {
    const model = smallModel()
    return await withHashedWeights(model, async (weights) => {
      const config = trainConfig({ train: 8, micro: 8 }, adam(rounds, 2e-5))
      const data = formulaSource(1000, 64, 256)
      return (await curve({ model, weights, config, data, shuffle: false }, 80)).losses
    })
  }
  const [masters, stochastic] = [await run(false), await run(true)]
  const learned = masters[0]! - masters.at(-1)!
  const difference = stochastic.reduce((sum, loss, s) => sum + Math.abs(loss - masters[s]!), 0) / stochastic.length
  t.log(`learned ${learned.toFixed(3)}, mean difference ${difference.toExponential(2)}`)
  t.true(learned > 0.3)
  t.true(difference < 0.02 * learned)
})

test.serial('a checkpoint holds the weights in bf16 and goes on bit by bit, in another stage too', async (t) => {
  const whole = await truth()
  await withFolder(async (folder) => {
    let path = ''
    {
      await using engine = await initialize(tiny({ stage: 1 }, { ranks: 2 }))
      await curveOf(engine, 3)
      path = await engine.save(folder)
    }
    const file = new SafetensorsFile(`${path}/model.safetensors`)
    t.deepEqual(new Set([...file.tensors.values()].map(({ dtype }) => dtype)), new Set(['BF16']))
    file.close()
    await using engine = await initialize(tiny({ stage: 3, stage3_param_persistence_threshold: 200 }, { ranks: 2 }))
    await engine.load(folder)
    const rest = await curveOf(engine, steps)
    t.deepEqual(rest.losses, whole.losses.slice(3))
  })
})

test('masters are what it saves', (t) => {
  const model = smallModel()
  const planned = (rounds: boolean) => {
    const config = trainConfig({ train: 8, micro: 8 }, adam(rounds))
    const { plan, layout } = prepare({ model, data: sourceFor(model), config, ranks: 1, threads: 1 }).compilation
    return { optimizer: plan.arenas.optimizer, total: planTotals(plan).total, length: layout.length }
  }
  const [masters, stochastic] = [planned(false), planned(true)]
  t.is(masters.optimizer - stochastic.optimizer, 4 * masters.length)
  t.is(masters.total - stochastic.total, 4 * masters.length)
})
