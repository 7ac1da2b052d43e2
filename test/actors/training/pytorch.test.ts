// Training against PyTorch, fp32, dropout 0: the small model from a Hugging Face folder, batches of 8 rows in order.
// The figures are of PyTorch 2.13 with transformers 5.18 on the CPU in float32, one thread: GPT2LMHeadModel (eager attention, dropout 0)
// with parameter p of named_parameters() filled by `hashedWeights`, row r of step s (both from 0) the 65 tokens of `tokenAt` from
// 64 (8 s + r) on, loss = cross_entropy(logits, next tokens), norm = clip_grad_norm_(parameters, clipping). The same in float64 differs
// by at most 1.2e-6 in a loss and 1.7e-6 of a norm.
import test from 'ava'
import { initialize } from '../../../actors/engine/engine.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import { modelFromFolder } from '../../../runtime/nn/models/huggingface.js'
import { curveOf, formulaSource, smallModel, tokenAt, withFolder, withHashedWeights } from '../../support/training.js'

const figures = {
  adamw: {
    losses: [
      5.5949707, 5.4253297, 5.3180213, 5.1796503, 5.0875277, 4.9403968, 4.8622804, 4.7612076, 4.6704979, 4.5832901,
      4.4753838, 4.4019604, 4.3096476, 4.2300887, 4.1465869, 4.050777, 3.9767582, 3.8807905, 3.8022058, 3.7187579,
    ],
    norms: [
      1.3370297, 0.932694, 0.9154245, 1.1527311, 2.541054, 1.2711546, 1.5002333, 1.2884314, 1.1750537, 1.061764,
      1.1344809, 0.9801043, 1.1024281, 0.9681491, 1.0288566, 1.0012071, 0.9493362, 1.0454009, 1.069333, 1.1569351,
    ],
  },
  adam: {
    losses: [5.5949707, 5.4647679, 5.3895535, 5.3234062, 5.2675781, 5.1951037],
    norms: [1.3370297, 0.9387347, 0.7768036, 0.7965312, 0.8931011, 1.0357184],
  },
  sgd: {
    losses: [5.5949707, 5.5269265, 5.4799266, 5.438221, 5.4057102, 5.3775458],
    norms: [1.3370297, 1.0912322, 0.9398897, 0.8997361, 0.867486, 0.814943],
  },
  momentum: {
    losses: [5.5949707, 5.541482, 5.4734697, 5.4075904, 5.3469396, 5.2892089],
    norms: [1.3370297, 1.1608256, 0.8910233, 0.8449654, 0.7620653, 0.7455021],
  },
  nesterov: {
    losses: [5.5949707, 5.5071864, 5.4225593, 5.3422608, 5.2695842, 5.1898155],
    norms: [1.3370297, 1.0107702, 0.7952446, 0.759982, 0.7806015, 0.8417895],
  },
  groups: {
    losses: [5.5949707, 5.3642602, 5.1844048, 4.9728684, 4.7951832, 4.5596743],
    norms: [1.3370297, 1.0984576, 0.9753797, 1.1720674, 2.5788369, 1.3981005],
  },
} as const

/** Logits of the first 64 tokens: their sum, the sum of their squares, and those of token (37 t + 11) mod 256 at every fourth t. */
const logits = {
  before: {
    sum: 159.657327,
    energy: 872.322056,
    picks: [
      -0.1382126, -0.0128776, 0.1280642, 0.1760121, -0.1964774, 0.0823455, -0.1284167, -0.0183093, 0.2059754,
      -0.0772619, -0.1315631, 0.1915814, -0.2996202, -0.286855, -0.194691, -0.1951586,
    ],
  },
  after: {
    sum: -1905.083,
    energy: 4030.810018,
    picks: [
      -0.0718099, -0.8124121, 0.7165824, 0.1557365, 0.4679871, 0.165798, 0.1106848, -0.0393308, -0.7338634, 0.0565513,
      0.7285269, -0.1182364, -0.7058162, 0.0246916, -0.2235471, -0.1829858,
    ],
  },
} as const

/** First and last element and L2 norm of parameters after the 20 steps of `adamw`. */
const parameters: Readonly<Record<string, readonly [number, number, number]>> = {
  'transformer.wte.weight': [-0.02467378, 0.02287308, 4.40346267],
  'transformer.h.1.attn.c_attn.weight': [0.00175912, -0.02764116, 4.06438086],
  'transformer.h.2.mlp.c_proj.bias': [-0.00975268, -0.02209926, 0.22129636],
  'transformer.ln_f.weight': [1.0064187, 1.03445041, 9.96092873],
}

type Run = keyof typeof figures

