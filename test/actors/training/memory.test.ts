// Memory: what the registry of arenas counted is what the plan said, the plan falls with the ZeRO stage as it should, and the process
// as a whole is as large as planned.
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { type Engine, initialize } from '../../../actors/engine/engine.js'
import { byteLength } from '../../../kernels/ops/definition.js'
import { stepState } from '../../../kernels/ops/step.js'
import type { LanguageModel } from '../../../runtime/nn/language-model.js'
import { countParameters, namedParameters } from '../../../runtime/nn/module.js'
import { smallModel, sourceFor, trainConfig } from '../../support/training.js'

type Stage = 0 | 1 | 2 | 3

function start(model: LanguageModel, stage: Stage, ranks: number): Promise<Engine> {
  const zero = { stage, stage3_param_persistence_threshold: 0 }
  return initialize({
    model,
    data: sourceFor(model),
    config: trainConfig({ train: 8, micro: 1 }, { zero_optimization: zero }),
    evalData: sourceFor(model, 3),
    ranks,
    threads: 1,
  })
}

/** Elements with each tensor padded to chunks of 1,024 and each unit to equal whole chunks on every rank. */
function padded(model: LanguageModel, ranks: number): number {
  const up = (n: number, step: number): number => Math.ceil(n / step) * step
  const units = new Map<string, number>()
  for (const { parameter, unit } of namedParameters(model)) {
    units.set(
      unit,
      (units.get(unit) ?? 0) +
        up(
          parameter.shape.reduce((a, b) => a * b, 1),
          1024,
        ),
    )
  }
  return [...units.values()].reduce((sum, length) => sum + up(length, 1024 * ranks), 0)
}

for (const stage of [0, 1, 2, 3] as const) {
  test.serial(`ZeRO ${stage}: peaks are the plan exactly, states are shared out by rank`, async (t) => {
    for (const ranks of [1, 2, 4]) {
      const model = smallModel()
      await using engine = await start(model, stage, ranks)
      await engine.train({ steps: 2 })
      await engine.evaluate()
      const { arenas } = engine.plan
      for (let rank = 0; rank < ranks; rank++) {
        const memory = engine.memory(rank)
        t.deepEqual(Object.fromEntries(Object.entries(memory).map(([name, { peak }]) => [name, peak])), arenas)
        t.deepEqual(Object.fromEntries(Object.entries(memory).map(([name, { live }]) => [name, live])), arenas)
      }
      const share = (from: Stage): number => (stage >= from ? ranks : 1)
      const elements = padded(model, ranks)
      t.is(arenas.parameters, (4 * elements) / share(3))
      t.is(arenas.gradients, (4 * elements) / share(1))
      t.is(arenas.optimizer, (8 * elements) / share(1) + byteLength(stepState))
      const padding = elements / countParameters(model) - 1
      t.true(padding < 0.1, `padding is ${padding} of the parameters`)
      if (stage < 3 || ranks === 1) t.is(arenas.gathered, 0)
    }
  })
}

/** The report of a process of its own. */
const inChild = (...args: readonly string[]): unknown => {
  const child = fileURLToPath(new URL('./memory-child.js', import.meta.url))
  return JSON.parse(execFileSync(process.execPath, [child, ...args], { encoding: 'utf8' }))
}

test.serial('GPT-2 124M on two ranks: the resident memory of the process is the plan within 10 %', (t) => {
  const { before, now, peak, planned, arenas } = inChild('plan', '2') as Record<string, number> & {
    arenas: Record<string, number>
  }
  const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`
  t.log(`planned ${mebibytes(planned!)}, resident ${mebibytes(now! - before!)}, at most ${mebibytes(peak! - before!)}`)
  const slack = Math.max(0.1 * planned!, 16 * 2 ** 20)
  t.true(
    Math.abs(now! - before! - planned!) < slack,
    `resident: ${mebibytes(now! - before!)}, planned ${mebibytes(planned!)}`,
  )
  t.true(
    Math.abs(peak! - before! - planned!) < slack,
    `at most: ${mebibytes(peak! - before!)}, planned ${mebibytes(planned!)}`,
  )
  // 124,439,808 parameters; padding is below half a per cent of that.
  const whole = 4 * 124_439_808
  for (const [name, bytes] of [
    ['parameters', whole],
    ['gradients', whole / 2],
    ['optimizer', whole],
  ] as const) {
    t.true(arenas[name]! >= bytes && arenas[name]! < 1.005 * bytes, `${name}: ${arenas[name]}`)
  }
})

test.serial('saving, restoring and logits take no more memory the tenth time than the second', (t) => {
  const { rounds, bytes } = inChild('copies') as { rounds: number[]; bytes: number }
  t.log(
    rounds.map((now) => Math.round(now / 2 ** 20)).join(', '),
    `MiB, checkpoints of ${Math.round(bytes / 2 ** 20)} MiB`,
  )
  t.true(rounds.at(-1)! - rounds[2]! < 2 * bytes, `grew by ${rounds.at(-1)! - rounds[2]!} bytes`)
})
