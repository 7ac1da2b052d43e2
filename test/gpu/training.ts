// Training on the GPU against the CPU and PyTorch's figures, on the small model: losses and norms, bits of repeated runs, checkpoints that
// cross devices, and with two GPUs the ZeRO stages against each other. A check that fails does not stop the next.
import { initialize } from '../../actors/engine/engine.js'
import type { InitializeOptions } from '../../actors/engine/prepare.js'
import { gpuBackend } from '../../kernels/gpu/backend.js'
import type { DeviceName } from '../../native/index.js'
import type { DeepSpeedConfig } from '../../runtime/config/index.js'
import { floats, wrongCollectives } from '../native/collectives.js'
import { bf16Bound, bf16Losses, meanDifference } from '../support/figures.js'
import {
  type Curve,
  curve,
  curveOf,
  formulaSource,
  relativeDifference,
  smallModel,
  sourceFor,
  trainConfig,
  withFolder,
  withHashedWeights,
} from '../support/training.js'
import type { Tell } from './work.js'

export interface TrainingRequest {
  /** What is checked: `cuda`, or another device to try the checks themselves. */
  readonly device: DeviceName
  readonly gpus: 1 | 2
}

export interface TrainingFinding {
  readonly check: string
  readonly ok: boolean
  /** What was measured, or what went wrong. */
  readonly got: string
}

const steps = 20
const bf16: DeepSpeedConfig = { bf16: { enabled: true } }
const fp16: DeepSpeedConfig = { fp16: { enabled: true } }
/** Without masters. */
const stochastic: DeepSpeedConfig = {
  ...bf16,
  optimizer: { type: 'AdamW', params: { lr: 1e-3, weight_decay: 0.1, bf16_stochastic_round: true } },
}

/** ZeRO with the optimizer's states on the host. */
const onHost = (stage: 0 | 1 | 2 | 3): DeepSpeedConfig => ({
  zero_optimization: { stage, stage3_param_persistence_threshold: 100, offload_optimizer: { device: 'cpu' } },
})

/** The small model with its weights by formula. `micro` of 8 rows; the same on any device. */
async function small(
  device: DeviceName,
  count: number,
  more: DeepSpeedConfig = {},
  options: Partial<InitializeOptions> & { readonly micro?: number } = {},
): Promise<Curve> {
  const { micro = 8 / (options.ranks ?? 1), ...rest } = options
  const model = smallModel()
  const config = trainConfig({ train: 8, micro }, more)
  const data = formulaSource(1000, 64, 256)
  return await withHashedWeights(model, (weights) =>
    curve({ model, weights, data, config, device, shuffle: false, ...rest }, count),
  )
}

/** The largest relative difference of losses and norms, in words and whether it is small enough. */
function near(a: Curve, b: Curve, most: number): Omit<TrainingFinding, 'check'> {
  const [losses, norms] = [relativeDifference(a.losses, b.losses), relativeDifference(a.norms, b.norms)]
  const got = `losses ${losses.toExponential(1)}, norms ${norms.toExponential(1)}, at most ${most.toExponential(0)}`
  return { ok: losses <= most && norms <= 10 * most, got }
}

function equal(a: Curve, b: Curve): Omit<TrainingFinding, 'check'> {
  const at = a.losses.findIndex((loss, s) => !Object.is(loss, b.losses[s]) || !Object.is(a.norms[s], b.norms[s]))
  if (at < 0) return { ok: true, got: `bits of ${a.losses.length} steps` }
  return {
    ok: false,
    got: `step ${at + 1}: ${a.losses[at]} and ${b.losses[at]}, norms ${a.norms[at]} and ${b.norms[at]}`,
  }
}

/** Heads of 64 in rows of 128: what runs on tensor cores. */
const wide = (device: DeviceName, options: Partial<InitializeOptions> = {}) => {
  const model = smallModel({ hidden: 128, heads: 2, seq: 128, dropout: 0.1 })
  const config = trainConfig({ train: 8, micro: 8 }, { ...bf16 })
  return curve({ model, data: sourceFor(model), config, device, ...options }, steps)
}

type Checks = Readonly<Record<string, () => Promise<Omit<TrainingFinding, 'check'>>>>

