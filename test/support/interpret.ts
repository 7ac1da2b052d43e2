// Runs a graph on the reference kernels, node by node, without a plan or a program: what passes and compiled programs are held against.
import { dtypeBytes, elements, type TensorType } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import { referenceKernels, viewOf } from '../../kernels/reference/index.js'
import type { ReferenceArray, ReferenceTensor } from '../../kernels/reference/kernel.js'
import type { Graph, Value } from '../../runtime/graph/ir.js'

/** A zeroed tensor of that type. */
export function tensorOf(type: TensorType, values?: ArrayLike<number>): ReferenceTensor {
  const count = elements(type.shape)
  const data = viewOf(type.dtype, new ArrayBuffer(count * dtypeBytes[type.dtype]), 0, count)
  if (values) data.set(values)
  return { ...type, data }
}

/**
 * The outputs of `graph` by name. `inputs` gives every graph input's elements, `scalars` run-time scalars (0 where none is given).
 * Inputs are copied, so nothing that the caller holds is changed.
 */
export function interpret(
  graph: Graph,
  inputs: Readonly<Record<string, ArrayLike<number>>>,
  scalars: Readonly<Record<string, number>> = {},
): Record<string, ReferenceArray> {
  const tensors = new Map<Value, ReferenceTensor>()
  for (const { name, value } of graph.inputs) {
    const values = inputs[name]
    if (values?.length !== elements(value.type.shape)) {
      throw new Error(
        `interpret: input ${name}, expected ${elements(value.type.shape)} elements, got ${values?.length}`,
      )
    }
    tensors.set(value, tensorOf(value.type, values))
  }
  for (const node of graph.nodes) {
    const operands = node.inputs.map((value) => value && tensors.get(value)!)
    const { view, aliases = [] } = opNamed(node.op)
    node.outputs.forEach((value, index) => {
      const source = view ? 0 : aliases.find(([, output]) => output === index)?.[0]
      const shared = source === undefined ? undefined : operands[source]
      tensors.set(value, shared ? { ...value.type, data: shared.data } : tensorOf(value.type))
    })
    if (view) continue
    const kernel = referenceKernels.get(node.op)
    if (!kernel) throw new Error(`interpret: op ${node.op}, expected one with a reference kernel, got one without`)
    const values = node.scalars.map((name) => scalars[name] ?? 0)
    const outputs = node.outputs.map((value) => tensors.get(value)!)
    kernel({ inputs: operands, outputs, attributes: node.attributes, scalars: values, rank: 0, ranks: 1 })
  }
  return Object.fromEntries(graph.outputs.map(({ name, value }) => [name, tensors.get(value)!.data]))
}
