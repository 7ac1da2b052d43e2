// Forward values of the reference kernels against PyTorch 2.13 (CPU, float64), and the errors of values that they cannot take.
// (Gradients are tested in test/consistency.)
import test, { type ExecutionContext } from 'ava'
import { activationKinds } from '../../../kernels/ops/activation.js'
import { collectives } from '../../../kernels/ops/collective.js'
import { ops } from '../../../kernels/ops/index.js'
import { KernelError, type ReferenceTensor, referenceKernels } from '../../../kernels/reference/index.js'
import { load } from '../../../kernels/reference/storage.js'
import { runReference, tensorOf } from '../../support/tensors.js'

const xs = [-3, -1, -0.3, 0, 0.7, 2.5]
const tensor = (shape: readonly number[], values: readonly number[]): ReferenceTensor => tensorOf('f64', shape, values)
const ints = (values: readonly number[]): ReferenceTensor => tensorOf('i32', [values.length], values)

function near(t: ExecutionContext, got: ReferenceTensor, expected: readonly number[]): void {
  t.is(got.data.length, expected.length)
  for (const [i, x] of expected.entries())
    t.true(Math.abs(got.data[i]! - x) <= 1e-14, `element ${i}: ${got.data[i]} for ${x}`)
}

test('every op that computes on one rank has a kernel, and no other', (t) => {
  const expected = ops.filter((op) => !op.view && !collectives.includes(op)).map((op) => op.name)
  t.deepEqual([...referenceKernels.keys()].sort(), expected.sort())
})

test('activations', (t) => {
  const values: Readonly<Record<string, readonly number[]>> = {
    gelu_tanh: [
      -0.0036373920817729943, -0.15880800939172324, -0.11462907645724074, 0, 0.5305701347051167, 2.484915733910001,
    ],
    gelu_erf: [
      -0.00404969409489031, -0.15865525393145702, -0.1146265733433142, 0, 0.5306254434438489, 2.4844758366855597,
    ],
    relu: [0, 0, 0, 0, 0.7, 2.5],
    silu: [-0.14227761953270035, -0.2689414213699951, -0.1276672449565023, 0, 0.46773144051771626, 2.3103545499468914],
    tanh: xs.map(Math.tanh),
  }
  for (const [kind, name] of activationKinds.entries()) {
    near(t, runReference('activation', [tensor([6], xs)], { kind })[0]!, values[name]!)
  }
})

test('layer norm', (t) => {
  const [weight, bias] = [xs.map((_, i) => i / 2 - 1), xs.map((_, i) => i / 10)]
  const inputs = [tensor([6], xs), tensor([6], weight), tensor([6], bias)]
  near(
    t,
    runReference('layer_norm', inputs, { epsilon: 1e-5 })[0]!,
    [1.6919438064592625, 0.34528179442752627, 0.2, 0.3550632599735263, 0.9306095961085259, 2.917777687928472],
  )
})

test('cross-entropy is the mean over the unmasked rows where scale is 1 / their number', (t) => {
  const logits = tensor([4, 3], [1, 2, -0.5, 0.3, -1, 4, 2, 2, 2, 5, -5, 0])
  const [loss, lse] = runReference('cross_entropy', [logits, ints([2, 0, -1, 1])], { scale: 1 / 3 })
  near(t, loss!, [5.5364253927420135])
  near(t, tensor([1], [lse!.data[2]!]), [2 + Math.log(3)])
})

test('causal attention', (t) => {
  const q = Array.from({ length: 8 }, (_, i) => i / 7 - 0.5)
  const row = (i: number) => [
    ...q.slice(i, i + 2),
    ...q.slice(i, i + 2).map((x) => Math.sin(3 * x)),
    ...q.slice(i, i + 2).map((x) => Math.cos(2 * x)),
  ]
  const qkv = tensor([1, 4, 6], [0, 2, 4, 6].flatMap(row))
  const attributes = { heads: 1, causal: 1, scale: 1 / Math.sqrt(2), dropout: 0, op_id: 0 }
  near(
    t,
    runReference('attention', [qkv], attributes, { seed: 0, step: 0, sample: 0 })[0]!,
    [
      0.5403023058681398, 0.7555613467006966, 0.7162687006535118, 0.867191858754851, 0.8336422855959286,
      0.8912179423590095, 0.8242816251241802, 0.7567566309820953,
    ],
  )
})

