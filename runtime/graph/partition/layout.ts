// Where every parameter lies. A unit is a run of parameters side by side in model order: a block, what a module outside blocks owns, or in
// ZeRO-3 all of one dtype that stays gathered.
// Units are what ZeRO shards (each into equal slices, one a rank), gathers and reduces. Each tensor starts on a chunk border of
// 1,024 elements and a slice is whole chunks, so that norms are the same sums in every stage and for every number of ranks.
import { elements } from '../../../kernels/ops/definition.js'
import { normChunk } from '../../../kernels/ops/optimizer.js'

/** A parameter as the layout needs it. */
export interface ParameterFact {
  readonly name: string
  readonly shape: readonly number[]
  /** Name of its unit. */
  readonly unit: string
  /** Dtype of the values that the forward reads; default f32. */
  readonly dtype?: WeightDType
}

/** Below f32 a weight is the rounded copy of a master that the optimizer keeps. */
export type WeightDType = 'f32' | 'bf16' | 'f16'

export interface ParameterSlot {
  readonly name: string
  readonly shape: readonly number[]
  readonly count: number
  readonly unit: Unit
  /** First element within the whole unit. */
  readonly start: number
  /** Elements of all parameters before it in model order, each filled up to whole chunks: the same in every stage, for any ranks. */
  readonly before: number
}

export interface Unit {
  readonly name: string
  readonly index: number
  readonly parameters: readonly ParameterSlot[]
  /** Elements of the whole unit, padding included: a multiple of ranks * 1,024. */
  readonly length: number
  /** Elements of one rank's slice. */
  readonly shard: number
  /** Elements before this unit in a flat buffer of whole units; of slices: divide by the ranks. */
  readonly start: number
  /** Kept gathered on every rank in ZeRO-3 (its parameters are small). */
  readonly persistent: boolean
  readonly dtype: WeightDType
}

export interface FlatLayout {
  readonly ranks: number
  readonly units: readonly Unit[]
  /** All parameters in model order. */
  readonly parameters: readonly ParameterSlot[]
  /** Elements of all whole units. */
  readonly length: number
  /** Elements of one rank's slices. */
  readonly shard: number
  /** Elements without padding. */
  readonly count: number
}

export interface LayoutOptions {
  readonly ranks: number
  /** Parameters of at most this many elements stay gathered (ZeRO-3), in a unit of their own for each dtype. */
  readonly persistenceThreshold?: number
  /** Most elements that may stay gathered in all. */
  readonly persistenceLimit?: number
}

const roundUp = (n: number, step: number): number => Math.ceil(n / step) * step

export function createLayout(parameters: readonly ParameterFact[], options: LayoutOptions): FlatLayout {
  const { ranks, persistenceThreshold = -1, persistenceLimit = Number.POSITIVE_INFINITY } = options
  let persisted = 0
  const names: string[] = []
  const mixed = new Set(parameters.map(({ dtype = 'f32' }) => dtype)).size > 1
  const members = new Map<string, { facts: ParameterFact[]; persistent: boolean; dtype: WeightDType }>()
  for (const fact of parameters) {
    const count = elements(fact.shape)
    const persistent = count <= persistenceThreshold && persisted + count <= persistenceLimit
    if (persistent) persisted += count
    const { dtype = 'f32' } = fact
    const traits = [...(mixed && dtype === 'f32' ? ['fp32'] : []), ...(persistent ? ['persistent'] : [])]
    // All that is persistent travels at once: each unit costs a reduction, an update and a gather, however small it is.
    const name = `${persistent ? '' : fact.unit}${traits.length > 0 ? ` (${traits.join(', ')})` : ''}`.trim()
    const unit = members.get(name)
    if (unit) unit.facts.push(fact)
    else {
      members.set(name, { facts: [fact], persistent, dtype })
      names.push(name)
    }
  }

  const slots = new Map<string, ParameterSlot>()
  let start = 0
  const units = names.map((name, index): Unit => {
    const { facts, persistent, dtype } = members.get(name)!
    const own: ParameterSlot[] = []
    let used = 0
    for (const { name: parameter, shape } of facts) {
      const count = elements(shape)
      own.push({ name: parameter, shape, count, unit: null as never, start: used, before: 0 })
      used += roundUp(count, normChunk)
    }
    const length = roundUp(used, ranks * normChunk)
    const unit: Unit = { name, index, parameters: own, length, shard: length / ranks, start, persistent, dtype }
    for (const slot of own) {
      ;(slot as { unit: Unit }).unit = unit
      slots.set(slot.name, slot)
    }
    start += length
    return unit
  })
  const ordered = parameters.map((fact) => slots.get(fact.name)!)
  ordered.reduce((before, slot) => {
    ;(slot as { before: number }).before = before
    return before + roundUp(slot.count, normChunk)
  }, 0)
  const count = ordered.reduce((sum, slot) => sum + slot.count, 0)
  return { ranks, units, parameters: ordered, length: start, shard: start / ranks, count }
}

/** The parts of a unit that no parameter covers, as (start, count) pairs. */
export function gapsOf(unit: Unit): number[] {
  const gaps: number[] = []
  unit.parameters.forEach((slot, i) => {
    const end = slot.start + slot.count
    const next = unit.parameters[i + 1]?.start ?? unit.length
    if (next > end) gaps.push(end, next - end)
  })
  return gaps
}

/** A piece of a parameter that one rank owns. */
export interface Fragment {
  readonly name: string
  /** First element within the parameter. */
  readonly start: number
  readonly count: number
  /** First element within the rank's slices laid end to end. */
  readonly offset: number
}

/** What `rank` owns of every parameter, in model order: the fragments of all ranks cover every element once. */
export function fragmentsOf(layout: FlatLayout, rank: number): Fragment[] {
  return layout.parameters.flatMap((slot) => {
    const { unit } = slot
    const from = Math.max(slot.start, rank * unit.shard)
    const to = Math.min(slot.start + slot.count, (rank + 1) * unit.shard)
    if (to <= from) return []
    const offset = unit.start / layout.ranks + from - rank * unit.shard
    return [{ name: slot.name, start: from - slot.start, count: to - from, offset }]
  })
}

/**
 * The chunks of every parameter in model order as (first chunk, count) pairs, positions counted in chunk sums that lie rank by rank,
 * within a rank unit by unit. Whole buffers are the case of one rank.
 */
export function chunkOrder(layout: FlatLayout, ranks: number): number[] {
  const order: number[] = []
  for (const { unit, start, count } of layout.parameters) {
    const shard = unit.length / ranks / normChunk
    const base = unit.start / ranks / normChunk
    const total = layout.length / ranks / normChunk
    let chunk = start / normChunk
    const end = Math.ceil((start + count) / normChunk)
    while (chunk < end) {
      const rank = Math.floor(chunk / shard)
      const stop = Math.min(end, (rank + 1) * shard)
      order.push(rank * total + base + chunk - rank * shard, stop - chunk)
      chunk = stop
    }
  }
  return order
}