const onOne = (gpu: DeviceName): Checks => ({
  'fp32 against the CPU': async () => near(await small(gpu, steps), await small('cpu', steps), 1e-4),
  'fp32 with dropout against the CPU': async () => {
    const run = (device: DeviceName) => {
      const model = smallModel({ dropout: 0.1 })
      return curve({ model, data: sourceFor(model), config: trainConfig({ train: 8, micro: 8 }), device }, steps)
    }
    return near(await run(gpu), await run('cpu'), 1e-4)
  },
  'fp32, four micro-steps against the CPU': async () =>
    near(await small(gpu, steps, {}, { micro: 2 }), await small('cpu', steps, {}, { micro: 2 }), 1e-4),
  'bf16 against PyTorch': async () => {
    const { losses } = await small(gpu, bf16Losses.parameters.length, bf16)
    const away = meanDifference(losses, bf16Losses.parameters)
    return { ok: away <= bf16Bound, got: `mean ${away.toExponential(2)}, at most ${bf16Bound.toExponential(2)}` }
  },
  'bf16 against the CPU': async () => {
    const [own, cpu] = [await small(gpu, 50, bf16), await small('cpu', 50, bf16)]
    const away = meanDifference(own.losses, cpu.losses)
    return { ok: away <= bf16Bound, got: `mean ${away.toExponential(2)}, at most ${bf16Bound.toExponential(2)}` }
  },
  'bf16, heads of 64 with dropout, against the CPU': async () => {
    const [own, cpu] = [await wide(gpu), await wide('cpu')]
    const away = meanDifference(own.losses, cpu.losses)
    return { ok: away <= bf16Bound, got: `mean ${away.toExponential(2)}, at most ${bf16Bound.toExponential(2)}` }
  },
  'fp16 with its loss scale against the CPU': async () => {
    const [own, cpu] = [await small(gpu, 50, fp16), await small('cpu', 50, fp16)]
    const away = meanDifference(own.losses, cpu.losses)
    return { ok: away <= bf16Bound, got: `mean ${away.toExponential(2)}, at most ${bf16Bound.toExponential(2)}` }
  },
  'bf16 without masters against the CPU': async () => {
    const [own, cpu] = [await small(gpu, 50, stochastic), await small('cpu', 50, stochastic)]
    const away = meanDifference(own.losses, cpu.losses)
    return { ok: away <= bf16Bound, got: `mean ${away.toExponential(2)}, at most ${bf16Bound.toExponential(2)}` }
  },
  'bf16 without masters, repeated': async () =>
    equal(await small(gpu, steps, stochastic), await small(gpu, steps, stochastic)),
  'fp16 that overflows, two steps under way and one': async () => {
    const model = smallModel({ dropout: 0.1 })
    const overflows = { enabled: true, initial_scale_power: 24, loss_scale_window: 1, hysteresis: 1 }
    const scheduler = { type: 'WarmupLR', params: { warmup_num_steps: 9, warmup_max_lr: 1e-3 } }
    const config = trainConfig({ train: 8, micro: 4 }, { fp16: overflows, scheduler })
    const options: InitializeOptions = { model, data: sourceFor(model), config, device: gpu }
    const single: Curve = { losses: [], norms: [] }
    await using engine = await initialize(options)
    for (let step = 1; step <= steps; step++) {
      const { losses, norms } = await curveOf(engine, step)
      single.losses.push(...losses)
      single.norms.push(...norms)
    }
    const skipped = single.norms.filter((norm) => norm === -1).length
    const { ok, got } = equal(await curve(options, steps), single)
    return { ok: ok && skipped > 0 && skipped < steps, got: `${got}, ${skipped} skipped` }
  },
  'fp32 repeated': async () => equal(await small(gpu, steps), await small(gpu, steps)),
  'bf16 repeated': async () => equal(await small(gpu, steps, bf16), await small(gpu, steps, bf16)),
  'bf16, heads of 64, repeated': async () => equal(await wide(gpu), await wide(gpu)),
  'bf16, blocks recomputed': async () => equal(await wide(gpu, { checkpointActivations: true }), await wide(gpu)),
  ...Object.fromEntries(
    (
      [
        ['fp32', {}],
        ['bf16', bf16],
        ['fp16', fp16],
        ['bf16, SGD', { ...bf16, optimizer: { type: 'SGD', params: { lr: 0.05, momentum: 0.9 } } }],
      ] as const
    ).map(([name, more]) => [
      `${name}, optimizer on the host and not`,
      async () => equal(await small(gpu, 50, { ...more, ...onHost(2) }), await small(gpu, 50, more)),
    ]),
  ),
  'bf16, optimizer on the host, four micro-steps': async () =>
    equal(
      await small(gpu, steps, { ...bf16, ...onHost(2) }, { micro: 2 }),
      await small(gpu, steps, bf16, { micro: 2 }),
    ),
  'checkpoints cross between an optimizer on the host and on the GPU': async () => {
    const whole = await small(gpu, 9, bf16)
    const losses: number[] = []
    const norms: number[] = []
    return await withFolder(async (folder) => {
      for (const [more, until] of [
        [bf16, 3],
        [{ ...bf16, ...onHost(2) }, 6],
        [bf16, 9],
      ] as const) {
        const model = smallModel()
        const config = trainConfig({ train: 8, micro: 8 }, more)
        const data = formulaSource(1000, 64, 256)
        const part = await withHashedWeights(model, async (weights) => {
          await using engine = await initialize({ model, weights, data, config, device: gpu, shuffle: false })
          if (until > 3) await engine.load(folder)
          const found = await curveOf(engine, until)
          await engine.save(folder)
          return found
        })
        losses.push(...part.losses)
        norms.push(...part.norms)
      }
      return equal({ losses, norms }, whole)
    })
  },
  'checkpoints cross between CPU and GPU': async () => {
    const options = (device: DeviceName): InitializeOptions => {
      const model = smallModel()
      return { model, data: sourceFor(model), config: trainConfig({ train: 8, micro: 8 }), device }
    }
    const whole = await curve(options('cpu'), 9)
    return await withFolder(async (folder) => {
      const losses: number[] = []
      const norms: number[] = []
      for (const [device, until] of [
        ['cpu', 3],
        [gpu, 6],
        ['cpu', 9],
      ] as const) {
        await using engine = await initialize(options(device))
        if (until > 3) await engine.load(folder)
        const part = await curveOf(engine, until)
        losses.push(...part.losses)
        norms.push(...part.norms)
        await engine.save(folder)
      }
      return near({ losses, norms }, whole, 1e-4)
    })
  },
  'evaluation and logits against the CPU': async () => {
    const model = smallModel()
    const run = async (device: DeviceName) => {
      const data = sourceFor(model)
      const config = trainConfig({ train: 8, micro: 8 })
      await using engine = await initialize({ model, data, evalData: sourceFor(model, 19), config, device })
      const { loss, tokens } = await engine.evaluate()
      return { loss, tokens, logits: await engine.forward([3, 1, 4, 1, 5, 9, 2, 6]) }
    }
    const [own, cpu] = [await run(gpu), await run('cpu')]
    const logit = own.logits.reduce((most, value, i) => Math.max(most, Math.abs(value - cpu.logits[i]!)), 0)
    const loss = Math.abs(own.loss / cpu.loss - 1)
    const ok = loss < 1e-5 && logit < 1e-4 && own.tokens === cpu.tokens
    return { ok, got: `loss ${loss.toExponential(1)}, logits ${logit.toExponential(1)}, ${own.tokens} tokens` }
  },
  'a learning rate that explodes is one error': async () => {
    const optimizer = { type: 'SGD', params: { lr: 1e38 } }
    try {
      await small(gpu, 4, { optimizer, gradient_clipping: 0 })
      return { ok: false, got: 'no error' }
    } catch (error) {
      const { message } = error as Error
      return { ok: /expected a finite number, got .*; first in the output of/.test(message), got: message }
    }
  },
  'memory is as planned, to the byte': async () => {
    const model = smallModel()
    const config = trainConfig({ train: 8, micro: 8 }, bf16)
    await using engine = await initialize({ model, data: sourceFor(model), config, device: gpu })
    await engine.train({ steps: 2 })
    const planned = Object.entries(engine.plan.arenas)
    const memory = engine.memory(0)
    const other = planned.find(([arena, bytes]) => memory[arena as keyof typeof memory].peak !== bytes)
    if (!other) return { ok: true, got: 'all arenas' }
    return { ok: false, got: `${other[0]}: ${other[1]} planned, ${memory[other[0] as keyof typeof memory].peak}` }
  },
})

