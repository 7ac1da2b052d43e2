// Reference kernels where an output lies over an input, as the op table's `inPlace` pairs allow: the same bits as apart.
import test from 'ava'
import { byteLength } from '../../kernels/ops/definition.js'
import { opNamed, ops } from '../../kernels/ops/index.js'
import { referenceKernels } from '../../kernels/reference/index.js'
import { opCases } from '../support/op-cases.js'
import { copyOf, emptyTensor, RandomTensors, runReference } from '../support/tensors.js'

for (const op of ops) {
  if (!op.inPlace || !referenceKernels.has(op.name)) continue
  test(`${op.name}: in place`, (t) => {
    const tried = new Set<string>()
    for (const [c, float] of opCases.flatMap((c) => (['f32', 'bf16'] as const).map((float) => [c, float] as const))) {
      if (c.op !== op.name || (c.halvesOnly ? float === 'f32' : c.compareOnly)) continue
      const inputs = c.inputs(new RandomTensors(float))
      const apart = runReference(c.op, inputs, c.attributes, c.roles)
      const scalars = op.scalars.map((role) => c.roles[role]!)
      for (const [input, output] of opNamed(c.op).inPlace!) {
        const source = inputs[input]
        if (source?.dtype !== apart[output]!.dtype || byteLength(source) !== byteLength(apart[output]!)) continue
        const operands = inputs.with(input, copyOf(source))
        const outputs = apart.map((type, o) => ({
          ...type,
          data: o === output ? operands[input]!.data : emptyTensor(type).data,
        }))
        referenceKernels.get(c.op)!({ inputs: operands, outputs, attributes: c.attributes, scalars, rank: 0, ranks: 1 })
        t.deepEqual(outputs, apart, c.title)
        tried.add(`${input} ${output}`)
      }
    }
    t.is(tried.size, op.inPlace!.length, 'every pair was tried')
  })
}
