// Lower precision in a running engine: bf16 against PyTorch's, modules kept in fp32, 16-bit files, forecasts of memory.
// The losses are of PyTorch 2.13 with transformers 5.18 on the CPU, one thread, with the weights and tokens of pytorch.test.ts, AdamW at
// 1e-3 with decay 0.1, clipping at 1, 50 steps. `parameters`: the model in bf16, masters in fp32 that AdamW and clipping work on (gradients
// widened, masters rounded back after each step). `autocast`: the model in fp32 under torch.autocast('cpu', bfloat16). In both the loss is
// cross_entropy(logits.float()).
import test from 'ava'
import { initialize } from '../../../actors/engine/engine.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import type { DType } from '../../../kernels/ops/definition.js'
import { store } from '../../../kernels/reference/storage.js'
import { writeSafetensors } from '../../../runtime/checkpoint/safetensors.js'
import type { DeepSpeedConfig } from '../../../runtime/config/index.js'
import { modelFromFolder } from '../../../runtime/nn/models/huggingface.js'
import { namedParameters } from '../../../runtime/nn/module.js'
import {
  curve,
  curveOf,
  formulaSource,
  hashedWeights,
  smallModel,
  sourceFor,
  tinyModel,
  trainConfig,
  withFolder,
  withHashedWeights,
  writeHashedFolder,
} from '../../support/training.js'

const pytorch = {
  parameters: [
    5.594687, 5.425102, 5.317885, 5.17943, 5.087464, 4.940354, 4.862216, 4.761525, 4.670511, 4.583154, 4.474911,
    4.402023, 4.310317, 4.230577, 4.147078, 4.051153, 3.977246, 3.880907, 3.801631, 3.718442, 3.625382, 3.553084,
    3.458609, 3.379375, 3.296834, 3.204993, 3.133022, 3.043896, 2.965862, 2.886975, 2.80001, 2.732202, 2.647369,
    2.571529, 2.499228, 2.417893, 2.354406, 2.276496, 2.206437, 2.139488, 2.068282, 2.00743, 1.940199, 1.882928,
    1.818702, 1.755985, 1.695291, 1.64103, 1.58771, 1.529377,
  ],
  autocast: [
    5.594858, 5.425232, 5.31776, 5.179398, 5.087792, 4.940504, 4.862243, 4.761192, 4.670454, 4.583196, 4.475112,
    4.401902, 4.309081, 4.229744, 4.145848, 4.049713, 3.97619, 3.879685, 3.801363, 3.717557, 3.624734, 3.552308,
    3.457436, 3.379693, 3.296593, 3.206373, 3.13413, 3.044249, 2.966646, 2.887439, 2.799469, 2.732287, 2.64842,
    2.571862, 2.497789, 2.416034, 2.352182, 2.272202, 2.202883, 2.136949, 2.066409, 2.004168, 1.934539, 1.877068,
    1.813307, 1.755362, 1.696829, 1.638245, 1.58822, 1.532646,
  ],
}

const meanDifference = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length

/** Twice the distance of PyTorch's two ways to train in bf16. */
const bound = 2 * meanDifference(pytorch.parameters, pytorch.autocast)

for (const [ranks, stage, micro] of [
  [1, 0, 8],
  [2, 2, 4],
] as const) {
  test.serial(`bf16 follows PyTorch: ${ranks} ranks, ZeRO ${stage}, micro-batches of ${micro}`, async (t) => {
    const model = smallModel()
    await withHashedWeights(model, async (weights) => {
      const config = trainConfig({ train: 8, micro }, { bf16: { enabled: true }, zero_optimization: { stage } })
      const options: InitializeOptions = { model, weights, config, ranks, threads: 1, shuffle: false }
      const { losses } = await curve({ ...options, data: formulaSource(1000, 64, 256) }, 50)
      const difference = meanDifference(losses, pytorch.parameters)
      t.log(`mean absolute difference ${difference.toExponential(2)}, bound ${bound.toExponential(2)}`)
      t.true(difference <= bound, `${difference}, bound ${bound}`)
    })
  })
}

test.serial('torch_autocast and modules kept in fp32 are other graphs, all near to fp32', async (t) => {
  const run = async (more: DeepSpeedConfig, extra: Partial<InitializeOptions> = {}): Promise<readonly number[]> => {
    const model = smallModel()
    return await withHashedWeights(model, async (weights) => {
      const config = trainConfig({ train: 8, micro: 8 }, more)
      const data = formulaSource(1000, 64, 256)
      return (await curve({ model, weights, config, data, shuffle: false, threads: 1, ...extra }, 12)).losses
    })
  }
  const full = await run({})
  const bf16 = await run({ bf16: { enabled: true } })
  const kept = await run({ bf16: { enabled: true } }, { keepInFp32: /ln_|mlp$/ })
  const autocast = await run({ torch_autocast: { enabled: true } })
  const wider = await run({
    torch_autocast: { enabled: true, lower_precision_safe_modules: ['torch.nn.Linear', 'CausalSelfAttention'] },
  })
  const all = [full, bf16, kept, autocast, wider]
  t.is(new Set(all.map(([first]) => first)).size, all.length)
  const away = all.map((losses) => meanDifference(losses, full))
  t.log(away.map((difference) => difference.toExponential(2)).join(', '))
  t.true(away.every((difference) => difference < 2e-3))
})