const stages = [0, 1, 2, 3] as const
const zero = (stage: number): DeepSpeedConfig => ({
  zero_optimization: { stage: stage as 0, stage3_param_persistence_threshold: 100 },
})

/** A run whose second rank is struck at two steps, by what it did last at each step, against one that nothing strikes. */
async function struck(gpu: DeviceName, more: DeepSpeedConfig): Promise<Omit<TrainingFinding, 'check'>> {
  const count = 12
  const run = (options: Partial<InitializeOptions> = {}) => {
    const model = smallModel()
    const config = trainConfig({ train: 8, micro: 4 }, more)
    return withHashedWeights(model, async (weights) => {
      const data = formulaSource(1000, 64, 256)
      const given = { model, weights, data, config, device: gpu, ranks: 2, shuffle: false, ...options }
      await using engine = await initialize(given)
      const recovered: string[] = []
      const [losses, norms] = [new Array<number>(count), new Array<number>(count)]
      engine.events$.subscribe((event) => {
        if (event.type === 'restart') recovered.push(event.source)
        if (event.type !== 'step') return
        losses[event.step - 1] = event.loss
        norms[event.step - 1] = event.grad_norm
      })
      await engine.train({ steps: count })
      return { losses, norms, recovered }
    })
  }
  return await withFolder(async (folder) => {
    const chaos = 'kill:rank=1@step=5,throw:rank=1@step=9'
    const hit = await run({ chaos, restarts: 2, checkpoints: { folder, every: 3 } })
    const { ok, got } = equal(hit, await run())
    return { ok: ok && hit.recovered.length === 2, got: `${got}; recovered from ${hit.recovered.join(', ')}` }
  })
}

