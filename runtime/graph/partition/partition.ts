// The ZeRO partition: from one joint graph (forward and backward of a micro-step) to the graphs that each rank runs. All ranks run
// the same graph; what differs is the slice that a collective or an update takes. Collectives are nodes like any other.
import { type Attributes, elements, showType } from '../../../kernels/ops/definition.js'
import { dtypeNumbers } from '../../../kernels/ops/elementwise.js'
import { opNamed } from '../../../kernels/ops/index.js'
import { normChunk } from '../../../kernels/ops/optimizer.js'
import { maxLossScale } from '../../optim/index.js'
import type { Graph, Origin, Value } from '../ir.js'
import { Build, communication, groupBy, type PlacedGraph, update } from './build.js'
import { chunkOrder, type ParameterSlot, type Unit } from './layout.js'
import { Reduction } from './reduction.js'
import { type MicroStep, optimizerStates, type Sharding } from './sharding.js'

/** How a parameter begins. */
export interface Initializer {
  readonly name: string
  readonly op: 'initialize_normal' | 'initialize_constant'
  readonly attributes: Readonly<Record<string, number>>
}

/** Scalars of an update that are the same for every group. */
const ofRun: readonly string[] = ['seed', 'step']
/** How many slices of weights may be on their way from the host to a gather. */
const landings = 3

/** Builds the graphs of one rank. */
export class Partitioner {
  constructor(readonly sharding: Sharding) {}

  /** A graph that only reads parameters: evaluation, logits. */
  forward(graph: Graph): PlacedGraph {
    const build = new Build(this.sharding)
    build.body(graph)
    for (const { name, value } of graph.outputs) build.expose(name, build.map(value))
    return build.finish()
  }

  /** One micro-step: forward, backward, reduction into the accumulator and, in `only` and `last`, norm, clip and update. */
  microStep(joint: Graph, which: MicroStep): PlacedGraph {
    const build = new Build(this.sharding)
    const reduction = new Reduction(build, this.sharding, joint, which)
    build.body(joint, reduction)
    build.expose('loss', build.map(joint.outputs.find((output) => output.name === 'loss')!.value))
    if (which === 'only' || which === 'last') this.#update(build)
    return build.finish()
  }

  /** Initial parameters, each element from the seed, its parameter's name and its index. */
  initialize(parameters: readonly Initializer[]): PlacedGraph {
    const build = new Build(this.sharding)
    const { builder } = build
    const initializers = new Map(parameters.map((parameter) => [parameter.name, parameter]))
    for (const unit of this.sharding.layout.units) {
      const target = this.#drawn(build, unit)
      const shards = unit.length / elements(target.type.shape)
      for (const { name, start, count } of unit.parameters) {
        const { op, attributes } = initializers.get(name)!
        builder.emit(op, [target], { start, count, shards, ...attributes }, { ...update, module: name })
      }
      const { offload } = this.sharding.options
      if (offload) build.copy(target, build.master(unit))
      if (unit.dtype !== 'f32' || offload) this.#copyDown(build, unit, target)
    }
    this.#regather(build)
    return build.finish()
  }

