// The ZeRO partition: from one joint graph (forward and backward of a micro-step) to the graphs that each rank runs. All ranks run
// the same graph; what differs is the slice that a collective or an update takes. Collectives are nodes like any other.
// Stage 0 keeps everything whole; 1 slices optimizer states; 2 gradients too; 3 parameters too (arXiv 1910.02054).
import { elements } from '../../../kernels/ops/definition.js'
import { dtypeNumbers } from '../../../kernels/ops/elementwise.js'
import { normChunk } from '../../../kernels/ops/optimizer.js'
import { opNamed } from '../../../kernels/ops/index.js'
import { type Graph, GraphBuilder, type Node, type Origin, type Value } from '../ir.js'
import { type GatherOptions, planGathers } from './gathers.js'
import { chunkOrder, type FlatLayout, gapsOf, type Unit } from './layout.js'

export type ZeroStage = 0 | 1 | 2 | 3

/** Which micro-step of a step a program is: the first replaces the accumulator, the last updates. */
export type MicroStep = 'only' | 'first' | 'middle' | 'last'

export interface PartitionOptions {
  readonly ranks: number
  readonly stage: ZeroStage
  readonly gathers: GatherOptions
  /** Elements of gradient that are reduced together. */
  readonly reduceBucketSize: number
  /** Elements of updated parameters that are gathered together. */
  readonly allgatherBucketSize: number
  readonly optimizer: OptimizerPlan
  /** Most global norm of the gradients; 0: no clipping. */
  readonly clipping: number
}

/** Parameters that are updated with the same settings; each group has scalars of its own (`learning_rate.0`, ...). */
export interface OptimizerGroup {
  readonly names: readonly string[]
  readonly weightDecay: number
}

export interface OptimizerPlan {
  readonly kind: 'adam' | 'sgd'
  /** Attributes of the op that are the same for every group. */
  readonly attributes: Readonly<Record<string, number>>
  readonly groups: readonly OptimizerGroup[]
}

/** A graph whose values may be told where to lie: within another value's memory. */
export interface PlacedGraph {
  readonly graph: Graph
  readonly placements: ReadonlyMap<Value, Placement>
}

export interface Placement {
  readonly base: Value
  readonly byteOffset: number
}

function groupBy<T, K>(items: readonly T[], key: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>()
  for (const item of items) {
    const group = groups.get(key(item))
    if (group) group.push(item)
    else groups.set(key(item), [item])
  }
  return groups
}

const communication: Origin = { phase: 'communication' }
const update: Origin = { phase: 'update' }

/** Names of the optimizer's state tensors of one unit, in the op's order. */
export function optimizerStates(optimizer: OptimizerPlan): readonly string[] {
  if (optimizer.kind === 'adam') return ['exp_avg', 'exp_avg_sq']
  return optimizer.attributes['momentum'] ? ['momentum_buffer'] : []
}

/** Builds the graphs of one rank. Inputs of kind `state` are named `<arena>/<tensor>/<unit>`; `io/<name>` are read by the host. */
export class Partitioner {
  constructor(
    readonly layout: FlatLayout,
    readonly options: PartitionOptions,
  ) {}

