// Two steps under way: the ranks do the next one without hearing from the main thread, and every number is that of one step at a time.
import test from 'ava'
import { type Engine, initialize } from '../../../actors/engine/engine.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import { type ArenaName, arenaNames } from '../../../kernels/abi/program.js'
import { createGroup, groupProgress } from '../../../native/index.js'
import { readManifest } from '../../../runtime/checkpoint/manifest.js'
import type { DeepSpeedConfig } from '../../../runtime/config/index.js'
import type { StepEvent } from '../../../runtime/observe/index.js'
import { sourceFor, tinyModel, trainConfig, withFolder } from '../../support/training.js'

const options = (more: DeepSpeedConfig = {}, extra: Partial<InitializeOptions> = {}): InitializeOptions => {
  const model = tinyModel({ dropout: 0.1 })
  return { model, data: sourceFor(model), config: trainConfig({ train: 8, micro: 2 }, more), threads: 1, ...extra }
}

/** fp16 that overflows at its first steps and again whenever its scale has grown. */
const overflowing: DeepSpeedConfig = {
  fp16: { enabled: true, initial_scale_power: 22, loss_scale_window: 1, hysteresis: 1 },
  scheduler: { type: 'WarmupLR', params: { warmup_num_steps: 9, warmup_max_lr: 1e-3, warmup_type: 'linear' } },
}

/** What may not differ by a bit. */
const figures = ({ step, loss, grad_norm, lr, skipped, skipped_steps, loss_scale }: StepEvent): object => ({
  step,
  loss,
  grad_norm,
  lr,
  skipped,
  skipped_steps,
  loss_scale,
})

async function stepsOf(engine: Engine, work: () => Promise<unknown>): Promise<StepEvent[]> {
  const events: StepEvent[] = []
  const subscription = engine.events$.subscribe((event) => event.type === 'step' && events.push(event))
  await work()
  subscription.unsubscribe()
  return events
}

for (const [name, more, extra] of [
  ['fp32', {}, { ranks: 2 }],
  ['fp16 on one rank', overflowing, { ranks: 1 }],
  ['fp16 with accumulation, ZeRO 3', { ...overflowing, zero_optimization: { stage: 3 } }, { ranks: 2 }],
  [
    'SGD with momentum, bf16, no accumulation',
    { bf16: { enabled: true }, optimizer: { type: 'SGD', params: { lr: 0.05, momentum: 0.9 } } },
    { ranks: 2, config: null },
  ],
] as const) {
  test.serial(`${name}: the bits of one step at a time`, async (t) => {
    const steps = 9
    const made = { ...options(more), ranks: extra.ranks }
    const config = 'config' in extra ? trainConfig({ train: 4, micro: 2 }, more) : made.config!
    await using single = await initialize({ ...made, config })
    const expected = await stepsOf(single, async () => {
      for (let step = 1; step <= steps; step++) await single.train({ steps: step })
    })
    await using ahead = await initialize({ ...made, config })
    const events = await stepsOf(ahead, () => ahead.train({ steps }))
    t.deepEqual(events.map(figures), expected.map(figures))
    t.deepEqual(await ahead.forward([1, 2, 3]), await single.forward([1, 2, 3]))
    if ('fp16' in more) t.regex(events.map(({ skipped }) => (skipped ? 'O' : 'N')).join(''), /^OO*N.*O.*N/)
  })
}

/** How many instructions each rank of the group that was made last has done. */
async function progressOfLast(): Promise<() => number[]> {
  // Groups are numbered in the order in which they are made.
  const arenas = Object.fromEntries(arenaNames.map((name) => [name, 0])) as Record<ArenaName, number>
  const next = createGroup({ device: 'cpu', ranks: 1, arenas })
  const token = { ...next.token, id: next.token.id - 1 }
  await next.close()
  return () => groupProgress(token).map(({ instructions }) => instructions)
}

test.serial('a rank goes on to the next step while the main thread does nothing', async (t) => {
  await using engine = await initialize(options({}, { ranks: 2 }))
  const { programs } = engine.prepared.compilation
  const perStep = [programs.first!, programs.last!].reduce((sum, { program }) => sum + program.instructions.length, 0)
  const progress = await progressOfLast()
  const before = progress()
  const done = (): number[] => progress().map((count, rank) => count - before[rank]!)
  const clock = new Int32Array(new SharedArrayBuffer(4))
  const seen: number[][] = []
  engine.events$.subscribe((event) => {
    if (event.type !== 'step') return
    const end = performance.now() + 20_000
    const next = perStep * Math.min(event.step + 1, 3)
    while (performance.now() < end && done().some((count) => count < next)) Atomics.wait(clock, 0, 0, 2)
    seen.push(done())
  })
  await engine.train({ steps: 3 })
  const after = (steps: number): number[] => [steps * perStep, steps * perStep]
  t.deepEqual(seen, [after(2), after(3), after(3)])
})