  /** f32 memory in which a unit's initial values are drawn: where they stay, or, without masters on the device, a value of its own. */
  #drawn(build: Build, unit: Unit): Value {
    const target = build.master(unit)
    if (target.type.dtype === 'f32' && !this.sharding.options.offload) return target
    const attributes = { value: 0, dtype: dtypeNumbers.indexOf('f32'), shape: target.type.shape }
    return build.builder.emit('fill', [], attributes, update)[0]!
  }

  /** After parameters were written from outside: rounds masters anew and refreshes what ranks keep gathered. */
  refresh(): PlacedGraph {
    const build = new Build(this.sharding)
    for (const unit of this.sharding.layout.units) {
      if (!this.sharding.hasMaster(unit)) continue
      const master = build.master(unit)
      const { offload } = this.sharding.options
      this.#copyDown(build, unit, offload ? build.builder.emit('copy', [master], {}, update)[0]! : master)
    }
    this.#regather(build)
    return build.finish()
  }

  /** Makes a unit's parameter from f32 values on the device, whole or this rank's slice. */
  #copyDown(build: Build, unit: Unit, values: Value): void {
    const parameter = build.parameter(unit)
    const origin: Origin = { ...update, module: unit.name }
    const dtype = dtypeNumbers.indexOf(unit.dtype)
    const copy = unit.dtype === 'f32' ? values : build.builder.emit('cast', [values], { dtype }, origin)[0]!
    // A step that updates nothing sends back what lies there.
    if (this.sharding.options.offload && unit.dtype !== 'f32') build.copy(copy, build.host.weights(unit))
    if (showType(copy.type) === showType(parameter.type)) build.place(copy, parameter, 0)
    else this.#gatherInto(build, unit, copy)
  }

  #gatherInto(build: Build, unit: Unit, slice: Value): void {
    const { ranks } = this.sharding.options
    const origin: Origin = { ...communication, module: unit.name }
    const [full] = build.builder.emit('all_gather', [slice], { ranks, whole: 0 }, origin)
    build.place(full!, build.parameter(unit), 0)
  }

  #regather(build: Build): void {
    if (!this.sharding.sliced.parameters) return
    for (const unit of this.sharding.layout.units) if (unit.persistent) this.#gatherPersistent(build, unit)
  }

  #gatherPersistent(build: Build, unit: Unit): void {
    const { ranks } = this.sharding.options
    const [full] = build.builder.emit('all_gather', [build.parameter(unit)], { ranks, whole: 0 }, communication)
    build.place(full!, build.persistent(unit), 0)
  }

  #update(build: Build): void {
    const { layout, options } = this.sharding
    const { ranks } = options
    const { builder } = build
    const { sliced } = this.sharding

    const shards = sliced.optimizer ? ranks : 1
    const length = layout.length / shards / normChunk
    const [sums] = builder.emit('fill', [], { value: 0, dtype: dtypeNumbers.indexOf('f64'), shape: [length] }, update)
    // The last gradients to arrive are those of the first units.
    for (const unit of layout.units.toReversed()) {
      const [chunks] = builder.emit('norm_chunks', [build.gradient(unit)], { length: unit.length, shards }, update)
      build.place(chunks!, sums!, (unit.start / shards / normChunk) * 8)
    }
    const all = shards > 1 ? builder.emit('all_gather', [sums!], { ranks, whole: 0 }, communication)[0]! : sums!
    const control = this.#control(build, all, chunkOrder(layout, shards))

    if (options.offload) this.#updateOnHost(build, control, shards)
    else this.#updateOnDevice(build, control, shards)
  }

  /** Units in the order of the forward, each gather behind its updates: what the next forward reads first comes first. */
  #updateOnDevice(build: Build, control: Value, shards: number): void {
    const { layout, options, sliced } = this.sharding
    let waiting: Unit[] = []
    for (const unit of layout.units) {
      const size = waiting.reduce((sum, other) => sum + other.length, 0)
      if (size + unit.length > options.allgatherBucketSize) waiting = this.#gatherUpdated(build, waiting)
      this.#updateUnit(build, unit, control, shards)
      const shared = options.optimizer.kind === 'sgd' && this.sharding.hasMaster(unit) && !sliced.parameters
      if (sliced.optimizer && !shared) waiting.push(unit)
    }
    this.#gatherUpdated(build, waiting)
  }

  /**
   * The same on the host, whose gradients have come with the backward: units in the order of the forward, and while one is updated the
   * weights of the one before go back to the device.
   */
  #updateOnHost(build: Build, control: Value, shards: number): void {
    const { units } = this.sharding.layout
    const told = build.copy(control, build.host.control())
    units.forEach((unit, u) => {
      this.#updateUnit(build, unit, told, shards)
      if (u > 0) this.#land(build, units[u - 1]!)
    })
    this.#land(build, units.at(-1)!)
  }

  /** Brings a unit's updated weights from the host to all that hold them. */
  #land(build: Build, unit: Unit): void {
    const weights = build.host.weights(unit)
    const parameter = build.parameter(unit)
    const origin: Origin = { ...communication, module: unit.name }
    if (showType(weights.type) !== showType(parameter.type)) {
      this.#gatherInto(build, unit, build.copy(weights, build.landing(unit.index % landings), origin))
      return
    }
    build.copy(weights, parameter, origin)
    if (this.sharding.sliced.parameters && unit.persistent) this.#gatherPersistent(build, unit)
  }

  /** What the update does, from all chunk sums and from what earlier steps hand on. */
  #control(build: Build, sums: Value, ranges: readonly number[]): Value {
    const { builder } = build
    const { clipping, overflow } = this.sharding.options
    const { dynamic, window, hysteresis, consecutiveHysteresis, min } = overflow.lossScale
    const scale = overflow.scales ? builder.emit('loss_scale', [build.step], { factor: 1 }, update)[0]! : null
    const [found] = builder.emit('clip_control', [sums, scale], { max_norm: clipping, ranges }, update)
    const [control, step] = builder.emit(
      'step_control',
      [found!, build.step],
      {
        skips: Number(overflow.skips),
        dynamic: Number(dynamic),
        window,
        hysteresis,
        consecutive: Number(consecutiveHysteresis),
        least: min,
        most: maxLossScale,
      },
      update,
    )
    build.expose('control', control!)
    builder.output('step', step!)
    return control!
  }

  #updateUnit(build: Build, unit: Unit, control: Value, shards: number): void {
    const { optimizer, offload } = this.sharding.options
    const gradient = offload ? build.host.gradient(unit) : build.gradient(unit)
    const weights = offload ? build.host.weights(unit) : build.parameter(unit)
    const rounds = this.sharding.hasMaster(unit) && unit.dtype !== 'f32'
    optimizer.groups.forEach((group, g) => {
      const names = new Set(group.names)
      const own = unit.parameters.filter((slot) => names.has(slot.name))
      if (own.length === 0) return
      const states = optimizerStates(optimizer).map((state) => build.state(state, unit))
      const operands = optimizer.kind === 'sgd' && states.length === 0 ? [null] : states
      const copy = optimizer.kind === 'adam' && rounds ? [weights] : []
      const inputs = [build.master(unit), gradient, ...operands, control, ...copy]
      const roles = opNamed(optimizer.kind).scalars.map((role) => (ofRun.includes(role) ? role : `${role}.${g}`))
      const emit = (slots: readonly ParameterSlot[], more: Attributes): void => {
        const ranges = slots.flatMap((slot) => [slot.start, slot.count])
        const attributes = { ...optimizer.attributes, weight_decay: group.weightDecay, length: unit.length, shards }
        const origin = { ...update, module: unit.name }
        build.builder.emit(optimizer.kind, inputs, { ...attributes, ...more, ranges }, origin, roles)
      }
      if (inputs[0]!.type.dtype === 'f32') emit(own, {})
      // Random bits follow an element's number in the model. Where a unit is no run of parameters it has several beginnings.
      else for (const [origin, slots] of groupBy(own, ({ before, start }) => before - start)) emit(slots, { origin })
    })
    // SGD has no pass of its own for the copy.
    if (optimizer.kind !== 'sgd' || !rounds) return
    if (!offload) {
      this.#copyDown(build, unit, build.master(unit))
      return
    }
    const dtype = dtypeNumbers.indexOf(unit.dtype)
    build.place(
      build.builder.emit('cast', [build.master(unit)], { dtype }, { ...update, module: unit.name })[0]!,
      weights,
      0,
    )
  }

  /** Shares this rank's updated slices of units with those that hold the units whole; then none waits. */
  #gatherUpdated(build: Build, units: readonly Unit[]): [] {
    const { ranks } = this.sharding.options
    for (const unit of units) {
      if (this.sharding.sliced.parameters) {
        if (unit.persistent) this.#gatherPersistent(build, unit)
        continue
      }
      const whole = build.parameter(unit)
      const origin: Origin = { ...communication, module: unit.name }
      build.place(build.builder.emit('all_gather', [whole], { ranks, whole: 1 }, origin)[0]!, whole, 0)
    }
    return []
  }
}
