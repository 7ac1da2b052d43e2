// What a failure costs: where the state comes from in each stage of ZeRO, which steps are done again, which threads and which memory
// stay; and that a rank which hangs is found, one that is slow is not.
import test from 'ava'
import { type Engine, initialize } from '../../../actors/engine/engine.js'
import { EngineError } from '../../../actors/engine/errors.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import type { RestartEvent } from '../../../runtime/observe/index.js'
import { curve, curveOf, sourceFor, tinyModel, tokenAt, trainConfig, withFolder } from '../../support/training.js'
import { killWorker } from './assassin.js'

type Stage = 0 | 1 | 2 | 3

function options(stage: Stage, more: Partial<InitializeOptions> = {}): InitializeOptions {
  const model = tinyModel({ dropout: 0.1 })
  const zero = { stage, stage3_param_persistence_threshold: 100 }
  const config = trainConfig({ train: 12, micro: 2 }, { zero_optimization: zero })
  return { model, data: sourceFor(model), ranks: 3, threads: 1, config, restarts: 1, ...more }
}

/** The steps that an engine tells of, and its restarts. */
function record(engine: Engine): { steps: number[]; restarts: RestartEvent[]; lost: number[] } {
  const told = { steps: [] as number[], restarts: [] as RestartEvent[], lost: [] as number[] }
  engine.events$.subscribe((event) => {
    if (event.type === 'step') told.steps.push(event.step)
    else if (event.type === 'restart') told.restarts.push(event)
  })
  engine.system.events$.subscribe((event) => {
    if (event.type === 'worker-exit') told.lost.push(Number(event.worker))
  })
  return told
}

const steps = 4
const truth = await curve(options(0, { ranks: 1 }), steps)

test.serial(
  'ZeRO 0: a lost rank takes its state from a peer; no step is lost, the others keep threads and memory',
  async (t) => {
    await using engine = await initialize(options(0))
    const told = record(engine)
    const first = await curveOf(engine, 2)
    await killWorker(engine, 1)
    const second = await curveOf(engine, steps)
    t.deepEqual({ losses: [...first.losses, ...second.losses], norms: [...first.norms, ...second.norms] }, truth)
    t.like(told, { steps: [1, 2, 3, 4], lost: [1], restarts: [{ source: 'peers', step: 2, attempt: 1 }] })
    t.regex(told.restarts[0]!.cause, /rank 1: worker 1/)
    for (const rank of [0, 1, 2]) {
      const live = Object.entries(engine.memory(rank)).map(([name, memory]) => [name, memory.live])
      t.deepEqual(Object.fromEntries(live), engine.plan.arenas)
    }
  },
)

for (const stage of [1, 2, 3] as const) {
  test.serial(
    `ZeRO ${stage}: a lost slice comes from the newest checkpoint, without one the run begins anew`,
    async (t) => {
      for (const every of [0, 1]) {
        await withFolder(async (folder) => {
          await using engine = await initialize(options(stage, { checkpoints: { folder, every } }))
          const told = record(engine)
          await engine.train({ steps: 2 })
          await engine.saved()
          await killWorker(engine, 2)
          const { losses, norms } = await curveOf(engine, steps)
          t.deepEqual([losses.slice(-2), norms.slice(-2)], [truth.losses.slice(2), truth.norms.slice(2)])
          t.deepEqual(told.steps, every === 1 ? [1, 2, 3, 4] : [1, 2, 1, 2, 3, 4])
          t.like(told.restarts, [every === 1 ? { source: 'checkpoint', step: 2 } : { source: 'start', step: 0 }])
        })
      }
    },
  )
}

test.serial('a state without slices is on every rank in ZeRO 2 as well: SGD without momentum', async (t) => {
  const config = (stage: Stage) =>
    trainConfig(
      { train: 12, micro: 2 },
      { optimizer: { type: 'SGD', params: { lr: 0.05 } }, zero_optimization: { stage } },
    )
  const expected = await curve(options(0, { ranks: 1, config: config(0) }), 3)
  await using engine = await initialize(options(2, { config: config(2) }))
  const told = record(engine)
  await engine.train({ steps: 2 })
  await killWorker(engine, 0)
  t.deepEqual((await curveOf(engine, 3)).losses, expected.losses.slice(2))
  t.like(told.restarts, [{ source: 'peers', step: 2 }])
})

/** Of each step, the last time that it was made, what may not differ by a bit. */
async function scaledSteps(engine: Engine, work: () => Promise<unknown>): Promise<unknown[]> {
  const made: unknown[] = []
  const subscription = engine.events$.subscribe((event) => {
    if (event.type !== 'step') return
    const { step, loss, grad_norm, lr, skipped, skipped_steps, loss_scale } = event
    made[step - 1] = { step, loss, grad_norm, lr, skipped, skipped_steps, loss_scale }
  })
  await work()
  subscription.unsubscribe()
  return made
}