test.serial('seconds of steps under way together add up to the time that passes', async (t) => {
  await using engine = await initialize(options())
  const started = performance.now()
  const events = await stepsOf(engine, () => engine.train({ steps: 12 }))
  const passed = (performance.now() - started) / 1000
  const sum = events.reduce((total, { seconds }) => total + seconds, 0)
  t.true(sum <= passed, `${sum} of ${passed}`)
  for (const { seconds, native_seconds, tokens, tokens_per_second } of events) {
    t.true(native_seconds > 0 && seconds > 0)
    t.is(tokens_per_second, tokens / seconds)
  }
  t.true(events.reduce((total, { native_seconds }) => total + native_seconds, 0) <= passed)
})

test.serial(
  'a step that is not finite leaves nothing to the one behind it, and is the one that the error names',
  async (t) => {
    // The first update throws the weights out of every range, so the second step is the guilty one.
    const wild: DeepSpeedConfig = {
      optimizer: { type: 'SGD', params: { lr: 1e30, momentum: 0.9 } },
      gradient_clipping: 0,
      bf16: { enabled: true, check_grad_overflow: false },
    }
    for (const train of [4, 8]) {
      const config = trainConfig({ train, micro: 2 }, wild)
      await using single = await initialize({ ...options(), config, ranks: 2 })
      await single.train({ steps: 1 })
      const expected = await t.throwsAsync(single.train({ steps: 2 }))
      await using engine = await initialize({ ...options(), config, ranks: 2 })
      const error = await t.throwsAsync(engine.train({ steps: 9 }))
      t.like(error, { code: 'ENGINE_NOT_FINITE', message: expected!.message })
      t.regex(error!.message, /of step 2, /)
      t.is(engine.step, 1)
      await withFolder(async (folder) => {
        const [a, b] = [await single.save(`${folder}/a`), await engine.save(`${folder}/b`)]
        t.deepEqual(readManifest(b).files, readManifest(a).files)
      })
      // The same again, now that nothing is under way before it.
      t.is((await t.throwsAsync(engine.train({ steps: 9 })))!.message, expected!.message)
    }
  },
)

test.serial('an aborted run ends after the steps under way, and goes on from there bit by bit', async (t) => {
  const steps = 8
  await using quiet = await initialize(options(overflowing, { ranks: 2 }))
  const expected = await stepsOf(quiet, () => quiet.train({ steps }))
  await using engine = await initialize(options(overflowing, { ranks: 2 }))
  const interrupt = new AbortController()
  const subscription = engine.events$.subscribe((event) => {
    if (event.type === 'step' && event.step === 3) interrupt.abort()
  })
  const events = await stepsOf(engine, async () => {
    const last = await engine.train({ steps, signal: interrupt.signal })
    t.is(last!.step, engine.step)
    t.is(engine.step, 4)
    await engine.train({ steps })
  })
  subscription.unsubscribe()
  t.deepEqual(events.map(figures), expected.map(figures))
})

test.serial('checkpoints are of their own step, whatever comes behind', async (t) => {
  await withFolder(async (folder) => {
    const checkpoints = { folder, every: 3 }
    await using engine = await initialize(options(overflowing, { ranks: 2, checkpoints }))
    const expected = await stepsOf(engine, () => engine.train({ steps: 8 }))
    await engine.saved()
    await using resumed = await initialize(options(overflowing, { ranks: 2 }))
    await resumed.load(`${folder}/global_step3`)
    const events = await stepsOf(resumed, () => resumed.train({ steps: 8 }))
    t.deepEqual(events.map(figures), expected.slice(3).map(figures))
  })
})

for (const stage of [0, 3] as const) {
  test.serial(`ZeRO ${stage}: a rank that is lost with two steps under way costs no bit`, async (t) => {
    const more = { ...overflowing, zero_optimization: { stage } }
    await using quiet = await initialize(options(more, { ranks: 2 }))
    const expected = await stepsOf(quiet, () => quiet.train({ steps: 8 }))
    for (const chaos of ['kill:rank=1@step=4', 'throw:rank=0@step=5', 'stall:rank=1@step=3:100ms']) {
      await using engine = await initialize(options(more, { ranks: 2, chaos, restarts: 1 }))
      const made: object[] = []
      for (const event of await stepsOf(engine, () => engine.train({ steps: 8 }))) made[event.step - 1] = figures(event)
      t.deepEqual(made, expected.map(figures), chaos)
    }
  })
}
