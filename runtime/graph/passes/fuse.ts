// Fusion: pairs of nodes become the fused forms that a backend lists. Every form computes the same values as the nodes that it
// replaces, with fewer passes over memory; each is a pass of its own, found by use counts and rewritten in one walk.

import type { Backend } from '../../../kernels/ops/backend.js'
import { int, lastDim, option, rowsOf } from '../../../kernels/ops/definition.js'
import type { FusionName } from '../../../kernels/ops/fusion.js'
import type { Graph, Node, Value } from '../ir.js'
import { dependsOn, type Pass, rewrite, usesOf } from '../rewrite.js'

type Uses = Map<Value, (Node | null)[]>

const onlyUse = (uses: Uses, value: Value): Node | null => {
  const list = uses.get(value) ?? []
  return list.length === 1 ? list[0]! : null
}
const sameType = (a: Value, b: Value): boolean =>
  a.type.dtype === b.type.dtype && a.type.shape.join() === b.type.shape.join()

/** Position of each node, to know what exists before what. */
const positions = (graph: Graph): Map<Node, number> => new Map(graph.nodes.map((node, i) => [node, i]))
const madeBefore = (order: Map<Node, number>, value: Value, node: Node): boolean =>
  !value.node || order.get(value.node)! < order.get(node)!

/** pre = linear(...), y = activation(pre): one `linear_activation`. */
function linearActivation(graph: Graph): Graph {
  const uses = usesOf(graph)
  const fused = new Map<Node, Node>()
  for (const node of graph.nodes) {
    if (node.op !== 'linear' || node.inputs[3]) continue
    const made = (uses.get(node.outputs[0]!) ?? []).filter(
      (user) => user?.op === 'activation' && user.origin.recomputed === node.origin.recomputed,
    )
    if (made.length === 1) fused.set(node, made[0]!)
  }
  const gone = new Set(fused.values())
  return rewrite(graph, (node, rewriter) => {
    if (gone.has(node)) return true
    const activation = fused.get(node)
    if (!activation) return false
    const attributes = { ...node.attributes, ...activation.attributes }
    const [pre, y] = rewriter.builder.emit(
      'linear_activation',
      rewriter.mapAll(node.inputs.slice(0, 3)),
      attributes,
      node.origin,
    )
    rewriter.replace(node.outputs[0]!, pre!)
    rewriter.replace(activation.outputs[0]!, y!)
    return true
  })
}

/** activation_backward(linear_input_gradient(dy, W), pre): the derivative in the product's epilogue. */
function linearInputGradientActivation(graph: Graph): Graph {
  const uses = usesOf(graph)
  const products = new Map<Node, Node>()
  for (const node of graph.nodes) {
    if (node.op !== 'activation_backward') continue
    const product = node.inputs[0]!.node
    if (product?.op === 'linear_input_gradient' && onlyUse(uses, product.outputs[0]!)) products.set(node, product)
  }
  const gone = new Set(products.values())
  return rewrite(graph, (node, rewriter) => {
    if (gone.has(node)) return true
    const product = products.get(node)
    if (!product) return false
    const inputs = rewriter.mapAll([...product.inputs, node.inputs[1]!])
    const attributes = { ...product.attributes, ...node.attributes }
    const [dpre] = rewriter.builder.emit('linear_input_gradient_activation', inputs, attributes, node.origin)
    rewriter.replace(node.outputs[0]!, dpre!)
    return true
  })
}

/** An `add` of two equal shapes one of which is made by `op` for it alone becomes that op with the other as its operand `slot`. */
function addInto(op: string, output: number, slot: number): (graph: Graph) => Graph {
  return (graph) => {
    const uses = usesOf(graph)
    const order = positions(graph)
    const targets = new Map<Node, { add: Node; other: Value }>()
    const gone = new Map<Node, Node>()
    for (const add of graph.nodes) {
      if (add.op !== 'add' || !sameType(add.inputs[0]!, add.inputs[1]!)) continue
      for (const side of [1, 0]) {
        const made = add.inputs[side]!
        const other = add.inputs[1 - side]!
        const node = made.node
        if (node?.op !== op || made.index !== output || node.inputs[slot] || targets.has(node)) continue
        if (onlyUse(uses, made) !== add || other === made) continue
        // The fused node may move to the add's place when all its other outputs are read later still.
        const movable = node.outputs.every((value) => value === made || !uses.get(value)?.length)
        if (!movable && !madeBefore(order, other, node)) continue
        targets.set(node, { add, other })
        gone.set(add, node)
        break
      }
    }
    return rewrite(graph, (node, rewriter) => {
      const target = targets.get(node)
      const emit = (from: Node, other: Value, add: Node): void => {
        const inputs = rewriter.mapAll(from.inputs)
        inputs[slot] = rewriter.map(other)
        const outputs = rewriter.builder.emit(from.op, inputs, from.attributes, from.origin, from.scalars)
        from.outputs.forEach((value, i) => {
          rewriter.replace(value, outputs[i]!)
        })
        rewriter.replace(add.outputs[0]!, outputs[output]!)
      }
      if (target) {
        if (madeBefore(order, target.other, node)) emit(node, target.other, target.add)
        return true
      }
      const moved = gone.get(node)
      if (!moved) return false
      const other = targets.get(moved)!.other
      if (!madeBefore(order, other, moved)) emit(moved, other, node)
      return true
    })
  }
}

