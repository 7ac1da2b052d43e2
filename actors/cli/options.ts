// Values of flags. A bad one is one line that names the flag, what it takes and what came.
import { Option } from 'commander'
import { EngineError } from '../engine/errors.js'

/** What a flag takes: in words, and how it is read; undefined is refused. */
export interface Value<T> {
  readonly expected: string
  read(text: string): T | undefined
}

export const integer = (least: number): Value<number> => ({
  expected: `an integer of at least ${least}`,
  read: (text) => {
    const value = Number(text)
    return /^\d+$/.test(text) && Number.isSafeInteger(value) && value >= least ? value : undefined
  },
})

export const within = (least: number, most: number): Value<number> => ({
  expected: `a number from ${least} to ${most}`,
  read: (text) => {
    const value = Number(text)
    return text.trim() !== '' && value >= least && value <= most ? value : undefined
  },
})

const units: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
}

/** Bytes: `3GiB`, `512 MiB`, `1.5GB`, `4096`. */
export const byteSize: Value<number> = {
  expected: 'a size above 0 such as 3GiB, 512MiB or 4096',
  read: (text) => {
    const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? []
    const bytes = Math.floor(Number(digits) * (units[unit.toLowerCase()] ?? Number.NaN))
    return bytes > 0 ? bytes : undefined
  },
}

export const pattern: Value<RegExp> = {
  expected: 'a regular expression',
  read: (text) => {
    try {
      return new RegExp(text)
    } catch {
      return undefined
    }
  },
}

export const oneOf = <T extends string | number>(...values: readonly T[]): Value<T> => ({
  expected: values.join(' or '),
  read: (text) => values.find((candidate) => String(candidate) === text),
})

/** A flag with a checked value: `option('--steps <n>', 'optimizer steps', integer(0), 100)`. */
export function option<T>(flags: string, description: string, value: Value<T>, fallback?: T): Option {
  const made = new Option(flags, description).argParser((text) => {
    const read = value.read(text)
    if (read !== undefined) return read
    throw usage(made.long ?? flags, value.expected, text)
  })
  return fallback === undefined ? made : made.default(fallback)
}

/** The error of a flag, or of several that do not go together. */
export const usage = (flag: string, expected: string, got: string): EngineError =>
  new EngineError('ENGINE_USAGE', `${flag}, expected ${expected}, got ${got}`, { flag })

/** The flags that were given. */
export const defined = <T extends object>(values: T): { [K in keyof T]: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never