const halves = { bf16: ['BF16', 'bf16'], fp16: ['F16', 'f16'] } as const
for (const [name, [fileDType, dtype]] of Object.entries(halves)) {
  test.serial(`a folder in ${name} starts a run in any dtype, with the values that it holds`, async (t) => {
    const model = tinyModel()
    const values = hashedWeights(model)
    const rounded = (of: DType, source: Float32Array): Uint16Array => {
      const data = new Uint16Array(source.length)
      store({ shape: [data.length], dtype: of, data }, source)
      return data
    }
    await withFolder(async (folder) => {
      writeHashedFolder(folder, model)
      writeSafetensors(
        `${folder}/model.safetensors`,
        namedParameters(model).map(({ name: parameter, parameter: { shape } }) => ({
          name: parameter,
          dtype: fileDType,
          shape,
          data: rounded(dtype, values.get(parameter)!),
        })),
        { format: 'pt' },
      )
      const logits = async (config: DeepSpeedConfig): Promise<Float32Array> => {
        const opened = modelFromFolder(folder)
        await using engine = await initialize({ model: opened.model, weights: opened.weights, config })
        opened.weights.close()
        return await engine.forward([3, 1, 4, 1, 5])
      }
      const batch = { train_batch_size: 8 }
      const full = await logits(batch)
      t.is(full.length, 5 * 61)
      for (const other of ['bf16', 'fp16'] as const) {
        const got = await logits({ ...batch, [other]: { enabled: true } })
        const worst = Math.max(...got.map((value, i) => Math.abs(value - full[i]!)))
        t.true(worst > 0 && worst < (other === 'bf16' ? 0.02 : 0.003), `${other}: ${worst}`)
      }
    })
  })
}

test.serial('peaks of the registry are the forecast exactly, in bf16 and fp16, and below those of fp32', async (t) => {
  const totals: Record<string, number> = {}
  for (const [name, more] of Object.entries({
    fp32: {},
    bf16: { bf16: { enabled: true } },
    fp16: { fp16: { enabled: true } },
  })) {
    for (const stage of [0, 1, 2, 3] as const) {
      const model = smallModel()
      const zero = { stage, stage3_param_persistence_threshold: 0 }
      const config = trainConfig({ train: 8, micro: 1 }, { ...more, zero_optimization: zero })
      const data = sourceFor(model)
      await using engine = await initialize({
        model,
        data,
        evalData: sourceFor(model, 3),
        config,
        ranks: 2,
        threads: 1,
      })
      await engine.train({ steps: 2 })
      await engine.evaluate()
      const { arenas } = engine.plan
      for (const rank of [0, 1]) {
        t.deepEqual(
          Object.fromEntries(Object.entries(engine.memory(rank)).map(([arena, { peak }]) => [arena, peak])),
          arenas,
        )
      }
      totals[name] = (totals[name] ?? 0) + arenas.activations + arenas.buckets + arenas.gathered
    }
  }
  t.true(totals['bf16']! < 0.6 * totals['fp32']!)
  t.is(totals['bf16'], totals['fp16'])
})

test.serial('a memory limit recomputes as little as fits, and changes no bit', async (t) => {
  const options = (more: Partial<InitializeOptions>): InitializeOptions => {
    const model = smallModel({ layers: 6, dropout: 0.1 })
    const config = trainConfig({ train: 8, micro: 8 }, { bf16: { enabled: true } })
    return { model, data: sourceFor(model), config, ranks: 1, threads: 1, ...more }
  }
  await using free = await initialize(options({}))
  const expected = await curveOf(free, 3)
  const total = (of: typeof free): number => Object.values(of.plan.arenas).reduce((sum, bytes) => sum + bytes, 0)
  const all = total(free)
  const seen: number[] = []
  for (const share of [1, 0.97, 0.9, 0.85]) {
    const memoryLimit = Math.floor(share * all)
    await using engine = await initialize(options({ memoryLimit }))
    t.true(total(engine) <= memoryLimit)
    t.deepEqual(await curveOf(engine, 3), expected)
    const { cheap, blocks } = engine.prepared.choices.recompute
    seen.push(cheap.length + blocks)
  }
  t.is(seen[0], 0)
  t.deepEqual(
    seen,
    seen.toSorted((a, b) => a - b),
  )
  t.true(new Set(seen).size > 2, seen.join(', '))
  const error = await t.throwsAsync(initialize(options({ memoryLimit: Math.floor(0.3 * all) })))
  t.like(error, { code: 'ENGINE_MEMORY' })
  const { limit, bytes, missing } = (error as unknown as { details: Record<string, number> }).details
  t.is(bytes! - limit!, missing!)
})