const adamw = { type: 'AdamW', params: { lr: 1e-3, weight_decay: 0.1 } }

/** The optimizer of each run: torch.optim.AdamW, Adam and SGD with the same settings. */
const runs: Readonly<
  Record<Run, { optimizer: object; clipping: number; groups?: InitializeOptions['parameterGroups'] }>
> = {
  adamw: { optimizer: adamw, clipping: 1 },
  adam: { optimizer: { type: 'Adam', params: { lr: 1e-3, weight_decay: 0.1, adam_w_mode: false } }, clipping: 1 },
  sgd: { optimizer: { type: 'SGD', params: { lr: 0.05, weight_decay: 0.01 } }, clipping: 0 },
  momentum: { optimizer: { type: 'SGD', params: { lr: 0.05, momentum: 0.9, dampening: 0.1 } }, clipping: 1 },
  nesterov: {
    optimizer: { type: 'SGD', params: { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 0.01 } },
    clipping: 1,
  },
  groups: {
    optimizer: adamw,
    clipping: 1,
    groups: [
      { match: /ln_|bias$/, weightDecay: 0 },
      { match: (name) => /wte|wpe/.test(name), lr: 3e-3 },
    ],
  },
}

const firstRow = Array.from({ length: 64 }, (_, j) => tokenAt(j, 256))
const picked = Array.from({ length: 16 }, (_, i) => 4 * i * 256 + ((37 * 4 * i + 11) % 256))

for (const [name, { optimizer, clipping, groups }] of Object.entries(runs) as [Run, (typeof runs)[Run]][]) {
  for (const [ranks, stage, micro] of name === 'adamw'
    ? ([
        [1, 0, 8],
        [2, 3, 2],
      ] as const)
    : ([[2, 2, 4]] as const)) {
    test(`${name} follows PyTorch: ${ranks} ranks, ZeRO ${stage}, micro-batches of ${micro}`, async (t) => {
      const { losses, norms } = figures[name]
      const model = smallModel()
      await withHashedWeights(model, async (weights) => {
        await using engine = await initialize({
          model,
          weights,
          data: formulaSource(1000, 64, 256),
          shuffle: false,
          ranks,
          threads: 1,
          config: {
            train_batch_size: 8,
            train_micro_batch_size_per_gpu: micro,
            optimizer,
            gradient_clipping: clipping,
            zero_optimization: { stage, stage3_param_persistence_threshold: 100 },
          },
          ...(groups && { parameterGroups: groups }),
        })
        const compareLogits = async (expected: (typeof logits)['before' | 'after']): Promise<void> => {
          const all = await engine.forward(firstRow)
          t.is(all.length, 64 * 256)
          expected.picks.forEach((value, i) => {
            t.true(Math.abs(all[picked[i]!]! - value) < 1e-4, `logit ${i}: ${all[picked[i]!]}, expected ${value}`)
          })
          const sum = all.reduce((a, b) => a + b, 0)
          t.true(Math.abs(sum - expected.sum) < 1e-4 * 64, `sum of logits ${sum}`)
          const energy = all.reduce((a, b) => a + b * b, 0)
          t.true(Math.abs(energy - expected.energy) < 1e-5 * expected.energy, `energy of logits ${energy}`)
        }
        await compareLogits(logits.before)
        const curve = await curveOf(engine, losses.length)
        losses.forEach((loss, s) => {
          t.true(
            Math.abs(curve.losses[s]! - loss) < 1e-4,
            `loss of step ${s + 1}: ${curve.losses[s]}, expected ${loss}`,
          )
          t.true(
            Math.abs(curve.norms[s]! / norms[s]! - 1) < 1e-3,
            `norm of step ${s + 1}: ${curve.norms[s]}, expected ${norms[s]}`,
          )
        })
        if (name !== 'adamw') return
        await compareLogits(logits.after)
        await withFolder(async (folder) => {
          const saved = modelFromFolder(await engine.save(folder))
          for (const [parameter, [first, last, norm]] of Object.entries(parameters)) {
            const values = new Float32Array(saved.folder.tensors.get(parameter)!.shape.reduce((a, b) => a * b, 1))
            saved.weights.read(parameter, 0, values)
            t.true(Math.abs(values[0]! - first) < 1e-5, `${parameter}, first: ${values[0]}, expected ${first}`)
            t.true(Math.abs(values.at(-1)! - last) < 1e-5, `${parameter}, last: ${values.at(-1)}, expected ${last}`)
            t.true(
              Math.abs(Math.hypot(...values) - norm) < 1e-5,
              `${parameter}, norm: ${Math.hypot(...values)}, expected ${norm}`,
            )
          }
          saved.weights.close()
        })
      })
    })
  }
}
