// The one error of this folder. A file may hold several problems: they are collected and told in one message, the first few in full.
import { nearest } from './nearest.js'

/** Stable names of what can be wrong with a configuration. */
export type ConfigErrorCode =
  | 'CONFIG_UNREADABLE'
  | 'CONFIG_SYNTAX'
  | 'CONFIG_DUPLICATE_KEY'
  | 'CONFIG_UNKNOWN_KEY'
  | 'CONFIG_VALUE'
  | 'CONFIG_AUTO'
  | 'CONFIG_CONFLICT'
  | 'CONFIG_UNSUPPORTED'
  | 'CONFIG_BATCH'

/** One thing that is wrong: the key's path (or the file and place), what it takes, what it was given. */
export interface ConfigProblem {
  readonly code: ConfigErrorCode
  readonly key: string
  readonly expected: string
  readonly got: string
}

const shown = 5

const tell = (problem: ConfigProblem): string => `${problem.key}, expected ${problem.expected}, got ${problem.got}`

/** A configuration that cannot be used. `code` and `details` are those of the first problem; `problems` holds all. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly code: ConfigErrorCode
  readonly details: ConfigProblem

  /** @param source where the configuration came from: `config` or `config ds_config.json`. */
  constructor(
    source: string,
    readonly problems: readonly [ConfigProblem, ...ConfigProblem[]],
    options?: ErrorOptions,
  ) {
    const lines = problems.slice(0, shown).map(tell)
    const more = problems.length - lines.length
    super(
      problems.length === 1
        ? `${source}: ${lines[0]}`
        : `${source}: ${problems.length} problems\n  ${[...lines, ...(more > 0 ? [`and ${more} more`] : [])].join('\n  ')}`,
      options,
    )
    this.details = problems[0]
    this.code = problems[0].code
  }
}

/** Throws one {@link ConfigError} if there is any problem. */
export function throwProblems(source: string, problems: readonly ConfigProblem[]): void {
  const [first, ...rest] = problems
  if (first) throw new ConfigError(source, [first, ...rest])
}

/** The problem of a name outside its set, with the nearest known name. */
export function unknownName(key: string, what: string, name: string, known: readonly string[]): ConfigProblem {
  const close = nearest(name, known)
  const hint = close ? `did you mean ${close}?` : `one of ${known.join(', ')}`
  return { code: 'CONFIG_UNKNOWN_KEY', key, expected: `${what} (${hint})`, got: show(name) }
}

/** A value as messages print it, shortened. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing'
  const text = typeof value === 'number' ? String(value) : JSON.stringify(value)
  return text === undefined ? typeof value : text.length > 80 ? `${text.slice(0, 77)}...` : text
}
