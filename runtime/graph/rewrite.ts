// How passes build a graph from another: node by node in order, values mapped as they go. The source graph is never touched.
import type { TensorType } from '../../kernels/ops/definition.js'
import { type Graph, GraphBuilder, GraphError, type GraphInput, type Node, type Value } from './ir.js'

/** A pass over graphs, pure, with a name by which it can be switched off. */
export interface Pass {
  readonly name: string
  run(graph: Graph): Graph
}

export class Rewriter {
  readonly builder = new GraphBuilder()
  readonly #values = new Map<Value, Value>()

  /** `typeOf` says where an input's type changes. */
  constructor(
    readonly source: Graph,
    typeOf: (input: GraphInput) => TensorType = ({ value }) => value.type,
  ) {
    for (const input of source.inputs)
      this.#values.set(input.value, this.builder.input(input.name, input.kind, typeOf(input)))
  }

  /** The new graph's value for one of the source graph. */
  map(value: Value): Value {
    const mapped = this.#values.get(value)
    if (!mapped) throw new GraphError(`rewrite: value %${value.id}, expected one already rewritten, got none`)
    return mapped
  }

  mapAll(values: readonly (Value | null)[]): (Value | null)[] {
    return values.map((value) => value && this.map(value))
  }

  has(value: Value): boolean {
    return this.#values.has(value)
  }

  /** Says that `target` takes the place of `value`. */
  replace(value: Value, target: Value): void {
    this.#values.set(value, target)
  }

  /** Copies a node as it is. */
  copy(node: Node): void {
    this.builder
      .emit(node.op, this.mapAll(node.inputs), node.attributes, node.origin, node.scalars)
      .forEach((value, i) => {
        this.replace(node.outputs[i]!, value)
      })
  }

  /** The finished graph, with the source's outputs. */
  finish(): Graph {
    for (const { name, value } of this.source.outputs) this.builder.output(name, this.map(value))
    return this.builder.finish()
  }
}

/**
 * Rewrites every node by `visit`, which returns false to have it copied. A copy that reads what a fused node makes at a later place
 * waits for it.
 */
export function rewrite(graph: Graph, visit: (node: Node, rewriter: Rewriter) => boolean): Graph {
  const rewriter = new Rewriter(graph)
  const ready = (node: Node): boolean => node.inputs.every((value) => !value || rewriter.has(value))
  let waiting: Node[] = []
  for (const node of graph.nodes) {
    if (!visit(node, rewriter)) waiting.push(node)
    waiting = waiting.filter((other) => {
      if (!ready(other)) return true
      rewriter.copy(other)
      return false
    })
  }
  for (const node of waiting) rewriter.copy(node)
  return rewriter.finish()
}

/** Whether `value` is made from what `node` makes. */
export function dependsOn(value: Value, node: Node): boolean {
  const seen = new Set<Node>()
  const pending = [value]
  for (let at = pending.pop(); at; at = pending.pop()) {
    if (at.node === node) return true
    if (!at.node || seen.has(at.node)) continue
    seen.add(at.node)
    for (const input of at.node.inputs) if (input) pending.push(input)
  }
  return false
}

/** Nodes that read each value; a graph output counts as null. */
export function usesOf(graph: Graph): Map<Value, (Node | null)[]> {
  const uses = new Map<Value, (Node | null)[]>()
  const add = (value: Value, node: Node | null): void => {
    const list = uses.get(value)
    if (list) list.push(node)
    else uses.set(value, [node])
  }
  for (const node of graph.nodes) for (const value of node.inputs) if (value) add(value, node)
  for (const { value } of graph.outputs) add(value, null)
  return uses
}
