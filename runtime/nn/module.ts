// Modules and parameters as users compose them. A module holds no values: they live in the arenas of ranks.
// Children and parameters are a module's own properties, so a parameter's name is its property path, in definition order.
// `#private` fields cannot be seen by the walk; a parameter kept in one is refused when it is traced.

/** How a parameter starts: draws from a normal distribution, or one value throughout. */
export type Initializer =
  | { readonly kind: 'normal'; readonly mean: number; readonly std: number }
  | { readonly kind: 'constant'; readonly value: number }

/** A trained tensor of f32: its shape and its start, not its values. */
export class Parameter {
  readonly dtype = 'f32'
  constructor(
    readonly shape: readonly number[],
    readonly init: Initializer,
  ) {}
}

/**
 * A part of a model. `forward` builds its output from symbolic tensors; while a trace runs, each call of a module's `forward` is
 * known to the graph by the module's path. The elements of an array of modules are *blocks*: the units of activation checkpointing
 * and of ZeRO-3 gathers.
 */
export abstract class Module {
  abstract forward(...inputs: never[]): unknown
}

export interface NamedParameter {
  /** Property path, e.g. `transformer.h.0.attn.c_attn.weight`; of a tied parameter its first. */
  readonly name: string
  readonly parameter: Parameter
  /** What is gathered and sharded together: the path of the outermost block around it, else of the module that owns it. */
  readonly unit: string
}

export interface NamedModule {
  /** Property path; the root's is empty. */
  readonly name: string
  readonly module: Module
  /** Path of the outermost block that is or holds this module. */
  readonly block?: string
}

type Visit = { readonly module: NamedModule } | { readonly parameter: NamedParameter }

/** Every module once with all its parameters, tied or not, depth first in definition order. */
function* walk(name: string, module: Module, block: string | undefined, seen: Set<Module>): Generator<Visit> {
  if (seen.has(module)) return
  seen.add(module)
  yield { module: block === undefined ? { name, module } : { name, module, block } }
  for (const [key, property] of Object.entries(module)) {
    const path = name ? `${name}.${key}` : key
    for (const [value, valuePath, element] of Array.isArray(property)
      ? property.map((value: unknown, i) => [value, `${path}.${i}`, true] as const)
      : [[property, path, false] as const]) {
      if (value instanceof Parameter) yield { parameter: { name: valuePath, parameter: value, unit: block ?? name } }
      else if (value instanceof Module) yield* walk(valuePath, value, block ?? (element ? valuePath : undefined), seen)
    }
  }
}

/** The modules of `module`, itself first, each once by its first path. */
export function namedModules(module: Module): NamedModule[] {
  return [...walk('', module, undefined, new Set())].flatMap((visit) => ('module' in visit ? [visit.module] : []))
}

/** The parameters of `module` in definition order, each once by its first path. */
export function namedParameters(module: Module): NamedParameter[] {
  const first = new Map<Parameter, NamedParameter>()
  for (const visit of walk('', module, undefined, new Set())) {
    if ('parameter' in visit && !first.has(visit.parameter.parameter))
      first.set(visit.parameter.parameter, visit.parameter)
  }
  return [...first.values()]
}

/** The further paths of tied parameters, each with the name that the parameter goes by. */
export function tiedNames(module: Module): Map<string, string> {
  const names = new Map(namedParameters(module).map(({ name, parameter }) => [parameter, name]))
  const tied = new Map<string, string>()
  for (const visit of walk('', module, undefined, new Set())) {
    if (!('parameter' in visit)) continue
    const name = names.get(visit.parameter.parameter)!
    if (name !== visit.parameter.name) tied.set(visit.parameter.name, name)
  }
  return tied
}

/** Elements of all parameters, tied ones once. */
export function countParameters(module: Module): number {
  return namedParameters(module).reduce((sum, { parameter }) => sum + parameter.shape.reduce((a, b) => a * b, 1), 0)
}
