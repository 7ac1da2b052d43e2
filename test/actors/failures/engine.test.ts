// Failures between steps, and what is left of a run that failed: no thread, no changed parameter, one error.
import { readdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { initialize } from '../../../actors/engine/engine.js'
import { EngineError } from '../../../actors/engine/errors.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import { curveOf, sourceFor, tinyModel, trainConfig, withFolder } from '../../support/training.js'
import { killWorker } from './assassin.js'

const ranks = 2

function options(more: Partial<InitializeOptions> = {}): InitializeOptions {
  const model = tinyModel({ dropout: 0.1 })
  const data = sourceFor(model)
  const config = trainConfig({ train: 8, micro: 2 }, { zero_optimization: { stage: 2 } })
  return { model, data, evalData: data, ranks, threads: 1, config, ...more }
}

const undisturbed = async (steps: number) => {
  await using engine = await initialize(options())
  const curve = await curveOf(engine, steps)
  return { ...curve, evaluation: await engine.evaluate() }
}

for (const [worker, who] of [
  [0, /rank 0: worker 0/],
  [1, /rank 1: worker 1/],
  [2, /data loader and checkpointer: worker 2/],
] as const) {
  test.serial(`worker ${worker} ends between two steps: one error that names it`, async (t) => {
    await using engine = await initialize(options())
    await engine.train({ steps: 2 })
    await killWorker(engine, worker)
    const error = await t.throwsAsync(engine.train({ steps: 4 }), {
      instanceOf: EngineError,
      code: 'ENGINE_RANK_FAILED',
    })
    t.regex(error!.message, who)
    t.is(engine.step, 2)
  })
}

test.serial(
  'a worker that ends before an evaluation or a save costs a restart; the lost steps are replayed',
  async (t) => {
    const expected = await undisturbed(5)
    for (const worker of [1, 2]) {
      await using engine = await initialize(options({ restarts: 1 }))
      await engine.train({ steps: 3 })
      await killWorker(engine, worker)
      const curve = await curveOf(engine, 5)
      t.deepEqual(curve.losses.slice(-2), expected.losses.slice(3))
      t.deepEqual(await engine.evaluate(), expected.evaluation)
    }
    await using engine = await initialize(options({ restarts: 1 }))
    await engine.train({ steps: 5 })
    await killWorker(engine, 0)
    t.deepEqual(await engine.evaluate(), expected.evaluation)
    await withFolder(async (folder) => {
      await using saver = await initialize(options({ restarts: 1 }))
      await saver.train({ steps: 5 })
      await killWorker(saver, 1)
      const path = await saver.save(folder)
      await using loaded = await initialize(options())
      await loaded.load(path)
      t.is(loaded.step, 5)
      t.deepEqual(await loaded.evaluate(), expected.evaluation)
    })
  },
)

const threads = (): number => readdirSync('/proc/self/task').length

async function threadsSettle(most: number): Promise<number> {
  for (let i = 0; i < 100 && threads() > most; i++) await sleep(50)
  return threads()
}

test.serial('runs that failed leave no thread behind', async (t) => {
  const faults = ['kill:rank=1@step=2', 'throw:rank=0@step=2', 'kill:rank=0@step=2,stall:rank=1@step=2:300ms']
  const fail = async (chaos: string): Promise<void> => {
    await using engine = await initialize(options({ chaos }))
    await t.throwsAsync(engine.train({ steps: 3 }), { code: 'ENGINE_RANK_FAILED' })
  }
  await fail(faults[0]!)
  await sleep(100)
  const before = threads()
  for (const chaos of faults) await fail(chaos)
  t.true((await threadsSettle(before)) <= before)
})

test.serial(
  'a loss that is not finite: step and first tensor are named, parameters are as before the step',
  async (t) => {
    const config = trainConfig(
      { train: 4, micro: 2 },
      { gradient_clipping: 0, optimizer: { type: 'SGD', params: { lr: 1e37 } } },
    )
    await using engine = await initialize(options({ config }))
    const ids = [1, 2, 3, 4]
    let before = await engine.forward(ids)
    const error = await t.throwsAsync(
      async () => {
        for (;;) {
          before = await engine.forward(ids)
          await engine.train({ steps: engine.step + 1 })
        }
      },
      { code: 'ENGINE_NOT_FINITE' },
    )
    t.regex(
      error!.message,
      new RegExp(`of step ${engine.step + 1}, expected a finite number, got .*; first in the output of \\w+`),
    )
    t.true(engine.step >= 1)
    t.deepEqual(await engine.forward(ids), before)
  },
)
