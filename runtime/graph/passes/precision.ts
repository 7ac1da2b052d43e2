// Precision as passes. `lowerPrecision` takes a forward graph in f32 to 16 bits: weights become 16-bit inputs (copies of f32 masters,
// see partition/), activations follow, statistics and losses stay f32. `gradientPrecision` gives a joint graph's parameter gradients
// the dtype in which they are made and sent. An f32 graph needs neither.
import type { DType, TensorType } from '../../../kernels/ops/definition.js'
import { dtypeNumbers } from '../../../kernels/ops/elementwise.js'
import { opNamed } from '../../../kernels/ops/index.js'
import { gradientName } from '../autodiff.js'
import type { Graph, Node, Origin, Value } from '../ir.js'
import type { WeightDType } from '../partition/layout.js'
import { type Pass, Rewriter, usesOf } from '../rewrite.js'

export interface PrecisionOptions {
  /** Of weights and activations. */
  readonly dtype: WeightDType
  /** Whether the module of that path computes in f32. */
  readonly keeps: (module: string) => boolean
  /** Dtype of a parameter's copy, by name. */
  readonly weight: (parameter: string) => WeightDType
}

const isFloat = (type: TensorType): boolean => type.dtype !== 'i32' && type.dtype !== 'u8'

/**
 * The forward graph in `dtype`. A node computes in `dtype` unless its module is kept in f32, it reads a statistic or a loss, or it
 * belongs to the loss and reads no parameter; its operands are cast where they differ. What a kept module makes is cast back
 * where other modules read it; losses are not. Outputs of the graph are f32.
 */
export function lowerPrecision({ dtype, keeps, weight }: PrecisionOptions): Pass {
  const run = (graph: Graph): Graph => {
    const parameters = new Set(graph.inputs.flatMap(({ kind, value }) => (kind === 'parameter' ? [value] : [])))
    const rewriter = new Rewriter(graph, ({ name, kind, value: { type } }) =>
      kind === 'parameter' ? { ...type, dtype: weight(name) } : type,
    )
    const casts = new Map<string, Value>()
    const cast = (value: Value, to: DType, origin: Origin): Value => {
      if (!isFloat(value.type) || value.type.dtype === to) return value
      const key = `${value.id} ${to} ${origin.block}`
      const made =
        casts.get(key) ?? rewriter.builder.emit('cast', [value], { dtype: dtypeNumbers.indexOf(to) }, origin)[0]!
      casts.set(key, made)
      return made
    }
    /** Values of the source that stay f32 wherever they go. */
    const wide = new Set<Value>()
    for (const node of graph.nodes) {
      const { module = '', loss = false } = node.origin
      const low = inferredIn(node, dtype)
      const inputs = rewriter.mapAll(node.inputs)
      const floats = inputs.filter((value) => value && isFloat(value.type)) as Value[]
      const readsWide = node.inputs.some((value) => value && wide.has(value))
      const ofLoss = loss && !node.inputs.some((value) => value && parameters.has(value))
      const isWide = readsWide || ofLoss
      // An op that makes only f32 reads 16 bits as exactly as their cast.
      const exact = low.every((type) => !isFloat(type) || type.dtype === 'f32')
      const same = floats.every((value) => value.type.dtype === floats[0]!.type.dtype)
      const to: DType = exact && same && floats[0] ? floats[0].type.dtype : isWide || keeps(module) ? 'f32' : dtype
      const operands = inputs.map((value) => value && cast(value, to, node.origin))
      rewriter.builder.emit(node.op, operands, node.attributes, node.origin, node.scalars).forEach((value, i) => {
        const source = node.outputs[i]!
        rewriter.replace(source, value)
        if (isFloat(value.type) && (isWide || low[i]!.dtype === 'f32')) wide.add(source)
      })
    }
    for (const { name, value } of graph.outputs) {
      rewriter.builder.output(name, cast(rewriter.map(value), 'f32', { phase: 'forward' }))
    }
    return rewriter.builder.finish()
  }
  return { name: 'lower-precision', run: (graph) => (dtype === 'f32' ? graph : run(graph)) }
}

/** The types that a node's outputs have where its float operands are `dtype`. */
function inferredIn(node: Node, dtype: DType): TensorType[] {
  const types = node.inputs.map((value) =>
    value && isFloat(value.type) ? { ...value.type, dtype } : (value?.type ?? null),
  )
  return opNamed(node.op).infer(types, node.attributes)
}

/**
 * Gives the gradient of each parameter its dtype. Where the producer can write f32 it does (`wide`); sums over several uses of a
 * parameter and over the rows of a table are made in f32 and rounded once.
 */
export function gradientPrecision(wanted: (parameter: string) => WeightDType, names: readonly string[]): Pass {
  const run = (graph: Graph): Graph => {
    const uses = usesOf(graph)
    const outputs = new Map(graph.outputs.map(({ name, value }) => [name, value]))
    const wide = new Set<Node>()
    /** Marks what makes `value`, as far as nobody else reads it. */
    const widen = (value: Value): void => {
      const { node } = value
      if (!node || value.type.dtype === 'f32' || uses.get(value)!.length > 1) return
      if (node.op === 'add' && node.inputs[0]!.type.shape.length === node.inputs[1]!.type.shape.length) {
        wide.add(node)
        for (const input of node.inputs) widen(input!)
      } else if ('wide' in opNamed(node.op).attributes) wide.add(node)
    }
    for (const name of names) {
      const value = outputs.get(gradientName(name))!
      const sums = value.node?.op === 'add' || value.node?.op === 'embedding_backward'
      if (sums || wanted(name) === 'f32') widen(value)
    }
    const dtypes = new Map(names.map((name) => [gradientName(name), wanted(name)]))
    const targets = new Map<Value, Set<WeightDType>>()
    for (const { name, value } of graph.outputs) {
      const dtype = dtypes.get(name)
      if (dtype) targets.set(value, (targets.get(value) ?? new Set()).add(dtype))
    }
    const rewriter = new Rewriter(graph)
    const cast = (value: Value, dtype: DType, origin: Origin): Value =>
      value.type.dtype === dtype
        ? value
        : rewriter.builder.emit('cast', [value], { dtype: dtypeNumbers.indexOf(dtype) }, origin)[0]!
    const gradients = new Map<string, Value>()
    for (const node of graph.nodes) {
      const sum = node.op === 'add'
      if (wide.has(node)) {
        const inputs = rewriter.mapAll(node.inputs)
        const operands = sum ? inputs.map((value) => value && cast(value, 'f32', node.origin)) : inputs
        const attributes = sum ? node.attributes : { ...node.attributes, wide: 1 }
        rewriter.builder.emit(node.op, operands, attributes, node.origin, node.scalars).forEach((value, i) => {
          rewriter.replace(node.outputs[i]!, value)
        })
      } else rewriter.copy(node)
      for (const value of node.outputs) {
        for (const dtype of targets.get(value) ?? [])
          gradients.set(`${value.id} ${dtype}`, cast(rewriter.map(value), dtype, node.origin))
      }
    }
    for (const { name, value } of graph.outputs) {
      const dtype = dtypes.get(name)
      rewriter.builder.output(name, dtype ? gradients.get(`${value.id} ${dtype}`)! : rewriter.map(value))
    }
    return rewriter.builder.finish()
  }
  return { name: 'gradient-precision', run }
}