  get #sharded(): { parameters: boolean; gradients: boolean; optimizer: boolean } {
    const { ranks, stage } = this.options
    return { parameters: ranks > 1 && stage >= 3, gradients: ranks > 1 && stage >= 2, optimizer: ranks > 1 && stage >= 1 }
  }

  /** Elements of a unit's part in an arena. */
  lengthIn(arena: 'parameters' | 'gradients' | 'optimizer', unit: Unit): number {
    return this.#sharded[arena] ? unit.shard : unit.length
  }

  /** A graph that only reads parameters: evaluation, logits. */
  forward(graph: Graph): PlacedGraph {
    const build = new Build(this)
    build.body(graph)
    for (const { name, value } of graph.outputs) build.expose(name, build.map(value))
    return build.finish()
  }

  /** One micro-step: forward, backward, reduction into the accumulator and, in `only` and `last`, norm, clip and update. */
  microStep(joint: Graph, which: MicroStep): PlacedGraph {
    const build = new Build(this)
    const fresh = which === 'only' || which === 'first'
    const reduction = new Reduction(build, this, joint, fresh)
    build.body(joint, reduction)
    build.expose('loss', build.map(joint.outputs.find((output) => output.name === 'loss')!.value))
    if (which === 'only' || which === 'last') this.#update(build)
    return build.finish()
  }

  /** Initial parameters, each element from the seed, its parameter's name and its index. */
  initialize(parameters: readonly Initializer[]): PlacedGraph {
    const build = new Build(this)
    const shards = this.#sharded.parameters ? this.options.ranks : 1
    const initializers = new Map(parameters.map((parameter) => [parameter.name, parameter]))
    for (const { name, unit, start, count } of this.layout.parameters) {
      const { op, attributes } = initializers.get(name)!
      build.builder.emit(op, [build.parameter(unit)], { start, count, shards, ...attributes }, { ...update, module: name })
    }
    this.#regather(build)
    return build.finish()
  }

  /** After parameters were written from outside: refreshes what ranks keep gathered. */
  refresh(): PlacedGraph {
    const build = new Build(this)
    this.#regather(build)
    return build.finish()
  }

  #regather(build: Build): void {
    if (!this.#sharded.parameters) return
    for (const unit of this.layout.units) if (unit.persistent) this.#gatherPersistent(build, unit)
  }

  #gatherPersistent(build: Build, unit: Unit): void {
    const { ranks } = this.options
    const [full] = build.builder.emit('all_gather', [build.parameter(unit)], { ranks, whole: 0 }, communication)
    build.place(full!, build.persistent(unit), 0)
  }

  #update(build: Build): void {
    const { layout, options } = this
    const { ranks, stage } = options
    const { builder } = build
    const sharded = this.#sharded
    if (ranks > 1 && stage === 0) {
      for (const unit of layout.units) {
        const whole = build.gradient(unit)
        build.place(builder.emit('all_gather', [whole], { ranks, whole: 1 }, communication)[0]!, whole, 0)
      }
    }

    const shards = sharded.optimizer ? ranks : 1
    const length = layout.length / shards / normChunk
    const [sums] = builder.emit('fill', [], { value: 0, dtype: dtypeNumbers.indexOf('f64'), shape: [length] }, update)
    for (const unit of layout.units) {
      const [chunks] = builder.emit('norm_chunks', [build.gradient(unit)], { length: unit.length, shards }, update)
      build.place(chunks!, sums!, (unit.start / shards / normChunk) * 8)
    }
    const all = shards > 1 ? builder.emit('all_gather', [sums!], { ranks, whole: 0 }, communication)[0]! : sums!
    const ranges = chunkOrder(layout, shards)
    const [control] = builder.emit('clip_control', [all], { max_norm: options.clipping, ranges }, update)
    build.expose('control', control!)

    let waiting: Unit[] = []
    const gather = (): void => {
      for (const unit of waiting) this.#gatherUpdated(build, unit)
      waiting = []
    }
    for (const unit of layout.units) {
      this.#updateUnit(build, unit, control!, shards)
      if (!sharded.optimizer) continue
      const size = waiting.reduce((sum, other) => sum + other.length, 0)
      if (size + unit.length > options.allgatherBucketSize) gather()
      waiting.push(unit)
    }
    gather()
  }

  #updateUnit(build: Build, unit: Unit, control: Value, shards: number): void {
    const { optimizer } = this.options
    optimizer.groups.forEach((group, g) => {
      const names = new Set(group.names)
      const own = unit.parameters.filter((slot) => names.has(slot.name))
      if (own.length === 0) return
      const states = optimizerStates(optimizer).map((state) => build.state(state, unit))
      const operands = optimizer.kind === 'sgd' && states.length === 0 ? [null] : states
      const inputs = [build.parameter(unit), build.gradient(unit), ...operands, control]
      const attributes = {
        ...optimizer.attributes,
        weight_decay: group.weightDecay,
        length: unit.length,
        shards,
        ranges: own.flatMap((slot) => [slot.start, slot.count]),
      }
      const roles = opNamed(optimizer.kind).scalars.map((role) => `${role}.${g}`)
      build.builder.emit(optimizer.kind, inputs, attributes, { ...update, module: unit.name }, roles)
    })
  }

  /** Shares this rank's updated slice of a unit with those that hold the unit whole. */
  #gatherUpdated(build: Build, unit: Unit): void {
    if (this.#sharded.parameters) {
      if (unit.persistent) this.#gatherPersistent(build, unit)
      return
    }
    const whole = build.parameter(unit)
    const { ranks } = this.options
    build.place(build.builder.emit('all_gather', [whole], { ranks, whole: 1 }, { ...communication, module: unit.name })[0]!, whole, 0)
  }
}

/** How a parameter begins. */
export interface Initializer {
  readonly name: string
  readonly op: 'initialize_normal' | 'initialize_constant'
  readonly attributes: Readonly<Record<string, number>>
}

