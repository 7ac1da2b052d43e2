// ZeRO-Offload: the same programs with an optimizer on the host give the same bits, keep the same checkpoints, and leave the lanes of a
// GPU in order. On the CPU the host's arenas are arenas like others; runs on GPUs are in test/gpu.
import test from 'ava'
import { Engine } from '../../../actors/engine/engine.js'
import { type InitializeOptions, type Prepared, prepare } from '../../../actors/engine/prepare.js'
import { addon } from '../../../native/index.js'
import type { DeepSpeedConfig } from '../../../runtime/config/index.js'
import { planTotals } from '../../../runtime/graph/compile.js'
import { type Listed, type Schedule, schedulesOf, Timeline } from '../../support/timeline.js'
import { type Curve, curveOf, smallModel, sourceFor, trainConfig, withFolder } from '../../support/training.js'

interface Case {
  readonly ranks: number
  readonly stage: 0 | 1 | 2 | 3
  readonly micro?: number
  readonly more?: DeepSpeedConfig
}

function preparedFor({ ranks, stage, micro = 8 / ranks, more = {} }: Case, offload: boolean): Prepared {
  const model = smallModel({ layers: 2 })
  const config = trainConfig(
    { train: 8, micro },
    { ...more, zero_optimization: { stage, stage3_param_persistence_threshold: 100, reduce_bucket_size: 40_000 } },
  )
  const options: InitializeOptions = { model, data: sourceFor(model), config, ranks, threads: 1 }
  const prepared = prepare(options)
  const choices = { ...prepared.choices, offload }
  return { ...prepared, choices, compilation: prepared.planner(choices) }
}

async function run(of: Case, offload: boolean, steps = 5): Promise<Curve> {
  await using engine = await Engine.start(preparedFor(of, offload))
  return await curveOf(engine, steps)
}

const bf16: DeepSpeedConfig = { bf16: { enabled: true } }
const sgd: DeepSpeedConfig = { optimizer: { type: 'SGD', params: { lr: 0.05, momentum: 0.9 } } }
const cases: Readonly<Record<string, Case>> = {
  'one rank, fp32': { ranks: 1, stage: 0 },
  'one rank, bf16, four micro-steps': { ranks: 1, stage: 2, micro: 2, more: bf16 },
  'one rank, fp16 whose loss scale overflows': {
    ranks: 1,
    stage: 1,
    more: { fp16: { enabled: true, initial_scale_power: 24, hysteresis: 1 } },
  },
  'one rank, bf16, SGD': { ranks: 1, stage: 0, more: { ...bf16, ...sgd } },
  'two ranks, ZeRO 0, bf16': { ranks: 2, stage: 0, more: bf16 },
  'two ranks, ZeRO 1, fp32': { ranks: 2, stage: 1 },
  'two ranks, ZeRO 2, bf16, two micro-steps': { ranks: 2, stage: 2, micro: 2, more: bf16 },
  'two ranks, ZeRO 2, bf16, SGD': { ranks: 2, stage: 2, more: { ...bf16, ...sgd } },
  'two ranks, ZeRO 3, bf16': { ranks: 2, stage: 3, more: bf16 },
}

for (const [name, of] of Object.entries(cases)) {
  test(`${name}: losses and norms in the same bits as without`, async (t) => {
    t.deepEqual(await run(of, true), await run(of, false))
  })
}

test('checkpoints cross between runs with and without', async (t) => {
  for (const of of [
    { ranks: 1, stage: 0 },
    { ranks: 2, stage: 2, more: bf16 },
  ] as const satisfies Case[]) {
    const whole = await run(of, false, 6)
    for (const first of [true, false]) {
      await withFolder(async (folder) => {
        {
          await using engine = await Engine.start(preparedFor(of, first))
          await engine.train({ steps: 3 })
          await engine.save(folder)
        }
        await using engine = await Engine.start(preparedFor(of, !first))
        await engine.load(folder)
        const { losses, norms } = await curveOf(engine, 6)
        t.deepEqual({ losses, norms }, { losses: whole.losses.slice(3), norms: whole.norms.slice(3) })
      })
    }
  }
})