/** sum_leading over the rows of what `op` makes first: that op's output `sum`. */
function sumOfRows(op: string): (graph: Graph) => Graph {
  return (graph) => {
    const sums = new Map<Node, Node>()
    for (const node of graph.nodes) {
      const made = node.inputs[0]
      const maker = made?.node
      if (node.op !== 'sum_leading' || int(node.attributes, 'rank') !== 1 || maker?.op !== op || made?.index !== 0)
        continue
      const alike = maker.outputs.length === 1 || option(maker.attributes, 'wide') === option(node.attributes, 'wide')
      if (alike && !option(maker.attributes, 'sum') && !sums.has(maker)) sums.set(maker, node)
    }
    const gone = new Set(sums.values())
    return rewrite(graph, (node, rewriter) => {
      if (gone.has(node)) return true
      const sum = sums.get(node)
      if (!sum) return false
      const attributes = { ...node.attributes, sum: 1, wide: option(sum.attributes, 'wide') }
      const outputs = rewriter.builder.emit(op, rewriter.mapAll(node.inputs), attributes, node.origin)
      for (const [i, value] of [...node.outputs, sum.outputs[0]!].entries()) rewriter.replace(value, outputs[i]!)
      return true
    })
  }
}

/** The head: linear, cross_entropy and, in a training graph, their backward become one op over chunks of rows. */
function linearCrossEntropy(graph: Graph, backend: Backend): Graph {
  const uses = usesOf(graph)
  const skip = new Set<Node>()
  const heads = new Map<Node, { linear: Node; loss: Node; dx?: Node; dw?: Node }>()
  for (const loss of graph.nodes) {
    if (loss.op !== 'cross_entropy') continue
    const linear = loss.inputs[0]!.node
    if (linear?.op !== 'linear' || linear.inputs[2] || linear.inputs[3]) continue
    const users = uses.get(linear.outputs[0]!) ?? []
    const backward = users.find((user) => user?.op === 'cross_entropy_backward')
    const lseUsers = uses.get(loss.outputs[1]!) ?? []
    if (users.some((user) => user !== loss && user !== backward) || lseUsers.some((user) => user !== backward)) continue
    if (!backward) {
      heads.set(loss, { linear, loss })
      skip.add(linear)
      continue
    }
    const readers = uses.get(backward.outputs[0]!) ?? []
    const dx = readers.find((user) => user?.op === 'linear_input_gradient' && user.inputs[1] === linear.inputs[1])
    const dw = readers.find((user) => user?.op === 'linear_weight_gradient' && user.inputs[0] === linear.inputs[0])
    if (!dx || !dw || readers.length !== 2) continue
    // One op makes the loss and reads its gradient: that may not be made from the loss.
    if (dependsOn(backward.inputs[3]!, loss)) continue
    heads.set(backward, { linear, loss, dx, dw })
    for (const node of [linear, loss, dx, dw]) skip.add(node)
  }
  return rewrite(graph, (node, rewriter) => {
    if (skip.has(node)) return true
    const head = heads.get(node)
    if (!head) return false
    const { linear, loss, dx, dw } = head
    const [x, weight] = linear.inputs as [Value, Value]
    const classes = lastDim(linear.outputs[0]!.type.shape)
    const attributes = {
      transposed: int(linear.attributes, 'transposed'),
      scale: int(loss.attributes, 'scale'),
      rows: backend.logitRows(rowsOf(x.type.shape), classes),
    }
    const inputs = rewriter.mapAll([x, weight, loss.inputs[1]!])
    if (!dx || !dw) {
      rewriter.replace(
        loss.outputs[0]!,
        rewriter.builder.emit('linear_cross_entropy', inputs, attributes, loss.origin)[0]!,
      )
      return true
    }
    const dloss = rewriter.map(node.inputs[3]!)
    const outputs = rewriter.builder.emit(
      'linear_cross_entropy_gradients',
      [...inputs, dloss],
      { ...attributes, wide: option(dw.attributes, 'wide') },
      node.origin,
    )
    rewriter.replace(loss.outputs[0]!, outputs[0]!)
    rewriter.replace(dx.outputs[0]!, outputs[1]!)
    rewriter.replace(dw.outputs[0]!, outputs[2]!)
    return true
  })
}

const forms: readonly [FusionName, (graph: Graph, backend: Backend) => Graph][] = [
  ['linear_cross_entropy', linearCrossEntropy],
  ['linear_activation', linearActivation],
  ['linear_input_gradient_activation', linearInputGradientActivation],
  ['linear_residual', addInto('linear', 0, 3)],
  ['dropout_residual', addInto('dropout', 0, 1)],
  ['layer_norm_backward_residual', addInto('layer_norm_backward', 0, 5)],
  ['layer_norm_backward_sum', sumOfRows('layer_norm_backward')],
  ['linear_input_gradient_activation_sum', sumOfRows('linear_input_gradient_activation')],
  ['embedding_backward_base', addInto('embedding_backward', 0, 2)],
]

/** The fusion passes of a backend, in the order in which they apply. */
export const fusionPasses = (backend: Backend): Pass[] =>
  forms
    .filter(([name]) => backend.fusions.includes(name))
    .map(([name, run]) => ({ name: `fuse-${name.replaceAll('_', '-')}`, run: (graph) => run(graph, backend) }))
