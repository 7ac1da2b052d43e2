// The whole training step on the CPU kernels against the reference kernels: loss, norm and the parameters after the last step.
import test from 'ava'
import { initialize } from '../../../actors/engine/engine.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import { machine } from '../../../native/index.js'
import { modelFromFolder } from '../../../runtime/nn/models/huggingface.js'
import {
  type Curve,
  curveOf,
  relativeDifference,
  sourceFor,
  tinyModel,
  trainConfig,
  withFolder,
} from '../../support/training.js'

interface Result {
  readonly curve: Curve
  readonly logits: Float32Array
  /** All parameters, and their states, by name. */
  readonly parameters: ReadonlyMap<string, Float32Array>
}

function run(options: Partial<InitializeOptions>): Promise<Result> {
  const model = tinyModel({ dropout: 0.1 })
  const config = trainConfig({ train: 8, micro: 2 }, { gradient_clipping: 0.5, zero_optimization: { stage: 2 } })
  return withFolder(async (folder) => {
    await using engine = await initialize({ model, data: sourceFor(model), config, ranks: 2, threads: 1, ...options })
    const curve = await curveOf(engine, 5)
    const logits = await engine.forward([1, 2, 3, 5, 8, 13, 21, 34, 55])
    const saved = modelFromFolder(await engine.save(folder))
    const parameters = new Map(
      [...saved.folder.tensors].map(([name, { shape }]) => {
        const values = new Float32Array(shape.reduce((a, b) => a * b, 1))
        saved.weights.read(name, 0, values)
        return [name, values]
      }),
    )
    saved.weights.close()
    return { curve, logits, parameters }
  })
}

let known: Promise<Result> | undefined
const reference = (): Promise<Result> => {
  known ??= run({ device: 'reference' })
  return known
}

const levels = machine().isa
for (const isa of levels) {
  test.serial(`a training step on the CPU (${isa}) is the reference's`, async (t) => {
    const [cpu, expected] = [await run({ device: 'cpu', isa }), await reference()]
    const losses = relativeDifference(cpu.curve.losses, expected.curve.losses)
    const norms = relativeDifference(cpu.curve.norms, expected.curve.norms)
    t.log(`losses ${losses}, norms ${norms}`)
    t.true(losses < 1e-5)
    t.true(norms < 1e-5)
    t.true(cpu.logits.every((logit, i) => Math.abs(logit - expected.logits[i]!) < 1e-4))
    for (const [name, values] of expected.parameters) {
      const own = cpu.parameters.get(name)!
      // The softmax does not see the bias of keys: its gradient is rounding error, which Adam's division makes large.
      const third = values.length / 3
      const counts = (i: number): boolean => !name.endsWith('c_attn.bias') || i < third || i >= 2 * third
      const distance = Math.hypot(...values.map((value, i) => (counts(i) ? value - own[i]! : 0)))
      t.true(distance < 1e-4 * Math.hypot(...values.filter((_, i) => counts(i))), `${name}: ${distance}`)
    }
  })
}

if (levels.length === 0)
  test('no CPU kernels on this machine: the reference trains', async (t) => {
    const { curve } = await reference()
    t.true(curve.losses.at(-1)! < curve.losses[0]!)
  })

test.serial('the reference keeps the bit rules, too', async (t) => {
  const { curve } = await reference()
  t.deepEqual((await run({ device: 'reference', ranks: 1 })).curve, curve)
})

// The reference kernel is told the order of the tokens and refuses a wrong one.
test.serial("a caller's batch has its tokens in order, too", async (t) => {
  const model = tinyModel()
  const config = trainConfig({ train: 8, micro: 2 })
  const data = sourceFor(model)
  const [inputs, targets] = [new Int32Array(8 * data.seq), new Int32Array(8 * data.seq)]
  data.read([7, 6, 5, 4, 3, 2, 1, 0], inputs, targets)
  const losses: number[] = []
  for (const device of ['reference', ...(levels.length > 0 ? (['cpu'] as const) : [])] as const) {
    await using engine = await initialize({ model, data, config, ranks: 2, threads: 1, device })
    losses.push((await engine.trainBatch({ inputs, targets })).loss)
  }
  t.true(losses.every((loss) => Math.abs(loss / losses[0]! - 1) < 1e-5))
})
