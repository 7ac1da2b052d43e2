// Every op's gradient rule, run on the reference in float64, against central finite differences of its forward kernel.
// The op table is enumerated: an op with a gradient and no case here fails.
import test, { type ExecutionContext } from 'ava'
import { ops } from '../../kernels/ops/index.js'
import type { ReferenceTensor } from '../../kernels/reference/index.js'
import { type OpCase, opCases } from '../support/op-cases.js'
import { copyOf, EagerBuilder, type Operand, RandomTensors } from '../support/tensors.js'

const differentiable = ops.filter((op) => op.gradient)
const step = 1e-5
/** Elements of each input that are differentiated numerically, spread over it. */
const samples = 12

const isFloat = (tensor: ReferenceTensor): boolean => tensor.dtype !== 'i32' && tensor.dtype !== 'u8'
const dot = (a: ReferenceTensor, b: ReferenceTensor): number =>
  (a.data as Float64Array).reduce((sum, x, i) => sum + x * b.data[i]!, 0)

/** d(weights . first output) / d(element i of input), by central differences; the truncation error is of order step^2. */
function slope(c: OpCase, inputs: readonly Operand[], input: number, i: number, weights: ReferenceTensor): number {
  const at = (shift: number): number => {
    const moved = copyOf(inputs[input]!)
    moved.data[i]! += shift
    return dot(new EagerBuilder(c.roles).emit(c.op, inputs.with(input, moved), c.attributes)[0]!, weights)
  }
  return (at(step) - at(-step)) / (2 * step)
}

/** Tests one case: types of the gradients, then sampled elements of each. */
function check(t: ExecutionContext, c: OpCase): void {
  const definition = differentiable.find((op) => op.name === c.op)!
  const random = new RandomTensors('f64')
  const inputs = c.inputs(random)
  const builder = new EagerBuilder(c.roles)
  const outputs = builder.emit(c.op, inputs, c.attributes)
  const weights = random.normal(outputs[0]!.shape)
  const call = { inputs, outputs, attributes: c.attributes }
  const seeds = outputs.map((_, o) => (o === 0 ? weights : null))
  const gradients = definition.gradient!(builder, call, seeds)
  t.is(gradients.length, inputs.length, 'one gradient or null per input')
  for (const [index, input] of inputs.entries()) {
    const gradient = gradients[index] ?? null
    if (!input || !isFloat(input)) {
      t.is(gradient, null, `input ${index} takes no gradient`)
      continue
    }
    t.deepEqual(
      [gradient?.shape, gradient?.dtype],
      [input.shape, input.dtype],
      `type of the gradient of input ${index}`,
    )
    const largest = (gradient!.data as Float64Array).reduce((max, g) => Math.max(max, Math.abs(g)), 1)
    const stride = Math.max(1, Math.floor(input.data.length / samples))
    for (let i = 0; i < input.data.length; i += stride) {
      const difference = Math.abs(gradient!.data[i]! - slope(c, inputs, index, i, weights))
      t.true(
        difference <= 2e-8 * largest * Math.max(1, Math.abs(input.data[i]!)),
        `input ${index} element ${i}: off by ${difference}`,
      )
    }
  }
  t.true(
    definition.gradient!(
      builder,
      call,
      outputs.map(() => null),
    ).every((gradient) => gradient === null),
    'no gradient comes from none',
  )
}

test('every differentiable op has a case', (t) => {
  for (const op of differentiable)
    t.true(
      opCases.some((c) => c.op === op.name && !c.compareOnly),
      op.name,
    )
})

for (const op of differentiable) {
  test(`${op.name}: gradient`, (t) => {
    for (const c of opCases) {
      if (c.op === op.name && !c.compareOnly) check(t, c)
    }
  })
}
