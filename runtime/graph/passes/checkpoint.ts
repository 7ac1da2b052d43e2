// Activation checkpointing (arXiv 1604.06174) by block: the backward keeps a block's inputs only and computes the rest of what it
// reads again, from the same nodes and so to the same bits, just before the block's first backward node.
import type { Graph, Node, Value } from '../ir.js'
import { type Pass, Rewriter } from '../rewrite.js'

/** The blocks of a graph in the order of the forward. */
export function blocksOf(graph: Graph): string[] {
  const blocks = new Set<string>()
  for (const { origin } of graph.nodes) {
    if (origin.phase === 'forward' && origin.block !== undefined) blocks.add(origin.block)
  }
  return [...blocks]
}

/** Checkpoints the first `count` blocks: the ones whose activations live longest. */
export const checkpointBlocks = (count = Number.POSITIVE_INFINITY): Pass => ({
  name: 'checkpoint-blocks',
  run(graph: Graph): Graph {
    const chosen = new Set(blocksOf(graph).slice(0, count))
    const members = new Map<string, Node[]>()
    for (const node of graph.nodes) {
      const { block, phase } = node.origin
      if (phase !== 'forward' || block === undefined || !chosen.has(block)) continue
      const nodes = members.get(block)
      if (nodes) nodes.push(node)
      else members.set(block, [node])
    }

    const blockOf = (value: Value): string | undefined => {
      const { phase, block } = value.node?.origin ?? {}
      return phase === 'forward' && block !== undefined && chosen.has(block) ? block : undefined
    }
    // What crosses a block's border in the forward is kept anyway: the next block's input.
    const kept = new Set<Value>(graph.outputs.map((output) => output.value))
    const needed = new Map<string, Set<Node>>()
    for (const node of graph.nodes) {
      for (const value of node.inputs) {
        if (!value || blockOf(value) === undefined) continue
        if (node.origin.phase === 'forward' && node.origin.block !== blockOf(value)) kept.add(value)
      }
    }
    for (const node of graph.nodes) {
      if (node.origin.phase !== 'backward') continue
      for (const value of node.inputs) {
        const block = value ? blockOf(value) : undefined
        if (!value || block === undefined || kept.has(value)) continue
        const nodes = needed.get(block) ?? new Set<Node>()
        needed.set(block, nodes)
        const visit = (wanted: Value): void => {
          if (!wanted.node || blockOf(wanted) !== block || kept.has(wanted) || nodes.has(wanted.node)) return
          nodes.add(wanted.node)
          for (const input of wanted.node.inputs) if (input) visit(input)
        }
        visit(value)
      }
    }

    const rewriter = new Rewriter(graph)
    const recomputed = new Set<string>()
    for (const node of graph.nodes) {
      if (node.origin.phase === 'backward') {
        const blocks = new Set(node.inputs.map((value) => (value ? blockOf(value) : undefined)))
        for (const block of blocks) {
          if (block === undefined || recomputed.has(block) || !needed.has(block)) continue
          recomputed.add(block)
          for (const original of members.get(block)!) {
            if (!needed.get(block)!.has(original)) continue
            const origin = { ...original.origin, phase: 'backward' as const, recomputed: true }
            rewriter.builder
              .emit(original.op, rewriter.mapAll(original.inputs), original.attributes, origin, original.scalars)
              .forEach((value, i) => {
                if (!kept.has(original.outputs[i]!)) rewriter.replace(original.outputs[i]!, value)
              })
          }
        }
      }
      rewriter.copy(node)
    }
    return rewriter.finish()
  },
})
