// Parameters and optimizer states between files and ranks. A parameter's elements are addressed by name and index; where they lie in
// which rank's arenas follows from the layout. Each element is saved by the one rank that owns it and written to all that hold it.
import type { ArenaName } from '../../kernels/abi/program.js'
import type { Compilation } from '../../runtime/graph/compile.js'
import { fragmentsOf, type ParameterSlot } from '../../runtime/graph/partition/layout.js'
import { optimizerStates } from '../../runtime/graph/partition/sharding.js'
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
}

export const parameterKind: TensorKind = { arena: 'parameters', prefix: 'parameters', state: '' }

/** The optimizer's state tensors of a compilation. */
export const stateKinds = (compilation: Compilation): TensorKind[] =>
  optimizerStates(compilation.sharding.options.optimizer).map((state) => ({
    arena: 'optimizer',
    prefix: `optimizer/${state}`,
    state,
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
  return { name: slot.name, start, count, byteOffset: byteOffset + 4 * first, bytes: 4 * count }
}

/** What `rank` saves: its own fragment of every parameter. */
export function ownedSpans(compilation: Compilation, kind: TensorKind, rank: number): Span[] {
  const slots = new Map(compilation.layout.parameters.map((slot) => [slot.name, slot]))
  return fragmentsOf(compilation.layout, rank).map(({ name, start, count }) =>
    span(compilation, kind, rank, slots.get(name)!, start, count),
  )
}

/** Whether each rank holds a part of a kind only. */
export const isSharded = ({ layout, sharding }: Compilation, kind: TensorKind): boolean =>
  layout.units.some((unit) => sharding.lengthIn(kind.arena, unit) !== unit.length)

/** What `rank` holds: whole parameters, or its fragments where the stage shards them. */
export function heldSpans(compilation: Compilation, kind: TensorKind, rank: number): Span[] {
  if (isSharded(compilation, kind)) return ownedSpans(compilation, kind, rank)
  return compilation.layout.parameters.map((slot) => span(compilation, kind, rank, slot, 0, slot.count))
}
