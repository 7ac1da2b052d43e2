// Models that users compose: parameters in odd places (of the root itself, used twice, used nowhere, two with one gradient) train by the
// same rules in every stage, on both devices.

import { join } from 'node:path'
import test from 'ava'
import { initialize } from '../../../actors/engine/engine.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import { SafetensorsFile } from '../../../runtime/checkpoint/safetensors.js'
import { CausalSelfAttention } from '../../../runtime/nn/block.js'
import { crossEntropy, tanh } from '../../../runtime/nn/functional.js'
import type { LanguageModel } from '../../../runtime/nn/language-model.js'
import { Dropout, Embedding, LayerNorm, Linear } from '../../../runtime/nn/layers.js'
import { modelFromFolder } from '../../../runtime/nn/models/huggingface.js'
import { Module, namedParameters, Parameter } from '../../../runtime/nn/module.js'
import type { Tensor } from '../../../runtime/nn/tensor.js'
import {
  type Curve,
  curve,
  curveOf,
  formulaSource,
  relativeDifference,
  trainConfig,
  withFolder,
} from '../../support/training.js'

const vocab = 37
const seq = 12
const hidden = 20

class Layer extends Module {
  readonly norm = new LayerNorm(hidden)
  readonly attention = new CausalSelfAttention(hidden, 2, { attentionDropout: 0.1 })
  readonly drop = new Dropout(0.1)
  constructor(readonly mix: Linear) {
    super()
  }
  override forward(x: Tensor): Tensor {
    // `mix` belongs to every layer: one parameter, used by each.
    return x.add(this.drop.forward(tanh(this.mix.forward(this.attention.forward(this.norm.forward(x))))))
  }
}

class Odd extends Module implements LanguageModel {
  readonly config = { model_type: 'odd' }
  readonly vocabSize = vocab
  readonly maxPositions = seq
  readonly gain = new Parameter([hidden], { kind: 'constant', value: 1 })
  readonly table = new Embedding(vocab, hidden, { std: 0.3 })
  readonly mix = new Linear(hidden, hidden)
  readonly layers = [new Layer(this.mix), new Layer(this.mix)]
  readonly unused = new Linear(3, 5)
  readonly twinA = new Parameter([hidden], { kind: 'constant', value: 0.1 })
  readonly twinB = new Parameter([hidden], { kind: 'constant', value: 0.2 })
  readonly head = new Linear(hidden, vocab)

  override forward(ids: Tensor): Tensor {
    let x = this.table.forward(ids).mul(this.gain)
    for (const layer of this.layers) x = layer.forward(x)
    return this.head.forward(x.add(this.twinA).add(this.twinB))
  }
  loss(ids: Tensor, targets: Tensor, reduction: 'mean' | 'sum' = 'mean'): Tensor {
    return crossEntropy(this.forward(ids), targets, reduction === 'sum' ? { scale: 1 } : {})
  }
}

const options = (stage: 0 | 1 | 2 | 3, ranks: number, more: Partial<InitializeOptions> = {}): InitializeOptions => ({
  model: new Odd(),
  data: formulaSource(30, seq, vocab),
  config: trainConfig(
    { train: 8, micro: 2 },
    { gradient_clipping: 0.2, zero_optimization: { stage, stage3_param_persistence_threshold: 100 } },
  ),
  ranks,
  threads: 1,
  ...more,
})

const steps = 10
let known: Promise<Curve> | undefined
const truth = (): Promise<Curve> => {
  known ??= curve(options(0, 1), steps)
  return known
}

test.serial('it learns', async (t) => {
  const { losses } = await truth()
  t.true(losses.at(-1)! < losses[0]! - 0.05, losses.join())
})

for (const [stage, ranks] of [
  [0, 2],
  [1, 4],
  [2, 2],
  [3, 2],
  [3, 4],
] as const) {
  test.serial(`the same bits in ZeRO ${stage} on ${ranks} ranks, with and without recomputation`, async (t) => {
    t.deepEqual(await curve(options(stage, ranks), steps), await truth())
    t.deepEqual(await curve(options(stage, ranks, { checkpointActivations: true }), steps), await truth())
  })
}

test.serial('the reference device agrees', async (t) => {
  const reference = await curve(options(3, 2, { device: 'reference' }), steps)
  const own = await truth()
  t.true(relativeDifference(own.losses, reference.losses) < 1e-5)
  t.true(relativeDifference(own.norms, reference.norms) < 1e-4)
})

test.serial(
  'a small step of plain SGD lowers the loss by lr times the squared norm: the gradient is that of this model',
  async (t) => {
    const lr = 1e-2
    for (const [stage, ranks] of [
      [0, 1],
      [3, 2],
    ] as const) {
      const model = new Odd()
      for (const layer of model.layers)
        Object.assign(layer, { drop: new Dropout(0), attention: new CausalSelfAttention(hidden, 2) })
      const config = trainConfig(
        { train: 8, micro: 2 },
        { optimizer: { type: 'SGD', params: { lr } }, gradient_clipping: 0, zero_optimization: { stage } },
      )
      await using engine = await initialize(options(stage, ranks, { model, config }))
      const batch = {
        inputs: Int32Array.from({ length: 8 * seq }, (_, j) => (j * j + 5) % vocab),
        targets: Int32Array.from({ length: 8 * seq }, (_, j) => (3 * j + 1) % vocab),
      }
      const first = await engine.trainBatch(batch)
      const second = await engine.trainBatch(batch)
      // Taylor, with the mean of the squared norms at both ends for the curvature.
      const expected = (lr * (first.grad_norm ** 2 + second.grad_norm ** 2)) / 2
      const ratio = (first.loss - second.loss) / expected
      t.true(Math.abs(ratio - 1) < 0.01, `ratio ${ratio}`)
    }
  },
)

test.serial('parameters in odd places are saved, restored and updated as they should be', async (t) => {
  await withFolder(async (folder) => {
    await using engine = await initialize(options(3, 2))
    const names = namedParameters(engine.prepared.options.model).map(({ name }) => name)
    const read = async (): Promise<Map<string, Float32Array>> => {
      const file = new SafetensorsFile(join(await engine.save(folder), 'model.safetensors'))
      const all = names.map((name) => {
        const values = new Float32Array(file.tensor(name).shape.reduce((a, b) => a * b, 1))
        file.readFloats(name, 0, values)
        return [name, values] as const
      })
      file.close()
      return new Map(all)
    }
    const before = await read()
    await engine.train({ steps: 4 })
    const after = await read()
    t.deepEqual(names.slice(0, 4), ['gain', 'table.weight', 'mix.weight', 'mix.bias'])
    for (const name of names) {
      // Only weight decay (0.1 at lr 1e-3, four times) acts on what no loss depends on.
      if (name.startsWith('unused')) {
        t.true(
          after.get(name)!.every((value, i) => Math.abs(value - before.get(name)![i]! * (1 - 1e-4) ** 4) < 1e-7),
          name,
        )
      } else t.notDeepEqual(after.get(name), before.get(name), name)
    }
    const [a, b] = [after.get('twinA')!, after.get('twinB')!]
    t.true(a.every((value, i) => Math.abs(b[i]! - value - 0.1) < 1e-4))

    const rest = await curveOf(engine, steps)
    await using resumed = await initialize(options(1, 1))
    await resumed.load(join(folder, 'global_step4'))
    t.deepEqual(await curveOf(resumed, steps), rest)
    t.throws(() => modelFromFolder(join(folder, 'global_step4')), {
      message: /model_type of .*, expected one of gpt2, got odd/,
    })
  })
})
