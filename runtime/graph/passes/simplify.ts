// Dead code and common subexpressions: fewer nodes, the same values.
import { opNamed } from '../../../kernels/ops/index.js'
import type { Graph, Node, Value } from '../ir.js'
import { type Pass, Rewriter, rewrite } from '../rewrite.js'

/** Drops nodes whose outputs nobody reads and that have no effect. */
export const deadCode: Pass = {
  name: 'dead-code',
  run(graph: Graph): Graph {
    const live = new Set<Value>(graph.outputs.map((output) => output.value))
    const kept = new Set<Node>()
    for (const node of graph.nodes.toReversed()) {
      if (!opNamed(node.op).effect && !node.outputs.some((value) => live.has(value))) continue
      kept.add(node)
      for (const value of node.inputs) if (value) live.add(value)
    }
    const rewriter = new Rewriter(graph)
    for (const node of graph.nodes) if (kept.has(node)) rewriter.copy(node)
    return rewriter.finish()
  },
}

/** Computes equal expressions once. Recomputed nodes stay apart from their originals: that is what they are for. */
export const commonSubexpressions: Pass = {
  name: 'common-subexpressions',
  run(graph: Graph): Graph {
    const seen = new Map<string, Value[]>()
    return rewrite(graph, (node, rewriter) => {
      if (opNamed(node.op).effect || node.origin.recomputed) return false
      const inputs = rewriter.mapAll(node.inputs)
      const key = JSON.stringify([node.op, inputs.map((value) => value?.id ?? null), node.attributes, node.scalars])
      const outputs =
        seen.get(key) ?? rewriter.builder.emit(node.op, inputs, node.attributes, node.origin, node.scalars)
      seen.set(key, outputs)
      node.outputs.forEach((value, i) => {
        rewriter.replace(value, outputs[i]!)
      })
      return true
    })
  },
}
