// Every fused form equals the ops that it stands for, on the reference in float64.
import test from 'ava'
import { cpuFusions } from '../../kernels/cpu/fusions.js'
import { activationKinds } from '../../kernels/ops/activation.js'
import { type FusionName, fusionNames } from '../../kernels/ops/fusion.js'
import { referenceFusions } from '../../kernels/reference/fusions.js'
import type { ReferenceTensor } from '../../kernels/reference/index.js'
import { EagerBuilder, type Operand, RandomTensors } from '../support/tensors.js'

/** Pairs of tensors that must be equal: what the fused op gives, and what the composition gives. */
type Pairs = readonly (readonly [fused: ReferenceTensor, composed: ReferenceTensor])[]

const builder = new EagerBuilder({ seed: 77, step: 2, sample: 5 })
const one = (op: string, inputs: readonly Operand[], attributes = {}): ReferenceTensor =>
  builder.emit(op, inputs, attributes)[0]!

const [rows, k, n, classes] = [6, 5, 7, 11]
const weightShape = (transposed: number, from: number, to: number) => (transposed ? [from, to] : [to, from])

const fusions: Readonly<Record<FusionName, (random: RandomTensors, transposed: number) => Pairs>> = {
  linear_residual: (r, transposed) => {
    const inputs = [r.normal([rows, k]), r.normal(weightShape(transposed, k, n)), r.normal([n])]
    const residual = r.normal([rows, n])
    const plain = one('linear', [...inputs, null], { transposed })
    return [[one('linear', [...inputs, residual], { transposed }), one('add', [plain, residual])]]
  },
  linear_activation: (r, transposed) =>
    activationKinds.flatMap((_, kind) => {
      const inputs = [r.normal([rows, k]), r.normal(weightShape(transposed, k, n)), r.normal([n])]
      const [pre, y] = builder.emit('linear_activation', inputs, { transposed, kind })
      const plain = one('linear', [...inputs, null], { transposed })
      return [
        [pre!, plain],
        [y!, one('activation', [plain], { kind })],
      ] as const
    }),
  linear_input_gradient_activation: (r, transposed) =>
    activationKinds.map((_, kind) => {
      const [dy, weight, pre] = [r.normal([rows, n]), r.normal(weightShape(transposed, k, n)), r.normal([rows, k])]
      const dx = one('linear_input_gradient', [dy, weight], { transposed })
      return [
        one('linear_input_gradient_activation', [dy, weight, pre], { transposed, kind }),
        one('activation_backward', [dx, pre], { kind }),
      ] as const
    }),
  layer_norm_backward_residual: (r) => {
    const [x, weight] = [r.normal([rows, k]), r.normal([k])]
    const [, mean, rstd] = builder.emit('layer_norm', [x, weight, null], { epsilon: 1e-5 })
    const inputs = [r.normal([rows, k]), x, weight, mean!, rstd!]
    const residual = r.normal([rows, k])
    const fused = builder.emit('layer_norm_backward', [...inputs, residual])
    const [dx, dweight, dbias] = builder.emit('layer_norm_backward', [...inputs, null])
    return [
      [fused[0]!, one('add', [dx!, residual])],
      [fused[1]!, dweight!],
      [fused[2]!, dbias!],
    ]
  },
  layer_norm_backward_sum: (r) => {
    const [x, weight] = [r.normal([rows, k]), r.normal([k])]
    const [, mean, rstd] = builder.emit('layer_norm', [x, weight, null], { epsilon: 1e-5 })
    const inputs = [r.normal([rows, k]), x, weight, mean!, rstd!, r.normal([rows, k])]
    const fused = builder.emit('layer_norm_backward', inputs, { sum: 1 })
    const plain = builder.emit('layer_norm_backward', inputs)
    return [...plain, one('sum_leading', [plain[0]!], { rank: 1 })].map((tensor, i) => [fused[i]!, tensor] as const)
  },
  linear_input_gradient_activation_sum: (r, transposed) => {
    const inputs = [r.normal([rows, n]), r.normal(weightShape(transposed, k, n)), r.normal([rows, k])]
    const fused = builder.emit('linear_input_gradient_activation', inputs, { transposed, kind: 0, sum: 1 })
    const plain = one('linear_input_gradient_activation', inputs, { transposed, kind: 0 })
    return [
      [fused[0]!, plain],
      [fused[1]!, one('sum_leading', [plain], { rank: 1 })],
    ]
  },
  dropout_residual: (r) => {
    const [x, residual] = [r.normal([rows, k]), r.normal([rows, k])]
    const attributes = { p: 0.4, op_id: 3 }
    return [[one('dropout', [x, residual], attributes), one('add', [one('dropout', [x, null], attributes), residual])]]
  },
  embedding_backward_base: (r) => {
    const [indices, dy, base] = [r.integers([rows], 0, n), r.normal([rows, k]), r.normal([n, k])]
    const plain = one('embedding_backward', [indices, dy, null], { rows: n })
    return [[one('embedding_backward', [indices, dy, base], { rows: n }), one('add', [plain, base])]]
  },
  linear_cross_entropy: (r, transposed) => {
    const [x, weight] = [r.normal([rows, k]), r.normal(weightShape(transposed, k, classes))]
    const [targets, dloss] = [r.integers([rows], -1, classes), r.normal([1])]
    const attributes = { transposed, scale: 0.3, rows: 4 }
    const logits = one('linear', [x, weight, null, null], { transposed })
    const [loss, lse] = builder.emit('cross_entropy', [logits, targets], { scale: 0.3 })
    const dlogits = one('cross_entropy_backward', [logits, targets, lse!, dloss], { scale: 0.3 })
    const [fusedLoss, dx, dw] = builder.emit('linear_cross_entropy_gradients', [x, weight, targets, dloss], attributes)
    return [
      [one('linear_cross_entropy', [x, weight, targets], attributes), loss!],
      [fusedLoss!, loss!],
      [dx!, one('linear_input_gradient', [dlogits, weight], { transposed })],
      [dw!, one('linear_weight_gradient', [x, dlogits], { transposed })],
    ]
  },
}

for (const name of fusionNames) {
  test(name, (t) => {
    for (const transposed of [0, 1]) {
      for (const [fused, composed] of fusions[name](new RandomTensors('f64', 1 + transposed), transposed)) {
        t.deepEqual(fused.shape, composed.shape)
        for (const [i, x] of composed.data.entries()) {
          const difference = Math.abs(fused.data[i]! - x)
          t.true(difference <= 1e-13 * Math.max(1, Math.abs(x)), `element ${i}: ${fused.data[i]} for ${x}`)
        }
      }
    }
  })
}

test('backends list fusions that exist', (t) => {
  for (const name of [...cpuFusions, ...referenceFusions]) t.true(fusionNames.includes(name))
})
