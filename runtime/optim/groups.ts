// Parameter groups: which parameters train with their own learning rate or weight decay. Every parameter is in exactly one group.
import { OptimError } from './error.js'
import type { OptimizerSpec } from './optimizer.js'

/** A group as users write it; what it leaves out is the optimizer's. */
export interface ParameterGroup {
  readonly match: RegExp | ((name: string) => boolean)
  readonly lr?: number
  readonly weightDecay?: number
}

export interface ResolvedGroup {
  /** Names in the model's order. */
  readonly names: readonly string[]
  readonly lr: number
  readonly weightDecay: number
}

/**
 * Sorts parameter names into groups: the first match wins, parameters that no group matches form the last one with the optimizer's
 * settings. Per-group lists of a schedule follow this order. Throws {@link OptimError} where a group gets no parameter or a
 * setting is not a finite number >= 0.
 */
export function resolveGroups(
  names: readonly string[],
  spec: OptimizerSpec,
  groups: readonly ParameterGroup[] = [],
): ResolvedGroup[] {
  const members: string[][] = [...groups.map(() => []), []]
  for (const name of names) {
    const group = groups.findIndex(({ match }) => (typeof match === 'function' ? match(name) : name.search(match) >= 0))
    members[group < 0 ? groups.length : group]!.push(name)
  }
  groups.forEach((group, i) => {
    const key = `group ${i} (${typeof group.match === 'function' ? 'function' : String(group.match)})`
    for (const setting of ['lr', 'weightDecay'] as const) {
      const value = group[setting]
      if (value === undefined || (Number.isFinite(value) && value >= 0)) continue
      const details = { key: `${setting} of ${key}`, expected: 'a finite number >= 0', got: String(value) }
      throw new OptimError('OPTIM_GROUP', 'parameter groups', details)
    }
    if (members[i]!.length > 0) return
    const got = names.some((name) =>
      typeof group.match === 'function' ? group.match(name) : name.search(group.match) >= 0,
    )
      ? 'none: earlier groups take all that it matches'
      : `none of ${names.length}${names.length > 0 ? ` (the first is ${names[0]})` : ''}`
    throw new OptimError('OPTIM_GROUP', 'parameter groups', { key, expected: 'at least one parameter', got })
  })
  return members
    .map((list, i) => ({
      names: list,
      lr: groups[i]?.lr ?? spec.lr,
      weightDecay: groups[i]?.weightDecay ?? spec.weightDecay,
    }))
    .filter((group) => group.names.length > 0)
}
