// Holds a raw value against a schema and says everything that is wrong with it: unknown keys (with the nearest name), wrong types,
// "auto", and keys that are known but do not act. Nothing passes in silence.
import * as z from 'zod'
import { type ConfigProblem, show } from './error.js'
import { marks } from './fields.js'
import { nearest } from './nearest.js'

type Path = readonly PropertyKey[]

export interface Inspection<T> {
  /** The parsed value; absent when there are problems. */
  readonly value?: T
  readonly problems: readonly ConfigProblem[]
  readonly notices: readonly string[]
}

/** `zero_optimization.stage`, `optimizer.params.betas[0]`. */
export const keyPath = (path: Path): string =>
  path.map((part, i) => (typeof part === 'number' ? `[${part}]` : i === 0 ? String(part) : `.${String(part)}`)).join('')

/** Checks `raw` against `schema`. `prefix` is the path at which `raw` stands in its file, `elsewhere` the other keys there are. */
export function inspect<S extends z.ZodObject>(
  schema: S,
  raw: unknown,
  prefix: Path = [],
  elsewhere: readonly string[] = [],
): Inspection<z.output<S>> {
  const autos = new Map<string, ConfigProblem>()
  const states: { problems: ConfigProblem[]; notices: string[] } = { problems: [], notices: [] }
  findAutos(schema, raw, prefix, autos)
  findMarks(schema, raw, prefix, states)

  const parsed = schema.safeParse(raw)
  const problems = [...autos.values()]
  for (const issue of parsed.error?.issues ?? []) {
    const path = [...prefix, ...issue.path]
    const key = keyPath(path)
    if (autos.has(key)) continue
    if (issue.code === 'unrecognized_keys') {
      const known = knownKeys(schema, issue.path)
      for (const name of issue.keys) problems.push(unknownKey(keyPath([...path, name]), name, known, elsewhere))
    } else {
      problems.push({
        code: 'CONFIG_VALUE',
        key: key || 'the file',
        expected: issue.message,
        got: show(at(raw, issue.path)),
      })
    }
  }
  const wrong = new Set(problems.map((problem) => problem.key))
  problems.push(...states.problems.filter((problem) => !wrong.has(problem.key)))
  return {
    problems,
    notices: states.notices,
    ...(parsed.success && problems.length === 0 ? { value: parsed.data } : {}),
  }
}

/** Every key path of a schema, for suggestions across sections. */
export function keyPaths(schema: z.ZodType, prefix: Path = []): string[] {
  const inner = core(schema)
  if (!(inner instanceof z.ZodObject)) return []
  return Object.entries(inner.shape).flatMap(([name, field]) => {
    const path = [...prefix, name]
    return [keyPath(path), ...keyPaths(field as z.ZodType, path)]
  })
}

function unknownKey(key: string, name: string, known: readonly string[], elsewhere: readonly string[]): ConfigProblem {
  const close = nearest(name, known) ?? elsewhere.find((path) => path === name || path.endsWith(`.${name}`))
  const hint = close
    ? `did you mean ${close}?`
    : known.length <= 12
      ? `one of ${known.join(', ')}`
      : 'none is near; remarks go under "custom"'
  return { code: 'CONFIG_UNKNOWN_KEY', key, expected: `a known key (${hint})`, got: 'an unknown one' }
}

/** What the Hugging Face Trainer would put where its users write "auto", by key. */
const fillers: Readonly<Record<string, string>> = {
  train_batch_size: 'per_device_train_batch_size x gradient_accumulation_steps x the number of ranks',
  train_micro_batch_size_per_gpu: 'per_device_train_batch_size',
  gradient_accumulation_steps: 'gradient_accumulation_steps',
  gradient_clipping: 'max_grad_norm',
  lr: 'learning_rate',
  betas: 'adam_beta1 and adam_beta2',
  eps: 'adam_epsilon',
  weight_decay: 'weight_decay',
  warmup_min_lr: '0',
  warmup_max_lr: 'learning_rate',
  warmup_num_steps: 'warmup_steps',
  total_num_steps: 'max_steps',
  enabled: 'its fp16 and bf16 flags',
  reduce_bucket_size: 'hidden_size squared',
  stage3_prefetch_bucket_size: '0.9 x hidden_size squared',
  stage3_param_persistence_threshold: '10 x hidden_size',
  stage3_gather_16bit_weights_on_model_save: 'its saving options',
}

