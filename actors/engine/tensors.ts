// Parameters and optimizer states between files and ranks. A parameter's elements are addressed by name and index; where they lie in
// which rank's arenas follows from the layout. Each element is saved by the one rank that owns it and written to all that hold it.
import type { ArenaName } from '../../kernels/abi/program.js'
import { dtypeBytes } from '../../kernels/ops/definition.js'
import type { Compilation } from '../../runtime/graph/compile.js'
import { fragmentsOf, type ParameterSlot, type WeightDType } from '../../runtime/graph/partition/layout.js'
import { masterState, optimizerStates } from '../../runtime/graph/partition/sharding.js'
import type { Region } from '../rank/device.js'

/** Elements of one parameter (or of one of its optimizer states) in one rank's arena. */
export interface Span extends Region {
  readonly name: string
  /** First element within the parameter. */
  readonly start: number
  readonly count: number
}

export interface TensorKind {
  readonly arena: ArenaName & ('parameters' | 'optimizer')
  /** Prefix of the plan's fixed tensors: `parameters` or `optimizer/<state>`. */
  readonly prefix: string
  /** The state's name; empty for parameters. */
  readonly state: string
  readonly dtype: WeightDType
  /** The parameters that have it, in model order. */
  readonly slots: readonly ParameterSlot[]
}

/**
 * Where parameters are read and written in full precision: in f32 units themselves, or in the masters of units in 16 bits. Where there
 * are no masters, without training or with stochastic rounding, what is written is rounded to nearest.
 */
export const parameterKinds = ({ layout, sharding }: Compilation): TensorKind[] =>
  inKinds(layout.parameters, ({ unit }) =>
    sharding.hasMaster(unit)
      ? { arena: 'optimizer', prefix: `optimizer/${masterState}`, dtype: 'f32' }
      : { arena: 'parameters', prefix: 'parameters', dtype: unit.dtype },
  )

/** Where parameters lie as the model computes with them, in the dtype of each. */
export const weightKinds = ({ layout }: Compilation): TensorKind[] =>
  inKinds(layout.parameters, ({ unit: { dtype } }) => ({ arena: 'parameters', prefix: 'parameters', dtype }))

function inKinds(
  parameters: readonly ParameterSlot[],
  placeOf: (slot: ParameterSlot) => Pick<TensorKind, 'arena' | 'prefix' | 'dtype'>,
): TensorKind[] {
  const kinds = new Map<string, { kind: TensorKind; slots: ParameterSlot[] }>()
  for (const slot of parameters) {
    const place = placeOf(slot)
    const key = `${place.prefix} ${place.dtype}`
    const known = kinds.get(key)
    if (known) known.slots.push(slot)
    else {
      const slots = [slot]
      kinds.set(key, { kind: { ...place, state: '', slots }, slots })
    }
  }
  return [...kinds.values()].map(({ kind }) => kind)
}

/** The optimizer's state tensors of a compilation. */
export const stateKinds = ({ layout, sharding }: Compilation): TensorKind[] =>
  optimizerStates(sharding.options.optimizer).map((state) => ({
    arena: 'optimizer',
    prefix: `optimizer/${state}`,
    state,
    dtype: 'f32',
    slots: layout.parameters,
  }))

function span(
  compilation: Compilation,
  kind: TensorKind,
  rank: number,
  slot: ParameterSlot,
  start: number,
  count: number,
): Span {
  const { unit } = slot
  const { byteOffset } = compilation.plan.fixed.get(`${kind.prefix}/${unit.name}`)!
  const whole = compilation.sharding.lengthIn(kind.arena, unit) === unit.length
  const first = slot.start + start - (whole ? 0 : rank * unit.shard)
  const size = dtypeBytes[kind.dtype]
  return { name: slot.name, start, count, byteOffset: byteOffset + size * first, bytes: size * count }
}

/** What `rank` saves: its own fragment of every parameter. */
export function ownedSpans(compilation: Compilation, kind: TensorKind, rank: number): Span[] {
  const slots = new Map(kind.slots.map((slot) => [slot.name, slot]))
  return fragmentsOf(compilation.layout, rank).flatMap(({ name, start, count }) => {
    const slot = slots.get(name)
    return slot ? [span(compilation, kind, rank, slot, start, count)] : []
  })
}

/** Whether each rank holds a part of a kind only. */
export const isSharded = ({ layout, sharding }: Compilation, kind: TensorKind): boolean =>
  layout.units.some((unit) => sharding.lengthIn(kind.arena, unit) !== unit.length)

/** What `rank` holds: whole parameters, or its fragments where the stage shards them. */
export function heldSpans(compilation: Compilation, kind: TensorKind, rank: number): Span[] {
  if (isSharded(compilation, kind)) return ownedSpans(compilation, kind, rank)
  return kind.slots.map((slot) => span(compilation, kind, rank, slot, 0, slot.count))
}
