// Lower precision in a running engine: bf16 against PyTorch's, modules kept in fp32, 16-bit files, forecasts of memory.
import test from 'ava'
import { initialize } from '../../../actors/engine/engine.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import type { DType } from '../../../kernels/ops/definition.js'
import { store } from '../../../kernels/reference/storage.js'
import { writeSafetensors } from '../../../runtime/checkpoint/safetensors.js'
import type { DeepSpeedConfig } from '../../../runtime/config/index.js'
import { modelFromFolder } from '../../../runtime/nn/models/huggingface.js'
import { namedParameters } from '../../../runtime/nn/module.js'
import { bf16Bound, bf16Losses, meanDifference } from '../../support/figures.js'
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
      const difference = meanDifference(losses, bf16Losses.parameters)
      t.log(`mean absolute difference ${difference.toExponential(2)}, bound ${bf16Bound.toExponential(2)}`)
      t.true(difference <= bf16Bound, `${difference}, bound ${bf16Bound}`)
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
