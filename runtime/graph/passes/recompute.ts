// Recomputation of values that cost little to make again: the backward reads a fresh copy, made just before its first use from what it
// keeps anyway, so that the original's memory is free between forward and backward. The same op on the same operands gives the same bits.
import type { Graph, Node, Value } from '../ir.js'
import { type Pass, Rewriter } from '../rewrite.js'

/** Ops whose outputs may be made again, the cheapest for their bytes first. */
export const cheapOps = ['activation', 'layer_norm'] as const
export type CheapOp = (typeof cheapOps)[number]

/**
 * Makes the first output of these ops again in the backward, within blocks; what follows the last block is read at once. Other outputs
 * (statistics) are kept.
 */
export const recomputeCheap = (ops: readonly CheapOp[]): Pass => ({
  name: 'recompute-cheap',
  run(graph: Graph): Graph {
    const cheap = (node: Node | null): node is Node =>
      node?.origin.phase === 'forward' && node.origin.block !== undefined && ops.some((op) => op === node.op)
    const kept = new Set<Value>(graph.outputs.map((output) => output.value))
    const rewriter = new Rewriter(graph)
    const again = new Map<Value, Value>()
    for (const node of graph.nodes) {
      if (node.origin.phase === 'forward') {
        rewriter.copy(node)
        continue
      }
      const inputs = node.inputs.map((value) => {
        if (!value || !cheap(value.node) || value.index > 0 || kept.has(value)) return value && rewriter.map(value)
        const made = again.get(value)
        if (made) return made
        const original = value.node
        const origin = { ...original.origin, phase: 'backward' as const, recomputed: true }
        const operands = rewriter.mapAll(original.inputs)
        const [copy] = rewriter.builder.emit(original.op, operands, original.attributes, origin, original.scalars)
        again.set(value, copy!)
        return copy!
      })
      rewriter.builder.emit(node.op, inputs, node.attributes, node.origin, node.scalars).forEach((value, i) => {
        rewriter.replace(node.outputs[i]!, value)
      })
    }
    return rewriter.finish()
  },
})