/** One graph under construction: state inputs on demand, values of the source graph mapped, placements noted. */
class Build {
  readonly builder = new GraphBuilder()
  readonly #placements = new Map<Value, Placement>()
  readonly #values = new Map<Value, Value>()
  readonly #inputs = new Map<string, Value>()
  /** The whole unit that parameters are slices of at present (ZeRO-3). */
  readonly #gathered = new Map<Unit, Value>()

  constructor(readonly partitioner: Partitioner) {}

  #state(name: string, length: number): Value {
    const existing = this.#inputs.get(name)
    if (existing) return existing
    const value = this.builder.input(name, 'state', { shape: [length], dtype: 'f32' })
    this.#inputs.set(name, value)
    return value
  }

  parameter(unit: Unit): Value {
    return this.#state(`parameters/${unit.name}`, this.partitioner.lengthIn('parameters', unit))
  }
  gradient(unit: Unit): Value {
    return this.#state(`gradients/${unit.name}`, this.partitioner.lengthIn('gradients', unit))
  }
  state(name: string, unit: Unit): Value {
    return this.#state(`optimizer/${name}/${unit.name}`, this.partitioner.lengthIn('optimizer', unit))
  }
  persistent(unit: Unit): Value {
    return this.#state(`gathered/${unit.name}`, unit.length)
  }

  map(value: Value): Value {
    return this.#values.get(value)!
  }

  /** Asks that `value` lie in `base`. A value that lies elsewhere already (input, view, placed before) is copied there. */
  place(value: Value, base: Value, byteOffset: number): void {
    const fixed = !value.node || this.#placements.has(value) || ['slice', 'reshape'].includes(value.node.op)
    const target = fixed ? this.builder.emit('copy', [value], {}, value.node?.origin ?? update)[0]! : value
    this.#placements.set(target, { base, byteOffset })
  }

  /** Makes a value readable by the host under `name`. Large ones stay where they are; the plan binds them. */
  expose(name: string, value: Value): void {
    if (elements(value.type.shape) <= 16) {
      const slot = this.builder.input(`io/${name}`, 'state', value.type)
      this.place(value, slot, 0)
    }
    this.builder.output(name, value)
  }

  /** Copies a graph's nodes, with gathers before and reductions behind them as the stage asks. */
  body(graph: Graph, reduction?: Reduction): void {
    const { layout, options } = this.partitioner
    const slots = new Map(layout.parameters.map((slot) => [slot.name, slot]))
    const gathers = options.ranks > 1 && options.stage === 3 ? planGathers(graph, layout, options.gathers) : []
    const byIssue = groupBy(gathers, (residency) => residency.issue)
    const names = new Map<Value, string>()
    for (const { name, kind, value } of graph.inputs) {
      if (kind === 'parameter') names.set(value, name)
      else this.#values.set(value, this.builder.input(`io/${name}`, kind, value.type))
    }
    // Views of a unit are made where they are read, so that they follow the unit's present memory.
    const views = new Map<string, { full: Value; view: Value }>()
    const read = (value: Value): Value => {
      const name = names.get(value)
      if (name === undefined) return this.map(value)
      const { unit, start, shape } = slots.get(name)!
      const full = this.#whole(unit)
      const known = views.get(name)
      if (known?.full === full) return known.view
      const [view] = this.builder.emit('slice', [full], { start, shape }, { phase: 'forward', module: name })
      views.set(name, { full, view: view! })
      return view!
    }
    graph.nodes.forEach((node, at) => {
      for (const { unit } of byIssue.get(at) ?? []) {
        const { ranks } = options
        this.#gathered.set(
          unit,
          this.builder.emit('all_gather', [this.parameter(unit)], { ranks, whole: 0 }, { ...communication, module: unit.name })[0]!,
        )
      }
      const inputs = node.inputs.map((value) => value && read(value))
      reduction?.before(node)
      this.builder.emit(node.op, inputs, node.attributes, node.origin, node.scalars).forEach((value, i) => {
        this.#values.set(node.outputs[i]!, value)
      })
      reduction?.after(node)
    })
  }

  #whole(unit: Unit): Value {
    const { ranks, stage } = this.partitioner.options
    if (ranks === 1 || stage < 3) return this.parameter(unit)
    return unit.persistent ? this.persistent(unit) : this.#gathered.get(unit)!
  }

  finish(): PlacedGraph {
    return { graph: this.builder.finish(), placements: this.#placements }
  }
}

/** Sends gradients to their owners as the backward makes them, bucket by bucket. */
class Reduction {
  readonly #build: Build
  readonly #partitioner: Partitioner
  readonly #fresh: boolean
  /** For each gradient value of the joint graph, where it goes. */
  readonly #targets = new Map<Value, { unit: Unit; start: number }[]>()
  readonly #buckets: { units: Unit[]; firstNode: Node; lastNode: Node }[]
  readonly #memory = new Map<Unit, { base: Value; byteOffset: number }>()
  readonly #first: Map<Node, { units: Unit[] }[]>
  readonly #last: Map<Node, { units: Unit[] }[]>

