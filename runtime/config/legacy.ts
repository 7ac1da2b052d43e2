// Old spellings of keys, put into today's words before the schema sees them. Each use is told once with its replacement; old and new
// together are an error, because nobody can say which one was meant.
import type { ConfigProblem } from './error.js'
import { show } from './error.js'

type Section = Record<string, unknown>

interface Rename {
  readonly from: string
  readonly to: string
  /** What the old value means in today's key; undefined: nothing. */
  readonly value?: (old: unknown) => unknown
  /** Both spellings are in use; no notice. */
  readonly alias?: boolean
}

const toDevice = (old: unknown): unknown => (old === true ? { device: 'cpu' } : old === false ? undefined : old)

const rootRenames: readonly Rename[] = [{ from: 'bfloat16', to: 'bf16' }]

const zeroRenames: readonly Rename[] = [
  { from: 'cpu_offload', to: 'offload_optimizer', value: toDevice },
  { from: 'cpu_offload_param', to: 'offload_param', value: toDevice },
  { from: 'cpu_offload_params', to: 'offload_param', value: toDevice },
  { from: 'stage3_gather_fp16_weights_on_model_save', to: 'stage3_gather_16bit_weights_on_model_save' },
  { from: 'allgather_size', to: 'allgather_bucket_size' },
  ...[
    'prefetch_bucket_size',
    'param_persistence_threshold',
    'model_persistence_threshold',
    'max_live_parameters',
    'max_reuse_distance',
    'gather_16bit_weights_on_model_save',
    'module_granularity_threshold',
    'use_all_reduce_for_fetch_params',
    'allgather_sequential',
  ].map((name) => ({ from: name, to: `stage3_${name}`, alias: true })),
]

const bucketKeys = ['reduce_bucket_size', 'allgather_bucket_size', 'stage3_prefetch_bucket_size']

export interface Modern {
  readonly value: unknown
  readonly problems: readonly ConfigProblem[]
  readonly notices: readonly string[]
}

/** Rewrites old keys; values that are not objects are left for the schema to refuse. The input stays as it is. */
export function modernise(raw: unknown): Modern {
  const problems: ConfigProblem[] = []
  const notices: string[] = []
  if (!isSection(raw)) return { value: raw, problems, notices }

  const root = rename(raw, rootRenames, '', problems, notices)
  const zero = root.zero_optimization
  if (typeof zero === 'boolean') {
    root.zero_optimization = { stage: zero ? 1 : 0 }
    notices.push(`zero_optimization: ${zero} is deprecated; write { "stage": ${zero ? 1 : 0} }`)
  } else if (isSection(zero)) {
    const section = rename(zero, zeroRenames, 'zero_optimization.', problems, notices)
    if ('cpu_offload_use_pin_memory' in section) {
      delete section.cpu_offload_use_pin_memory
      notices.push('zero_optimization.cpu_offload_use_pin_memory is deprecated and has no effect')
    }
    for (const key of bucketKeys) {
      const size = section[key]
      if (typeof size === 'number' && Number.isFinite(size) && !Number.isInteger(size)) {
        section[key] = Math.floor(size)
        notices.push(`zero_optimization.${key}: ${size} is taken as ${Math.floor(size)}`)
      }
    }
    // What stage 3 does unasked.
    if (section.stage === 3 && section.overlap_comm === true) delete section.overlap_comm
    root.zero_optimization = section
  }
  return { value: root, problems, notices }
}

function rename(
  given: Section,
  renames: readonly Rename[],
  prefix: string,
  problems: ConfigProblem[],
  notices: string[],
): Section {
  const section = { ...given }
  for (const { from, to, value, alias } of renames) {
    if (!(from in section)) continue
    const old = section[from]
    delete section[from]
    if (to in section) {
      problems.push({
        code: 'CONFIG_CONFLICT',
        key: `${prefix}${from}`,
        expected: `only ${prefix}${to}, which says the same`,
        got: `both (${show(old)} and ${show(section[to])})`,
      })
      continue
    }
    const now = value ? value(old) : old
    if (now !== undefined) section[to] = now
    if (!alias) notices.push(`${prefix}${from} is deprecated; use ${prefix}${to}`)
  }
  return section
}

const isSection = (value: unknown): value is Section =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
