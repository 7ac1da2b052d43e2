// When ZeRO-3 gathers and releases each unit, decided before the run from the order of uses (the reference's recorded trace, known
// here without recording). Keys: stage3_max_reuse_distance, stage3_max_live_parameters, stage3_prefetch_bucket_size.
import type { Graph, Value } from '../ir.js'
import type { FlatLayout, Unit } from './layout.js'

export interface GatherOptions {
  readonly maxReuseDistance: number
  readonly maxLiveParameters: number
  readonly prefetchBucketSize: number
}

/** One stay of a unit in memory: gathered before node `issue`, first read by node `first`, last by node `last`. */
export interface Residency {
  readonly unit: Unit
  readonly issue: number
  readonly first: number
  readonly last: number
}

/** Residencies in the order of their first use. Node positions index `graph.nodes`. */
export function planGathers(graph: Graph, layout: FlatLayout, options: GatherOptions): Residency[] {
  const slots = new Map(layout.parameters.map((slot) => [slot.name, slot]))
  const unitOf = new Map<Value, Unit>()
  for (const { name, kind, value } of graph.inputs) {
    const unit = kind === 'parameter' ? slots.get(name)?.unit : undefined
    if (unit && !unit.persistent) unitOf.set(value, unit)
  }

  // The trace: each use with the elements fetched up to it. Uses of one unit with no other between them are one.
  const stays: { unit: Unit; first: number; last: number; travelled: number }[] = []
  let travelled = 0
  graph.nodes.forEach((node, at) => {
    for (const unit of new Set(node.inputs.flatMap((value) => (value && unitOf.get(value)) ?? []))) {
      const before = stays.at(-1)
      if (before?.unit === unit) {
        before.last = at
        continue
      }
      travelled += unit.length
      stays.push({ unit, first: at, last: at, travelled })
    }
  })

  const load = new Float64Array(graph.nodes.length)
  const occupy = (unit: Unit, from: number, to: number): void => {
    for (let at = from; at < to; at++) load[at]! += unit.length
  }
  const fits = (unit: Unit, from: number, to: number): boolean =>
    load.subarray(from, to).every((live) => live + unit.length <= options.maxLiveParameters)
  for (const { unit, first, last } of stays) occupy(unit, first, last + 1)

  // Keep a unit between two uses where the next one is near and there is room; else release and gather again.
  const merged: typeof stays = []
  for (const stay of stays) {
    const before = merged.findLast((other) => other.unit === stay.unit)
    const near = before && stay.travelled - before.travelled - stay.unit.length <= options.maxReuseDistance
    if (before && near && fits(stay.unit, before.last + 1, stay.first)) {
      occupy(stay.unit, before.last + 1, stay.first)
      before.last = stay.last
      before.travelled = stay.travelled
    } else merged.push({ ...stay })
  }

  // Issue each gather as early as the prefetch bucket and the live limit allow.
  const inFlight = new Float64Array(graph.nodes.length)
  return merged.map(({ unit, first, last }, i) => {
    const previous = merged.findLast((other, j) => j < i && other.unit === unit)
    let issue = first
    while (
      issue > (previous ? previous.last + 1 : 0) &&
      inFlight[issue - 1]! + unit.length <= options.prefetchBucketSize &&
      load[issue - 1]! + unit.length <= options.maxLiveParameters
    ) {
      issue -= 1
      inFlight[issue]! += unit.length
    }
    occupy(unit, issue, first)
    return { unit, issue, first, last }
  })
}