test('the plan counts masters, states and what passes between apart, as the host’s', (t) => {
  const [with_, without] = [true, false].map((offload) => preparedFor({ ranks: 2, stage: 2, more: bf16 }, offload)) as [
    Prepared,
    Prepared,
  ]
  const { layout, plan } = with_.compilation
  const { arenas, host, total } = planTotals(plan)
  // Of a slice: master and two states of f32, the gradient in f32 (two ranks add up), the weight in bf16.
  const control = 4 * 8
  const bytes = (12 + 4 + 2) * layout.shard + control
  t.true(arenas.optimizer >= bytes && arenas.optimizer < bytes + 64 * 100)
  t.is(host, arenas.optimizer)
  t.is(total, Object.values(arenas).reduce((sum, bytes) => sum + bytes, 0) - host)
  const before = planTotals(without.compilation.plan)
  t.is(before.host, 0)
  t.is(before.arenas.optimizer, 12 * layout.shard)
  // On the device only room for three slices on their way to a gather is more.
  const landings = 3 * 2 * Math.max(...layout.units.map(({ shard }) => shard))
  t.true(total <= before.total - before.arenas.optimizer + landings)
})

if (addon().addon) {
  const onHost = ['optimizer'] as const
  const listedOf = ({ compilation: { programs, plan } }: Prepared): Record<string, Listed> =>
    Object.fromEntries(
      Object.entries(programs).map(([name, { program, bytes }]) => [name, { ...program, bytes, arenas: plan.arenas }]),
    )

  for (const [name, of] of Object.entries(cases)) {
    test(`${name}: the lanes keep their order, and only the update is on the host`, async (t) => {
      const programs = listedOf(preparedFor(of, true))
      const step = 'only' in programs ? ['only'] : ['first', ...('middle' in programs ? ['middle'] : []), 'last']
      const names = [...step, ...step, 'evaluate', 'refresh', 'initialize']
      const listed = names.map((program) => programs[program]!)
      const schedules = await schedulesOf(listed, { several: of.ranks > 1, onHost })
      const runs = [0, 1].flatMap(() => schedules.map((schedule, n) => ({ schedule, program: listed[n]! })))
      t.deepEqual(new Timeline(runs).disorder(), [])
      for (const [n, { parts }] of schedules.entries()) {
        const ops = parts.filter(({ lane }) => lane === 'host').map(({ begin }) => listed[n]!.instructions[begin]!.op)
        const update = names[n] === 'only' || names[n] === 'last'
        t.deepEqual(new Set(ops), new Set(update ? (of.more?.optimizer ? ['sgd', 'cast'] : ['adam']) : []))
      }
    })
  }

  test('gradients leave with the backward, and the forward goes on as weights land', async (t) => {
    const program = listedOf(preparedFor({ ranks: 1, stage: 2, more: bf16 }, true))['only']!
    const [schedule] = (await schedulesOf([program], { several: false, onHost })) as [Schedule]
    const { parts, answer, tail, crossing } = schedule
    const of = (lane: string): number[] => parts.flatMap((part, p) => (part.lane === lane ? [p] : []))
    const [downloads, host, uploads] = [of('download'), of('host'), of('upload')]
    const backward = parts.findLastIndex(
      ({ lane, begin }) => lane === 'compute' && program.instructions[begin]!.debug.phase === 'backward',
    )
    // Of all units but the embeddings, which are done when the backward is.
    t.is(downloads.filter((p) => p < backward).length, host.length - 2)
    t.true(host.every((p) => p >= answer) && uploads.every((p) => p >= answer))
    t.deepEqual(
      tail,
      [...downloads, ...host, ...uploads].toSorted((x, y) => x - y),
    )
    // The host has its next unit to update before the weights of the one before are awaited.
    t.deepEqual(
      parts.slice(answer).flatMap(({ lane }) => (lane === 'host' || lane === 'upload' ? [lane] : [])),
      host.flatMap((_, i) => (i === 0 ? ['host'] : ['host', 'upload'])).concat('upload'),
    )
    const landed = crossing.parts.flatMap((waits, p) =>
      parts[p]!.lane === 'compute' && waits[4]! >= 0 ? [waits[4]!] : [],
    )
    t.deepEqual(landed, uploads)
  })
}
