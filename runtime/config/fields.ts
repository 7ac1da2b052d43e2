// The vocabulary of the schema: leaf types whose error text is the phrase after "expected", and marks that say what it means for a
// key to be known but not acting. A key without a mark either acts or only details another key that is marked.
import * as z from 'zod'

/** What a key that does not act yet would change: the numbers of the training, or only its speed, memory or reporting. */
export type Effect = 'results' | 'speed'

export interface Mark {
  readonly effect: Effect
  /** Values at which the key asks for nothing, its default first. */
  readonly off: readonly unknown[]
  /** Why other values do not act; absent: the feature is not built yet. */
  readonly why?: string
}

export const marks = z.registry<Mark>()

/** A whole number, `5e8` included; at least `min`, at most `max`. */
export function integer(min = 0, max = Number.POSITIVE_INFINITY): z.ZodNumber {
  const error = max < Number.POSITIVE_INFINITY ? `an integer from ${min} to ${max}` : `an integer >= ${min}`
  return z
    .number({ error })
    .refine(Number.isInteger, { error })
    .refine((value) => value >= min && value <= max, { error })
}

/** A finite number; at least `min`, at most `max`. */
export function number(min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY): z.ZodNumber {
  const low = min > Number.NEGATIVE_INFINITY
  const error =
    max < Number.POSITIVE_INFINITY ? `a number from ${min} to ${max}` : low ? `a number >= ${min}` : 'a number'
  return z.number({ error }).refine((value) => value >= min && value <= max, { error })
}

export const flag = z.boolean({ error: 'true or false' })
export const text = z.string({ error: 'a string' })
export const anything = z.unknown()

export const choice = <const T extends readonly [string, ...string[]]>(...values: T) =>
  z.enum(values, { error: `one of ${values.join(', ')}` })

export const list = <S extends z.ZodType>(item: S, what = 'a list') => z.array(item, { error: what })

/** An object whose every key is listed. */
export const section = <S extends z.ZodRawShape>(shape: S) => z.strictObject(shape, { error: 'an object' })

/** An object whose keys are names that the user chooses, or that another library defines. */
export const open = <S extends z.ZodType>(value: S) => z.record(z.string(), value, { error: 'an object' })

/** A key that will change results once it acts: other values than `off` are an error until then. */
export function results<S extends z.ZodType>(schema: S, ...off: unknown[]): z.ZodOptional<S> {
  return marked(schema, { effect: 'results', off })
}

/** A key that changes no result: other values than `off` give one notice until it acts. */
export function tunes<S extends z.ZodType>(schema: S, ...off: unknown[]): z.ZodOptional<S> {
  return marked(schema, { effect: 'speed', off })
}

function marked<S extends z.ZodType>(schema: S, mark: Mark): z.ZodOptional<S> {
  const field = schema.optional()
  marks.add(field as z.ZodType, mark)
  return field
}

/** Says why a marked key does not act. */
export function because<S extends z.ZodType>(field: z.ZodOptional<S>, why: string): z.ZodOptional<S> {
  marks.add(field as z.ZodType, { ...marks.get(field as z.ZodType)!, why })
  return field
}
