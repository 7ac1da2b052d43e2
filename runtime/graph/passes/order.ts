// The gradient of a table of tokens adds each row's tokens in their order. A backend may want to be told that order, which the data loader
// makes ahead of the step, instead of sorting: then it is an input of the program like the tokens themselves.
import { elements } from '../../../kernels/ops/definition.js'
import type { Graph, Value } from '../ir.js'
import { type Pass, Rewriter } from '../rewrite.js'

/** The input with the tokens, and that with their positions in the order of the tokens: see `embedding_backward`. */
export const [tokensName, orderName] = ['tokens', 'order'] as const

/** Tells every `embedding_backward` of the program's tokens their order. */
export const tokenOrder: Pass = {
  name: 'token-order',
  run(graph: Graph): Graph {
    const tokens = graph.inputs.find(({ name }) => name === tokensName)?.value
    const rewriter = new Rewriter(graph)
    let order: Value | null = null
    for (const node of graph.nodes) {
      if (node.op !== 'embedding_backward' || !tokens || node.inputs[0] !== tokens) {
        rewriter.copy(node)
        continue
      }
      order ??= rewriter.builder.input(orderName, 'input', { shape: [elements(tokens.type.shape)], dtype: 'i32' })
      const [indices, dy, base] = rewriter.mapAll(node.inputs)
      const [dweight] = rewriter.builder.emit(
        node.op,
        [indices!, dy!, base!, order],
        node.attributes,
        node.origin,
        node.scalars,
      )
      rewriter.replace(node.outputs[0]!, dweight!)
    }
    return rewriter.finish()
  },
}