  constructor(build: Build, partitioner: Partitioner, joint: Graph, fresh: boolean) {
    this.#build = build
    this.#partitioner = partitioner
    this.#fresh = fresh
    const { layout, options } = partitioner
    const order = new Map(joint.nodes.map((node, i) => [node, i]))
    const gradients = new Map(joint.outputs.map(({ name, value }) => [name, value]))
    const spans = layout.units.map((unit) => {
      const nodes = unit.parameters.map((slot) => {
        const value = gradients.get(`gradient:${slot.name}`)!
        const targets = this.#targets.get(value) ?? []
        targets.push({ unit, start: slot.start })
        this.#targets.set(value, targets)
        return value.node!
      })
      // A gradient that adds onto a base is made where the base is: the bucket must be there by then.
      for (const node of nodes) {
        const base = node.inputs[opNamed(node.op).inputs.indexOf('base?')]
        if (base?.node) nodes.push(base.node)
      }
      const ranked = nodes.toSorted((a, b) => order.get(a)! - order.get(b)!)
      return { unit, firstNode: ranked[0]!, lastNode: ranked.at(-1)! }
    })
    spans.sort((a, b) => order.get(a.lastNode)! - order.get(b.lastNode)!)
    this.#buckets = []
    let size = 0
    for (const { unit, firstNode, lastNode } of spans) {
      const open = this.#buckets.at(-1)
      if (open && size + unit.length <= options.reduceBucketSize) {
        open.units.push(unit)
        size += unit.length
        open.lastNode = lastNode
        if (order.get(firstNode)! < order.get(open.firstNode)!) open.firstNode = firstNode
      } else {
        this.#buckets.push({ units: [unit], firstNode, lastNode })
        size = unit.length
      }
    }
    this.#first = groupBy(this.#buckets, (bucket) => bucket.firstNode)
    this.#last = groupBy(this.#buckets, (bucket) => bucket.lastNode)
  }

  /** With the whole accumulator at hand, the first micro-step's gradients are made in it and no bucket is needed. */
  #direct(unit: Unit): boolean {
    return this.#fresh && this.#partitioner.lengthIn('gradients', unit) === unit.length
  }

  before(node: Node): void {
    for (const { units } of this.#first.get(node) ?? []) {
      const bucketed = units.filter((unit) => !this.#direct(unit))
      for (const unit of units) {
        if (this.#direct(unit)) this.#memory.set(unit, { base: this.#build.gradient(unit), byteOffset: 0 })
      }
      if (bucketed.length === 0) continue
      let length = 0
      const gaps: number[] = []
      const starts = bucketed.map((unit) => {
        const start = length
        gapsOf(unit).forEach((n, i) => {
          gaps.push(i % 2 === 0 ? start + n : n)
        })
        length += unit.length
        return start
      })
      const [base] = this.#build.builder.emit('bucket', [], { length, gaps }, communication)
      bucketed.forEach((unit, i) => {
        this.#memory.set(unit, { base: base!, byteOffset: 4 * starts[i]! })
      })
    }
  }

  after(node: Node): void {
    for (const output of node.outputs) {
      for (const { unit, start } of this.#targets.get(output) ?? []) {
        const { base, byteOffset } = this.#memory.get(unit)!
        this.#build.place(this.#build.map(output), base, byteOffset + 4 * start)
      }
    }
    for (const { units } of this.#last.get(node) ?? []) for (const unit of units) this.#reduce(unit)
  }

  #reduce(unit: Unit): void {
    const { ranks } = this.#partitioner.options
    const { builder } = this.#build
    const accumulator = this.#build.gradient(unit)
    const whole = this.#partitioner.lengthIn('gradients', unit) === unit.length ? 1 : 0
    if (this.#direct(unit)) {
      if (ranks === 1) return
      const [reduced] = builder.emit('reduce_scatter', [accumulator, null], { ranks, whole }, communication)
      this.#build.place(reduced!, accumulator, 0)
      return
    }
    const { base, byteOffset } = this.#memory.get(unit)!
    const attributes = { start: byteOffset / 4, shape: [unit.length] }
    const [source] = builder.emit('slice', [base], attributes, communication)
    const previous = this.#fresh ? null : accumulator
    const [reduced] = builder.emit('reduce_scatter', [source!, previous], { ranks, whole }, { ...communication, module: unit.name })
    this.#build.place(reduced!, accumulator, 0)
  }
}
