// Reverse-mode automatic differentiation over the gradient rules of the op table.
// The order is fixed: nodes backwards, a node's operands forwards. A value's gradients are added in that order, each sum rounded, so a
// tied weight adds the gradient of its last use first.
import { elements, showType, type TensorType } from '../../kernels/ops/definition.js'
import { dtypeNumbers } from '../../kernels/ops/elementwise.js'
import { opNamed } from '../../kernels/ops/index.js'
import { stepState } from '../../kernels/ops/step.js'
import { type Graph, GraphError, type Node, type Origin, type Value } from './ir.js'
import { Rewriter } from './rewrite.js'

export interface DifferentiateOptions {
  /** The graph's output that is differentiated: one element. */
  readonly loss: string
  /** Names of parameters (or float inputs), in the order of the gradients. */
  readonly wrt: readonly string[]
  /** The gradient of the loss: where 1 / (number of micro-batches) enters. */
  readonly seed: number
  /** Whether the seed is multiplied by the loss scale, which the graph then takes as its state `step`; default false. */
  readonly scaled?: boolean
}

/** The name of a parameter's gradient among the outputs. */
export const gradientName = (parameter: string): string => `gradient:${parameter}`

/**
 * The graph with its backward: outputs are the loss, then `gradient:NAME` for each name of `wrt`. A parameter that the loss does not
 * depend on gets zeros. Backward nodes carry the module, block and source of the forward node that they belong to.
 * Throws {@link GraphError} where an op between a parameter and the loss has no gradient rule.
 */
export function differentiate(graph: Graph, { loss, wrt, seed, scaled = false }: DifferentiateOptions): Graph {
  const output = graph.outputs.find(({ name }) => name === loss)
  if (!output) {
    throw new GraphError(`differentiate: loss ${loss}, expected an output of the graph, got none of that name`)
  }
  if (elements(output.value.type.shape) !== 1) {
    throw new GraphError(`differentiate: loss ${loss}, expected one element, got ${showType(output.value.type)}`)
  }

  const parameters = wrt.map((name) => {
    const input = graph.inputs.find((candidate) => candidate.name === name)
    if (!input) {
      throw new GraphError(`differentiate: parameter ${name}, expected an input of the graph, got none of that name`)
    }
    return { name, value: input.value }
  })
  const rewriter = new Rewriter(graph)
  const { builder } = rewriter
  for (const node of graph.nodes) rewriter.copy(node)

  const backward: Origin = { phase: 'backward' }
  const filled = (value: number, { shape, dtype }: TensorType): Value => {
    const attributes = { value, dtype: dtypeNumbers.indexOf(dtype), shape }
    return builder.emit('fill', [], attributes, backward)[0]!
  }

  const start = ({ type }: Value): Value => {
    if (!scaled) return filled(seed, type)
    const state = builder.input('step', 'state', stepState)
    const [value] = builder.emit('loss_scale', [state], { factor: seed }, backward)
    return showType(value!.type) === showType(type)
      ? value!
      : builder.emit('reshape', [value!], { shape: type.shape }, backward)[0]!
  }

  const dependent = dependents(
    graph,
    parameters.map(({ value }) => value),
  )
  const gradients = new Map<Value, Value>()
  if (dependent.has(output.value)) gradients.set(output.value, start(output.value))
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some((value) => dependent.has(value) && gradients.has(value))) continue
    const origin: Origin = { ...node.origin, phase: 'backward' }
    const contributions = inputGradients(node, rewriter, gradients, origin)
    node.inputs.forEach((value, i) => {
      const contribution = contributions[i]
      if (!value || !contribution || !dependent.has(value)) return
      const sum = gradients.get(value)
      gradients.set(value, sum ? builder.emit('add', [sum, contribution], {}, origin)[0]! : contribution)
    })
  }

  builder.output(loss, rewriter.map(output.value))
  for (const { name, value } of parameters) {
    builder.output(gradientName(name), gradients.get(value) ?? filled(0, value.type))
  }
  return builder.finish()
}

/** The values that depend on one of `sources`, these included. */
function dependents(graph: Graph, sources: readonly Value[]): Set<Value> {
  const found = new Set(sources)
  for (const node of graph.nodes) {
    if (node.inputs.some((value) => value && found.has(value))) for (const value of node.outputs) found.add(value)
  }
  return found
}

/** The gradients that flow into a node's operands, by its op's rule. */
function inputGradients(
  node: Node,
  rewriter: Rewriter,
  gradients: ReadonlyMap<Value, Value>,
  origin: Origin,
): (Value | null)[] {
  const definition = opNamed(node.op)
  if (!definition.gradient) {
    throw new GraphError(`differentiate: ${node.op}, expected an op with a gradient, got one without`, {
      op: node.op,
      ...origin,
    })
  }
  return definition.gradient<Value>(
    {
      emit: (op, inputs, attributes = {}) => rewriter.builder.emit(op, inputs, attributes, origin),
      typeOf: (value) => value.type,
    },
    {
      inputs: rewriter.mapAll(node.inputs),
      outputs: node.outputs.map((value) => rewriter.map(value)),
      attributes: node.attributes,
    },
    node.outputs.map((value) => gradients.get(value) ?? null),
  )
}