test('attention is linear, softmax and linear, head by head', (t) => {
  const [sequence, heads, size] = [5, 2, 3]
  const values = Array.from({ length: sequence * 3 * heads * size }, (_, i) => Math.sin(7 * i))
  const attributes = { heads, causal: 0, scale: 0.4, dropout: 0, op_id: 0 }
  const qkv = tensor([1, sequence, 3 * heads * size], values)
  const o = runReference('attention', [qkv], attributes, { seed: 0, step: 0, sample: 0 })[0]!
  for (let h = 0; h < heads; h++) {
    const [q, k, v] = [0, 1, 2].map((part) => {
      const at = (t: number) => (3 * t + part) * heads * size + h * size
      return tensor(
        [sequence, size],
        Array.from({ length: sequence }, (_, t) => values.slice(at(t), at(t) + size)).flat(),
      )
    }) as [ReferenceTensor, ReferenceTensor, ReferenceTensor]
    const scores = runReference('scale', runReference('linear', [q, k, null, null], { transposed: 0 }), { factor: 0.4 })
    const mixed = runReference('linear', [...runReference('softmax', scores, {}), v, null, null], { transposed: 1 })[0]!
    const mine = Array.from({ length: sequence }, (_, t) =>
      Array.from(o.data.slice((t * heads + h) * size, (t * heads + h + 1) * size)),
    )
    near(t, tensor([sequence, size], mine.flat()), Array.from(mixed.data))
  }
})

test('dropout keeps a share of 1 - p, scaled by 1 / (1 - p), and each sample has its own mask whatever the batch', (t) => {
  const [samples, length] = [4, 4096]
  const x = tensor([samples, length], Array(samples * length).fill(1))
  const mask = (input: ReferenceTensor, sample: number, step = 0) =>
    Array.from(runReference('dropout', [input, null], { p: 0.3, op_id: 2 }, { seed: 5, step, sample })[0]!.data)
  const whole = mask(x, 10)
  const kept = whole.filter((y) => y !== 0)
  t.true(kept.every((y) => y === 1 / 0.7))
  const deviation = Math.sqrt(0.3 * 0.7 * whole.length)
  t.true(Math.abs(kept.length - 0.7 * whole.length) < 4 * deviation, `${kept.length} of ${whole.length} kept`)
  const third = mask(tensor([1, length], Array(length).fill(1)), 12)
  t.deepEqual(third, whole.slice(2 * length, 3 * length))
  t.notDeepEqual(third, whole.slice(0, length))
  t.notDeepEqual(mask(x, 10, 1), whole)
})

test("tokens' order must be theirs", (t) => {
  const [indices, dy] = [ints([2, 0, 2, 1]), tensor([4, 1], [1, 2, 3, 4])]
  const gradient = (order: number[]) =>
    runReference('embedding_backward', [indices, dy, null, ints(order)], { rows: 3 })
  t.deepEqual([...load(gradient([1, 3, 0, 2])[0]!)], [2, 4, 4])
  for (const wrong of [
    [1, 3, 2, 0],
    [1, 0, 3, 2],
    [1, 3, 0, 0],
    [1, 3, 0, 4],
  ])
    t.throws(() => gradient(wrong), { instanceOf: KernelError, message: /order\[\d\], expected the position that/ })
})

test('an index or a target outside its table is an error that names it', (t) => {
  const weight = tensor([3, 2], [1, 2, 3, 4, 5, 6])
  for (const bad of [-1, 3]) {
    const error = t.throws(() => runReference('embedding', [weight, ints([0, bad])], {}), { instanceOf: KernelError })
    t.is(error?.message, `embedding: indices[1], expected 0 to 2, got ${bad}`)
    const dy = tensor([2, 2], [1, 2, 3, 4])
    t.throws(() => runReference('embedding_backward', [ints([0, bad]), dy, null], { rows: 3 }), {
      instanceOf: KernelError,
    })
  }
  for (const bad of [-2, 2]) {
    const logits = tensor([2, 2], [1, 2, 3, 4])
    const error = t.throws(() => runReference('cross_entropy', [logits, ints([0, bad])], { scale: 1 }))
    t.is(error?.message, `cross_entropy: targets[1], expected -1 to 1, got ${bad}`)
  }
})