test.serial(
  'fp16: the loss scale comes back with the state that it belongs to, also where steps are skipped',
  async (t) => {
    const scaled = (stage: Stage, more: Partial<InitializeOptions> = {}): InitializeOptions => {
      const fp16 = { enabled: true, initial_scale_power: 22, loss_scale_window: 1, hysteresis: 1 }
      const scheduler = {
        type: 'WarmupLR',
        params: { warmup_num_steps: 9, warmup_max_lr: 1e-3, warmup_type: 'linear' },
      }
      const config = trainConfig({ train: 12, micro: 2 }, { fp16, scheduler, zero_optimization: { stage } })
      return options(stage, { config, keepInFp32: /ln_/, ...more })
    }
    await using quiet = await initialize(scaled(0, { ranks: 1 }))
    const expected = await scaledSteps(quiet, () => quiet.train({ steps: 7 }))
    const kinds = expected.map((event) => ((event as { skipped: boolean }).skipped ? 'O' : 'N')).join('')
    t.log(kinds)
    const cases = [
      { stage: 0, victim: 1, every: 0, source: 'peers', step: 3 },
      { stage: 1, victim: 3, every: 0, source: 'kept', step: 3 },
      { stage: 2, victim: 0, every: 2, source: 'checkpoint', step: 2 },
      { stage: 3, victim: 2, every: 0, source: 'start', step: 0 },
    ] as const
    for (const { stage, victim, every, source, step } of cases) {
      await withFolder(async (folder) => {
        await using engine = await initialize(scaled(stage, { checkpoints: { folder, every } }))
        const told = record(engine)
        const steps = await scaledSteps(engine, async () => {
          await engine.train({ steps: 3 })
          await engine.saved()
          await killWorker(engine, victim)
          await engine.train({ steps: 7 })
        })
        t.like(told.restarts, [{ source, step }])
        t.deepEqual(steps, expected, source)
      })
    }
    await using struck = await initialize(scaled(0, { chaos: 'kill:rank=1@step=3' }))
    t.deepEqual(await scaledSteps(struck, () => struck.train({ steps: 7 })), expected)
  },
)

test.serial('the end of the data loader costs no state in any stage', async (t) => {
  for (const stage of [0, 3] as const) {
    await using engine = await initialize(options(stage))
    const told = record(engine)
    await engine.train({ steps: 2 })
    await killWorker(engine, 3)
    t.deepEqual((await curveOf(engine, steps)).losses, truth.losses.slice(2))
    t.like(told, { steps: [1, 2, 3, 4], lost: [3], restarts: [{ source: 'kept', step: 2 }] })
  }
})

test.serial('operations side by side that a failure strikes share one restart', async (t) => {
  await using quiet = await initialize(options(0))
  await quiet.train({ steps: 1 })
  const before = await quiet.forward([1, 2, 3])
  await quiet.train({ steps: 2 })
  const after = await quiet.forward([1, 2, 3])
  await using engine = await initialize(options(0, { chaos: 'kill:rank=1@step=2' }))
  const told = record(engine)
  await engine.train({ steps: 1 })
  const [, seen] = await Promise.all([engine.train({ steps: 2 }), engine.forward([1, 2, 3])])
  const { losses } = await curveOf(engine, steps)
  t.deepEqual(losses, truth.losses.slice(2))
  t.deepEqual(
    told.restarts.map(({ source, step, attempt }) => ({ source, step, attempt })),
    [{ source: 'peers', step: 1, attempt: 1 }],
  )
  t.true([before, after].some((logits) => logits.every((value, i) => value === seen[i])))
})

test.serial(
  "a step on the caller's batch is repeated from peers; batches that were lost are an error that names them",
  async (t) => {
    const { model } = options(0)
    const batch = (step: number) => {
      const length = 12 * model.maxPositions
      const id = (i: number): number => tokenAt(i + 31 * step, model.vocabSize)
      return {
        inputs: Int32Array.from({ length }, (_, i) => id(i)),
        targets: Int32Array.from({ length }, (_, i) => id(i + 1)),
      }
    }
    const run = async (engine: Engine): Promise<number[]> => {
      const losses: number[] = []
      for (let step = 1; step <= 3; step++) losses.push((await engine.trainBatch(batch(step))).loss)
      return losses
    }
    await using quiet = await initialize(options(0))
    const expected = await run(quiet)
    await using peers = await initialize(options(0, { chaos: 'throw:rank=1@step=2' }))
    t.deepEqual(await run(peers), expected)
    await using sliced = await initialize(options(2, { chaos: 'throw:rank=1@step=3' }))
    const error = await t.throwsAsync(run(sliced), { instanceOf: EngineError, code: 'ENGINE_RANK_FAILED' })
    t.regex(error!.message, /rank 1: chaos: throw; the run is back at step 0.* of the steps up to 2$/)
    t.is(sliced.step, 0)
    t.deepEqual(await run(sliced), expected)
  },
)

for (const fault of ['freeze:rank=1@step=2', 'stall:rank=1@step=2:10000s'] as const) {
  test.serial(`${fault}: a rank that does nothing past the deadline has failed`, async (t) => {
    await using engine = await initialize(options(0, { chaos: fault, stallSeconds: 1 }))
    const told = record(engine)
    t.deepEqual((await curveOf(engine, steps)).losses.slice(-2), truth.losses.slice(2))
    t.regex(told.restarts[0]!.cause, /rank 1: it made no progress for 1 s/)
    t.deepEqual(told.lost, [1])
    await using doomed = await initialize(options(0, { chaos: fault, stallSeconds: 1, restarts: 0 }))
    await t.throwsAsync(doomed.train({ steps }), { message: /step 2, .* rank 1: it made no progress for 1 s$/ })
  })
}

test.serial('a step that is longer than the deadline but goes on is no failure', async (t) => {
  const chaos = Array.from({ length: 16 }, () => 'stall:rank=1@step=1:200ms').join(',')
  await using engine = await initialize(options(0, { chaos, stallSeconds: 2.5, restarts: 0 }))
  const event = await engine.train({ steps: 1 })
  t.is(event!.loss, truth.losses[0]!)
  t.true(event!.seconds > 2.5)
})
