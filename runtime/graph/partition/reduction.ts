// How gradients reach their owners: bucket by bucket, as soon as the backward has made a bucket's last one, each owner adding the
// ranks' contributions in rank order onto its accumulator.
import { dtypeBytes } from '../../../kernels/ops/definition.js'
import { dtypeNumbers } from '../../../kernels/ops/elementwise.js'
import { opNamed } from '../../../kernels/ops/index.js'
import type { Graph, Node, Value } from '../ir.js'
import { type Build, communication, groupBy, type NodeHooks } from './build.js'
import { gapsOf, type Unit } from './layout.js'
import type { MicroStep, Sharding } from './sharding.js'

/** What is at most this part of a bucket, and is made at most so many nodes later, does not get a place of its own in the order. */
const [sliver, near] = [1 / 64, 8]

/** Sends gradients to their owners as the backward makes them, bucket by bucket. */
export class Reduction implements NodeHooks {
  readonly #build: Build
  readonly #sharding: Sharding
  /** The first gradients of a step: they replace the accumulator. */
  readonly #fresh: boolean
  /** The last gradients of a step: whoever needs them gets them now. */
  readonly #final: boolean
  /** For each gradient value of the joint graph, where it goes. */
  readonly #targets = new Map<Value, { unit: Unit; start: number }[]>()
  readonly #memory = new Map<Unit, { base: Value; byteOffset: number }>()
  readonly #first: Map<Node, { units: Unit[] }[]>
  readonly #last: Map<Node, { units: Unit[] }[]>

  constructor(build: Build, sharding: Sharding, joint: Graph, step: MicroStep) {
    this.#build = build
    this.#sharding = sharding
    this.#fresh = step === 'only' || step === 'first'
    this.#final = step === 'only' || step === 'last'
    const { layout, options } = sharding
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
    const buckets: { units: Unit[]; length: number; firstNode: Node; lastNode: Node }[] = []
    for (const { unit, firstNode, lastNode } of spans) {
      const open = buckets.at(-1)
      const sameDType = open && sharding.gradientDType(open.units[0]!) === sharding.gradientDType(unit)
      if (open && sameDType && open.length + unit.length <= options.reduceBucketSize) {
        open.units.push(unit)
        open.length += unit.length
        open.lastNode = lastNode
        if (order.get(firstNode)! < order.get(open.firstNode)!) open.firstNode = firstNode
      } else {
        buckets.push({ units: [unit], length: unit.length, firstNode, lastNode })
      }
    }
    this.#first = groupBy(buckets, (bucket) => bucket.firstNode)
    // Where collectives run beside the backward, each place where some are sent interrupts it: a bucket waits for the sliver behind it, which
    // is sent first, so that whoever waits for the bucket knows of both.
    const sent = buckets.toReversed()
    sent.forEach((bucket, i) => {
      const behind = sent[i - 1]
      const little = behind && behind.length <= sliver * bucket.length
      if (!options.overlaps || !little || order.get(behind.lastNode)! - order.get(bucket.lastNode)! > near) return
      bucket.lastNode = behind.lastNode
    })
    this.#last = groupBy(sent, (bucket) => bucket.lastNode)
  }

  /** With the whole accumulator at hand, the first micro-step's gradients are made in it and no bucket is needed. */
  #direct(unit: Unit): boolean {
    const sharding = this.#sharding
    const sameDType = sharding.gradientDType(unit) === sharding.accumulatorDType(unit)
    return this.#fresh && sameDType && sharding.lengthIn('gradients', unit) === unit.length
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
      const dtype = this.#sharding.gradientDType(bucketed[0]!)
      const attributes = { length, dtype: dtypeNumbers.indexOf(dtype), gaps }
      const [base] = this.#build.builder.emit('bucket', [], attributes, communication)
      bucketed.forEach((unit, i) => {
        this.#memory.set(unit, { base: base!, byteOffset: dtypeBytes[dtype] * starts[i]! })
      })
    }
  }

  after(node: Node): void {
    for (const output of node.outputs) {
      for (const { unit, start } of this.#targets.get(output) ?? []) {
        const { base, byteOffset } = this.#memory.get(unit)!
        this.#build.place(this.#build.map(output), base, byteOffset + dtypeBytes[output.type.dtype] * start)
      }
    }
    for (const { units } of this.#last.get(node) ?? []) {
      for (const unit of units) {
        this.#reduce(unit)
        if (!this.#final) continue
        this.#share(unit)
        if (this.#sharding.options.offload)
          this.#build.copy(this.#build.gradient(unit), this.#build.host.gradient(unit))
      }
    }
  }

  /** Where each rank updates all of a unit, it gets the sums of the others. */
  #share(unit: Unit): void {
    const { ranks } = this.#sharding.options
    const whole = this.#build.gradient(unit)
    if (ranks === 1 || this.#sharding.sliced.gradients) return
    const [full] = this.#build.builder.emit(
      'all_gather',
      [whole],
      { ranks, whole: 1 },
      { ...communication, module: unit.name },
    )
    this.#build.place(full!, whole, 0)
  }

  #reduce(unit: Unit): void {
    const { ranks } = this.#sharding.options
    const { builder } = this.#build
    const accumulator = this.#build.gradient(unit)
    const whole = this.#sharding.lengthIn('gradients', unit) === unit.length ? 1 : 0
    if (this.#direct(unit)) {
      if (ranks === 1) return
      const [reduced] = builder.emit('reduce_scatter', [accumulator, null], { ranks, whole }, communication)
      this.#build.place(reduced!, accumulator, 0)
      return
    }
    const { base, byteOffset } = this.#memory.get(unit)!
    const { dtype } = base.type
    const attributes = { start: byteOffset / dtypeBytes[dtype], shape: [unit.length] }
    const [source] = builder.emit('slice', [base], attributes, communication)
    const previous = this.#fresh ? null : accumulator
    const [reduced] = builder.emit(
      'reduce_scatter',
      [source!, previous],
      { ranks, whole, wide: dtype === this.#sharding.accumulatorDType(unit) ? 0 : 1 },
      { ...communication, module: unit.name },
    )
    this.#build.place(reduced!, accumulator, 0)
  }
}