function findAutos(schema: z.ZodType | undefined, value: unknown, path: Path, found: Map<string, ConfigProblem>): void {
  if (value === 'auto') {
    const leaf = schema && core(schema)
    if (leaf && !(leaf instanceof z.ZodString) && !(leaf instanceof z.ZodUnknown) && leaf.safeParse('auto').success)
      return
    const key = keyPath(path)
    const filler = fillers[String(path.at(-1))]
    found.set(key, {
      code: 'CONFIG_AUTO',
      key,
      expected: `a value (the Hugging Face Trainer fills this in${filler ? ` from ${filler}` : ''}; write it out, or leave the key out for the default)`,
      got: '"auto"',
    })
  } else if (Array.isArray(value)) {
    value.forEach((item, i) => {
      findAutos(undefined, item, [...path, i], found)
    })
  } else if (isObject(value)) {
    for (const [name, item] of Object.entries(value)) {
      const field = schema && fieldOf(schema, name)
      // An open or unmarked value is read by nobody, or held against its own schema later.
      if (schema && !field) continue
      findAutos(field, item, [...path, name], found)
    }
  }
}

function findMarks(
  schema: z.ZodType,
  value: unknown,
  path: Path,
  found: { problems: ConfigProblem[]; notices: string[] },
): void {
  if (!isObject(value)) return
  for (const [name, item] of Object.entries(value)) {
    const field = fieldOf(schema, name)
    if (!field || item === undefined) continue
    const mark = marks.get(field)
    const key = keyPath([...path, name])
    if (!mark) {
      findMarks(field, item, [...path, name], found)
    } else if (!mark.off.some((off) => sameJson(off, item)) && !(isObject(item) && item.enabled === false)) {
      if (mark.effect === 'results') {
        const off = mark.off.map(show).join(' or ')
        found.problems.push({
          code: 'CONFIG_UNSUPPORTED',
          key,
          expected: `${off} (${mark.why ?? 'other values are not supported yet'})`,
          got: show(item),
        })
      } else {
        found.notices.push(
          `${key}: ${show(item)} has no effect${mark.why ? `: ${mark.why}` : ' yet; results do not depend on it'}`,
        )
      }
    }
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const sameJson = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)

/** The schema without its optional and nullable wrappers. */
function core(schema: z.ZodType): z.ZodType {
  let inner = schema
  while (inner instanceof z.ZodOptional || inner instanceof z.ZodNullable) inner = inner.unwrap() as z.ZodType
  return inner
}

function fieldOf(schema: z.ZodType, name: string): z.ZodType | undefined {
  const inner = core(schema)
  if (inner instanceof z.ZodObject && Object.hasOwn(inner.shape, name)) return inner.shape[name] as z.ZodType
  return inner instanceof z.ZodRecord ? (inner.valueType as z.ZodType) : undefined
}

function knownKeys(schema: z.ZodType, path: Path): string[] {
  let inner = core(schema)
  for (const part of path) {
    const field =
      typeof part === 'number' && inner instanceof z.ZodArray
        ? (inner.element as z.ZodType)
        : fieldOf(inner, String(part))
    if (!field) return []
    inner = core(field)
  }
  return inner instanceof z.ZodObject ? Object.keys(inner.shape) : []
}

function at(value: unknown, path: Path): unknown {
  return path.reduce<unknown>(
    (inner, part) =>
      typeof inner === 'object' && inner !== null ? (inner as Record<PropertyKey, unknown>)[part] : undefined,
    value,
  )
}
