// The rules of supervision, without effects: defaults and checks of spawn options, who falls with whom, how often a restart is
// allowed and after what delay.
import { maxCapacity } from './credits.js'
import type { Overflow, SpawnOptions, Strategy } from './definition.js'
import { ActorError } from './errors.js'
import { type LogLevel, logLevels } from './log.js'
import type { Random } from './random.js'

/** What holds for an actor's whole time, checked and complete. */
export interface Policy {
  readonly capacity: number
  readonly overflow: Overflow
  /** Bytes that may wait; null: not counted. */
  readonly bytes: number | null
  readonly strategy: Strategy
  readonly group: string | null
  readonly maxRestarts: number
  readonly withinMs: number
  readonly backoff: { readonly initial: number; readonly factor: number; readonly max: number; readonly jitter: number }
  readonly graceMs: number
  readonly logLevel: LogLevel
}

const strategies: readonly Strategy[] = ['one-for-one', 'rest-for-one', 'one-for-group', 'one-for-all']

const overflows: readonly Overflow[] = ['refuse', 'drop-oldest', 'fail']

/** 1 TiB. */
const mostBytes = 2 ** 40

/** Fills in the defaults. Throws `BAD_OPTION` naming the option. */
export function policyOf(options: SpawnOptions, workers: number, defaultLevel: LogLevel = 'info'): Policy {
  const { name, worker, mailbox, strategy = 'one-for-one', group, maxRestarts = 3, withinMs = 60_000 } = options
  const { graceMs = 5000, logLevel = defaultLevel, backoff = {} } = options
  const { initial = 10, factor = 2, max = 5000, jitter = 0 } = backoff
  const { capacity = 1000, overflow = 'refuse', bytes } = mailbox ?? {}
  const check = (holds: boolean, option: string, expected: string, got: unknown): void => {
    if (holds) return
    throw new ActorError('BAD_OPTION', `spawn: ${option}, expected ${expected}, got ${String(got)}`, { option, got })
  }
  const whole = (value: number, low: number, high: number): boolean =>
    Number.isInteger(value) && value >= low && value <= high
  const atLeast = (value: number, low: number): boolean => typeof value === 'number' && value >= low
  check(name === undefined || /^[^/]+$/.test(name), 'name', 'a name without "/"', name)
  const place = worker === undefined || worker === 'main' || whole(worker, 0, workers - 1)
  check(
    place,
    'worker',
    workers > 0 ? `"main" or 0 to ${workers - 1}` : '"main", for the system has no workers',
    worker,
  )
  check(whole(capacity, 1, maxCapacity), 'mailbox.capacity', `1 to ${maxCapacity}`, capacity)
  check(overflows.includes(overflow), 'mailbox.overflow', overflows.join(', '), overflow)
  check(bytes === undefined || whole(bytes, 1, mostBytes), 'mailbox.bytes', `1 to ${mostBytes}`, bytes)
  check(
    bytes === undefined || overflow !== 'drop-oldest',
    'mailbox.overflow',
    'refuse or fail, for the mailbox counts bytes',
    overflow,
  )
  check(strategies.includes(strategy), 'strategy', strategies.join(', '), strategy)
  check(
    strategy !== 'one-for-group' || group !== undefined,
    'group',
    'a name, for the strategy is one-for-group',
    group,
  )
  check(whole(maxRestarts, 0, Number.MAX_SAFE_INTEGER), 'maxRestarts', 'a whole number from 0', maxRestarts)
  check(atLeast(withinMs, 0), 'withinMs', 'milliseconds', withinMs)
  check(atLeast(graceMs, 0), 'graceMs', 'milliseconds', graceMs)
  check(
    atLeast(initial, 0) && atLeast(factor, 1) && atLeast(max, initial),
    'backoff',
    '0 <= initial <= max, factor >= 1',
    initial,
  )
  check(atLeast(jitter, 0) && jitter <= 1, 'backoff.jitter', '0 to 1', jitter)
  check(logLevels.includes(logLevel), 'logLevel', logLevels.join(', '), logLevel)
  return {
    capacity,
    overflow,
    bytes: bytes ?? null,
    strategy,
    group: group ?? null,
    maxRestarts,
    withinMs,
    backoff: { initial, factor, max, jitter },
    graceMs,
    logLevel,
  }
}

/** Whether two policies say the same, so that one object may stand for both. */
export function samePolicy(a: Policy, b: Policy): boolean {
  return (
    a.capacity === b.capacity &&
    a.overflow === b.overflow &&
    a.bytes === b.bytes &&
    a.strategy === b.strategy &&
    a.group === b.group &&
    a.maxRestarts === b.maxRestarts &&
    a.withinMs === b.withinMs &&
    a.backoff.initial === b.backoff.initial &&
    a.backoff.factor === b.backoff.factor &&
    a.backoff.max === b.backoff.max &&
    a.backoff.jitter === b.backoff.jitter &&
    a.graceMs === b.graceMs &&
    a.logLevel === b.logLevel
  )
}

/** Counts the restarts of those that fall together. */
export class RestartBudget {
  private times: number[] = []

  /** The delay in ms before the restart that a failure at `now` asks for; null: the budget is spent. */
  spend(now: number, policy: Pick<Policy, 'maxRestarts' | 'withinMs' | 'backoff'>, random: Random): number | null {
    this.times = this.times.filter((time) => now - time < policy.withinMs)
    if (this.times.length >= policy.maxRestarts) return null
    const { initial, factor, max, jitter } = policy.backoff
    const delay = Math.min(initial * factor ** this.times.length, max)
    this.times.push(now)
    return delay * (1 - jitter * random.next())
  }
}

/** The name of the set that shares its restarts with a failing actor: itself, those of its strategy, its group or all siblings. */
export function unitName(actor: { readonly id: number; readonly policy: Policy }): string {
  const { strategy, group } = actor.policy
  if (strategy === 'one-for-all') return 'all'
  if (strategy === 'rest-for-one') return 'rest'
  return strategy === 'one-for-group' ? `group ${group}` : `one ${actor.id}`
}

/** Those that fall with a failing actor, of `siblings` in the order in which they were spawned. */
export function fallTogether<T extends { readonly policy: Policy }>(failing: T, siblings: readonly T[]): T[] {
  const { strategy, group } = failing.policy
  if (strategy === 'one-for-all') return [...siblings]
  if (strategy === 'rest-for-one') return siblings.slice(siblings.indexOf(failing))
  return strategy === 'one-for-group' ? siblings.filter((actor) => actor.policy.group === group) : [failing]
}