/** In three dtypes, whether the ranks copy or NCCL moves everything. */
async function collectives(gpu: DeviceName, way: 'copies' | 'nccl'): Promise<Omit<TrainingFinding, 'check'>> {
  const { DEEPTROUPE_COLLECTIVES: before } = process.env
  // The native side reads it when a rank opens.
  process.env.DEEPTROUPE_COLLECTIVES = way
  try {
    const wrong: string[] = []
    for (const dtype of floats) {
      const found = await wrongCollectives(gpu, 2, dtype, gpu === 'cuda' ? gpuBackend() : undefined)
      wrong.push(...found.map((one) => `${dtype}: ${one}`))
    }
    return { ok: wrong.length === 0, got: wrong[0] ?? 'equal bits' }
  } finally {
    if (before === undefined) delete process.env.DEEPTROUPE_COLLECTIVES
    else process.env.DEEPTROUPE_COLLECTIVES = before
  }
}

const onTwo = (gpu: DeviceName): Checks => ({
  'two GPUs, every collective by copies': () => collectives(gpu, 'copies'),
  'two GPUs, every collective by NCCL': () => collectives(gpu, 'nccl'),
  'two GPUs, fp32 against two ranks of the CPU': async () =>
    near(await small(gpu, steps, zero(2), { ranks: 2 }), await small('cpu', steps, zero(2), { ranks: 2 }), 1e-4),
  ...Object.fromEntries(
    (
      [
        ['fp32', {}],
        ['bf16', bf16],
        ['bf16 without masters', stochastic],
      ] as const
    ).flatMap(([name, more]) =>
      stages.slice(1).map((stage) => [
        `two GPUs, ${name}: ZeRO ${stage} and ZeRO 0`,
        async () => {
          const run = (chosen: number) => small(gpu, steps, { ...more, ...zero(chosen) }, { ranks: 2 })
          return equal(await run(stage), await run(0))
        },
      ]),
    ),
  ),
  ...Object.fromEntries(
    stages.slice(1).map((stage) => [
      `two GPUs, two micro-steps: ZeRO ${stage} and ZeRO 0`,
      async () => {
        const run = (chosen: number) => small(gpu, steps, zero(chosen), { ranks: 2, micro: 2 })
        return near(await run(stage), await run(0), 1e-5)
      },
    ]),
  ),
  ...Object.fromEntries(
    ([0, 1, 2, 3] as const).map((stage) => [
      `two GPUs, bf16, ZeRO ${stage}: optimizer on the host and not`,
      async () =>
        equal(
          await small(gpu, 50, { ...bf16, ...onHost(stage) }, { ranks: 2 }),
          await small(gpu, 50, { ...bf16, ...zero(stage) }, { ranks: 2 }),
        ),
    ]),
  ),
  'two GPUs, ZeRO 0, a rank fails twice': () => struck(gpu, { ...bf16, ...zero(0) }),
  'two GPUs, ZeRO 2, a rank fails twice': () => struck(gpu, { ...bf16, ...zero(2) }),
  'two GPUs, ZeRO 2, optimizer on the host, a rank fails twice': () => struck(gpu, { ...bf16, ...onHost(2) }),
  'two GPUs, repeated': async () => {
    const run = () => small(gpu, steps, { ...bf16, ...zero(3) }, { ranks: 2, micro: 2 })
    return equal(await run(), await run())
  },
})

/** Tells what each check found. */
export async function checkTraining({ device, gpus }: TrainingRequest, tell: Tell): Promise<void> {
  const checks = gpus === 2 ? onTwo(device) : onOne(device)
  for (const [check, body] of Object.entries(checks)) {
    try {
      tell({ check, ...(await body()) })
    } catch (error) {
      tell({ check, ok: false, got: error instanceof Error ? error.message : String(error) })
    }
  }
}
