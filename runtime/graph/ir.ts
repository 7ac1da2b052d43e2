// The typed graph: what tracing records, autodiff extends and passes rewrite. Nodes are in topological order, values are immutable.
// A pass never edits a graph: it builds another one (see rewrite.ts).
import { type Attributes, OpError, showType, type TensorType, withOptions } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'

/** Where in a step a node belongs. */
export type Phase = 'forward' | 'backward' | 'communication' | 'update'

/** Who asked for a node. */
export interface Origin {
  readonly phase: Phase
  /** Path of the module whose `forward` made it, e.g. `transformer.h.0.attn`. */
  readonly module?: string
  /** Path of the enclosing block: the unit of activation checkpointing and of ZeRO-3 gathers. */
  readonly block?: string
  /** Set outside of every module's `forward`: the arithmetic of the loss. */
  readonly loss?: boolean
  /** `file:line` of the user's code. */
  readonly source?: string
  /** Set on copies of forward nodes that checkpointing recomputes in the backward; never merged with their originals. */
  readonly recomputed?: boolean
}

export interface Value {
  readonly id: number
  readonly type: TensorType
  /** The node that makes it; null for graph inputs. */
  readonly node: Node | null
  /** Position among that node's outputs, or among the graph's inputs. */
  readonly index: number
}

export interface Node {
  readonly id: number
  readonly op: string
  readonly inputs: readonly (Value | null)[]
  readonly outputs: readonly Value[]
  readonly attributes: Attributes
  /** Names of the run-time scalars, one for each role that the op declares. */
  readonly scalars: readonly string[]
  readonly origin: Origin
}

/** `parameter`: trained and sharded; `input`: filled by the host before each run; `state`: memory that outlives a run. */
export type InputKind = 'parameter' | 'input' | 'state'

export interface GraphInput {
  readonly name: string
  readonly kind: InputKind
  readonly value: Value
}

export interface Graph {
  readonly inputs: readonly GraphInput[]
  readonly nodes: readonly Node[]
  readonly outputs: readonly { readonly name: string; readonly value: Value }[]
}

/** A graph that breaks its rules, or an op asked for what it cannot do. Names the user's source line where there is one. */
export class GraphError extends Error {
  override readonly name = 'GraphError'
  readonly code: string
  constructor(
    message: string,
    readonly details: {
      readonly op?: string
      readonly module?: string | undefined
      readonly source?: string | undefined
    } = {},
    options?: ErrorOptions,
  ) {
    super(
      details.source ? `${message} (${[details.module, details.source].filter(Boolean).join(', ')})` : message,
      options,
    )
    this.code = 'GRAPH'
  }
}

/** Makes graphs: the only place where values and nodes come to be. */
export class GraphBuilder {
  readonly #inputs: GraphInput[] = []
  readonly #nodes: Node[] = []
  readonly #outputs: { name: string; value: Value }[] = []
  #next = 0

  input(name: string, kind: InputKind, type: TensorType): Value {
    if (this.#inputs.some((input) => input.name === name))
      throw new GraphError(`graph: input ${name}, expected one, got two`)
    const value: Value = { id: this.#next++, type, node: null, index: this.#inputs.length }
    this.#inputs.push({ name, kind, value })
    return value
  }

  /** Appends a node. Throws {@link GraphError} with the op's own words where operands do not fit. */
  emit(
    op: string,
    inputs: readonly (Value | null)[],
    given: Attributes,
    origin: Origin,
    scalars: readonly string[] = opNamed(op).scalars,
  ): Value[] {
    const definition = opNamed(op)
    // Every option is written out, so that equal nodes look equal.
    const attributes = withOptions(definition, given)
    const operands = definition.inputs.map((name, i) => {
      const value = inputs[i] ?? null
      if (!value && !name.endsWith('?')) {
        throw new GraphError(`${op}: input ${name}, expected a tensor, got nothing`, { op, ...origin })
      }
      return value
    })
    let types: TensorType[]
    try {
      types = definition.infer(
        operands.map((value) => value?.type ?? null),
        attributes,
      )
    } catch (error) {
      if (error instanceof OpError) throw new GraphError(error.message, { op, ...origin }, { cause: error })
      throw error
    }
    const id = this.#next++
    const outputs: Value[] = []
    const node: Node = { id, op, inputs: operands, outputs, attributes, scalars, origin }
    types.forEach((type, index) => {
      outputs.push({ id: this.#next++, type, node, index })
    })
    this.#nodes.push(node)
    return outputs
  }

  output(name: string, value: Value): void {
    this.#outputs.push({ name, value })
  }

  /** The finished graph, verified. */
  finish(): Graph {
    const graph: Graph = { inputs: this.#inputs, nodes: this.#nodes, outputs: this.#outputs }
    verify(graph)
    return graph
  }
}

/** Checks that every operand is made before it is used and has the type that its op infers. Throws {@link GraphError}. */
export function verify(graph: Graph): void {
  const known = new Set<Value>(graph.inputs.map((input) => input.value))
  for (const node of graph.nodes) {
    for (const value of node.inputs) {
      if (value && !known.has(value)) {
        throw new GraphError(`graph: operand %${value.id} of ${node.op}, expected a value made before it, got none`, {
          op: node.op,
          ...node.origin,
        })
      }
    }
    const types = opNamed(node.op).infer(
      node.inputs.map((value) => value?.type ?? null),
      node.attributes,
    )
    node.outputs.forEach((value, i) => {
      if (showType(value.type) !== showType(types[i])) {
        throw new GraphError(`graph: type of %${value.id}, expected ${showType(types[i])}, got ${showType(value.type)}`)
      }
      known.add(value)
    })
  }
  for (const { name, value } of graph.outputs) {
    if (!known.has(value)) throw new GraphError(`graph: output ${name}, expected a value of this graph, got none`)
  }
}

/** The graph as text, a line per node. */
export function printGraph(graph: Graph): string {
  const show = (value: Value | null): string => (value ? `%${value.id}` : '-')
  const lines = graph.inputs.map(({ name, kind, value }) => `${show(value)}: ${showType(value.type)} = ${kind} ${name}`)
  for (const node of graph.nodes) {
    const outputs = node.outputs.map((value) => `${show(value)}: ${showType(value.type)}`).join(', ')
    const attributes = Object.entries(node.attributes)
      .map(([name, value]) => `${name}=${Array.isArray(value) ? `[${value.join(' ')}]` : value}`)
      .join(' ')
    const where = [node.origin.phase, node.origin.module, node.origin.source].filter(Boolean).join(' ')
    lines.push(
      `${outputs} = ${node.op}(${node.inputs.map(show).join(', ')})${attributes ? ` {${attributes}}` : ''}  ; ${where}`,
    )
  }
  for (const { name, value } of graph.outputs) lines.push(`return ${name} = ${show(value)}`)
  return `${lines.join('\n')}\n`
}
