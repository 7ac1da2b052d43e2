// Loss scaling in a running engine: steps that overflow change nothing but the scale, the scale changes no result, and what a smaller
// scale would not mend ends the run by name. The state machine itself is tested in runtime/optim.
import test from 'ava'
import { type Engine, initialize } from '../../../actors/engine/engine.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import type { DeepSpeedConfig } from '../../../runtime/config/index.js'
import type { StepEvent } from '../../../runtime/observe/index.js'
import { type LossScaleSpec, nextLossScale, startLossScale } from '../../../runtime/optim/index.js'
import { curve, sourceFor, tinyModel, tokenAt, trainConfig } from '../../support/training.js'

const options = (more: DeepSpeedConfig, extra: Partial<InitializeOptions> = {}): InitializeOptions => {
  const model = tinyModel()
  const config = trainConfig({ train: 8, micro: 2 }, more)
  return { model, data: sourceFor(model), config, ranks: 1, threads: 1, ...extra }
}

async function eventsOf(engine: Engine, steps: number): Promise<StepEvent[]> {
  const events: StepEvent[] = []
  engine.events$.subscribe((event) => event.type === 'step' && events.push(event))
  await engine.train({ steps })
  return events
}

test.serial('scale, skipped steps and learning rate follow the overflows', async (t) => {
  const spec: LossScaleSpec = {
    dynamic: true,
    initial: 2 ** 22,
    window: 2,
    hysteresis: 2,
    consecutiveHysteresis: false,
    min: 1,
  }
  await using engine = await initialize(
    options(
      {
        fp16: { enabled: true, initial_scale_power: 22, loss_scale_window: 2 },
        scheduler: { type: 'WarmupLR', params: { warmup_num_steps: 100, warmup_max_lr: 1e-3, warmup_type: 'linear' } },
      },
      { ranks: 2 },
    ),
  )
  const notices: string[] = []
  engine.events$.subscribe((event) => event.type === 'notice' && notices.push(event.message))
  const events = await eventsOf(engine, 14)
  let state = startLossScale(spec)
  let applied = 0
  for (const { step, skipped, skipped_steps, loss_scale, grad_norm, lr } of events) {
    t.is(loss_scale, state.scale, `step ${step}`)
    t.is(grad_norm === -1, skipped)
    t.is(lr, 1e-3 * (Math.max(0, applied - 1) / 100))
    state = nextLossScale(spec, state, skipped)
    applied += skipped ? 0 : 1
    t.is(skipped_steps, step - applied)
  }
  const kinds = events.map(({ skipped }) => (skipped ? 'O' : 'N')).join('')
  t.regex(kinds, /^OO+N.*O/, 'skips at first, grows, and skips again')
  t.is(notices.length, events.filter(({ skipped }) => skipped).length)
  t.regex(notices[1]!, /^step 2 skipped: the gradients overflow at loss scale 4194304, next 2097152$/)
})

test.serial('a skipped step leaves weights, moments and step count as they were', async (t) => {
  const batch = (k: number): { inputs: Int32Array; targets: Int32Array } => {
    const at = (offset: number): Int32Array =>
      Int32Array.from({ length: 160 }, (_, i) => tokenAt(160 * k + i + offset, 61))
    return { inputs: at(0), targets: at(1) }
  }
  await using skipping = await initialize(
    options({ fp16: { enabled: true, initial_scale_power: 22, hysteresis: 1 } }, { ranks: 2 }),
  )
  let first = 0
  const losses: number[] = []
  let scale = 0
  for (let k = 0; losses.length < 5; k++) {
    const event = await skipping.trainBatch(batch(k))
    if (event.skipped) first = k + 1
    else {
      losses.push(event.loss)
      scale = event.loss_scale!
    }
  }
  t.true(first >= 2)
  await using straight = await initialize(options({ fp16: { enabled: true, loss_scale: scale } }))
  for (const [i, loss] of losses.entries()) t.is((await straight.trainBatch(batch(first + i))).loss, loss)
})

test.serial('the scale changes no bit where nothing is rounded to fp16', async (t) => {
  const plain = await curve(options({}), 6)
  for (const loss_scale of [1, 2 ** 8, 2 ** 16, 2 ** 30]) {
    const kept = options({ fp16: { enabled: true, loss_scale } }, { keepInFp32: /^$/ })
    t.deepEqual(await curve(kept, 6), plain, `${loss_scale}`)
  }
})

test.serial('in fp16 the scale changes only what underflows', async (t) => {
  const run = (loss_scale: number): ReturnType<typeof curve> =>
    curve(options({ fp16: { enabled: true, loss_scale } }), 10)
  const [fine, finer] = [await run(2 ** 12), await run(2 ** 16)]
  fine.losses.forEach((loss, s) => {
    t.true(Math.abs(loss - finer.losses[s]!) < 1e-3, `step ${s + 1}: ${loss}, ${finer.losses[s]}`)
  })
})

test.serial('a static scale stays and skips all the same', async (t) => {
  await using engine = await initialize(options({ fp16: { enabled: true, loss_scale: 2 ** 24 } }))
  const before = await engine.forward([1, 2, 3])
  const events = await eventsOf(engine, 3)
  t.true(events.every(({ skipped, loss_scale }) => skipped && loss_scale === 2 ** 24))
  t.deepEqual(await engine.forward([1, 2, 3]), before)
})

/** SGD that throws weights out of every range at its first step. */
const wild: DeepSpeedConfig = {
  optimizer: { type: 'SGD', params: { lr: 1e30 } },
  gradient_clipping: 0,
}

test.serial('an overflow at the least scale ends the run and names the first bad tensor', async (t) => {
  await using engine = await initialize(
    options(
      { ...wild, fp16: { enabled: true, initial_scale_power: 2, min_loss_scale: 2, hysteresis: 1 } },
      { ranks: 2 },
    ),
  )
  const error = await t.throwsAsync(engine.train({ steps: 9 }))
  t.like(error, { name: 'EngineError', code: 'ENGINE_NOT_FINITE' })
  // Step 1 ruins the weights, step 2 halves the scale, step 3 finds it at its least.
  t.is(engine.step, 2)
  t.regex(error!.message, /of step 3, expected a finite number, .*; first in the output of \w+ of transformer/)
  t.regex(error!.message, /a smaller scale would not help; look for NaN in data or weights/)
})

test.serial('bf16: check_grad_overflow decides between a skipped step and the end of the run', async (t) => {
  await using skips = await initialize(options({ ...wild, bf16: { enabled: true } }))
  const events = await eventsOf(skips, 4)
  t.deepEqual(
    events.map(({ skipped, skipped_steps, loss_scale }) => [skipped, skipped_steps, loss_scale]),
    [
      [false, 0, undefined],
      [true, 1, undefined],
      [true, 2, undefined],
      [true, 3, undefined],
    ],
  )
  await using ends = await initialize(options({ ...wild, bf16: { enabled: true, check_grad_overflow: false } }))
  const error = await t.throwsAsync(ends.train({ steps: 4 }))
  t.like(error, { code: 'ENGINE_NOT_FINITE' })
  t.is(ends.step, 1)
})
