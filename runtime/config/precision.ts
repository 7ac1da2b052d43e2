// Precision in the configuration: `bf16`, `fp16`, `torch_autocast`, `data_types` and `communication_data_type`, and what the compiler
// and the engine read of them. Weights and activations take the lower dtype, master weights and optimizer states stay fp32.
import type * as z from 'zod'
import { type LossScaleSpec, maxLossScale, noLossScale } from '../optim/loss-scale.js'
import type { ConfigProblem } from './error.js'
import {
  anything,
  because,
  choice,
  flag,
  integer,
  list,
  number,
  open,
  results,
  section,
  text,
  tunes,
} from './fields.js'
import type { Inspection } from './inspect.js'

/** Float formats as the configuration spells them. */
const dtype = choice('fp32', 'fp16', 'bf16')
const dtypeOf = { fp32: 'f32', fp16: 'f16', bf16: 'bf16' } as const
export type FloatDType = (typeof dtypeOf)[keyof typeof dtypeOf]

const sixteen = 'masters and optimizer states in 16 bits are not built yet'

export const communicationDtype = dtype

export const precisionSections = {
  fp16: section({
    enabled: flag.optional(),
    auto_cast: flag.optional(),
    loss_scale: number(0).optional(),
    initial_scale_power: integer(0, Math.log2(maxLossScale)).optional(),
    loss_scale_window: integer(1).optional(),
    hysteresis: integer(1).optional(),
    consecutive_hysteresis: flag.optional(),
    min_loss_scale: number()
      .refine((value) => value > 0, { error: 'a number above 0' })
      .optional(),
    fp16_master_weights_and_grads: because(results(flag, false), sixteen),
  }).optional(),
  bf16: section({
    enabled: flag.optional(),
    immediate_grad_update: because(
      tunes(flag, false),
      'gradients are added to the accumulator as the backward makes them',
    ),
    check_grad_overflow: flag.optional(),
    bf16_master_weights_and_grads: because(
      results(flag, false),
      `${sixteen}; AdamW with bf16_stochastic_round does without masters`,
    ),
    bf16_optimizer_states: because(results(flag, false), sixteen),
  }).optional(),
  amp: because(
    results(open(anything).nullable(), null, {}),
    'it is the interface of a PyTorch extension; use bf16, fp16 or torch_autocast',
  ),
  torch_autocast: section({
    enabled: flag.optional(),
    dtype: choice('bfloat16', 'float16').optional(),
    lower_precision_safe_modules: list(text).nullish(),
  }).nullish(),
  data_types: section({
    grad_accum_dtype: dtype.nullish(),
    param_dtype: dtype.nullish(),
    buffer_dtype: dtype.nullish(),
  }).optional(),
}

type Sections = { readonly [K in keyof typeof precisionSections]?: z.output<(typeof precisionSections)[K]> | undefined }

/** What the compiler and the engine read. */
export interface PrecisionConfig {
  /** Weights and activations. */
  readonly dtype: FloatDType
  /** Gradients of one micro-batch, as they are made and sent to their owner. */
  readonly gradients: FloatDType
  /** The accumulator of gradients. */
  readonly accumulation: FloatDType
  readonly lossScale: LossScaleSpec
  /** A step whose gradients are not finite is skipped; else it ends the run. */
  readonly skipsOverflow: boolean
  /** torch_autocast: classes of modules that compute in `dtype`, everything else in fp32. null: everything in `dtype`. */
  readonly autocast: readonly string[] | null
}

/** PyTorch's autocast list, as far as there are modules of these names. */
const safeModules = ['torch.nn.modules.linear.Linear', 'torch.nn.modules.conv.Conv2d']

const conflict = (key: string, expected: string, got: string): ConfigProblem => ({
  code: 'CONFIG_CONFLICT',
  key,
  expected,
  got,
})

/**
 * Settles the dtypes of a run. `communication` is `communication_data_type`. Defaults: gradients are made and sent in the model's dtype
 * and added up in fp32, in every ZeRO stage, so that stages agree in every bit.
 */
export function resolvePrecision(
  given: Sections,
  communication: keyof typeof dtypeOf | null | undefined,
): Inspection<PrecisionConfig> {
  const { fp16 = {}, bf16 = {}, data_types: types = {} } = given
  const autocast = given.torch_autocast?.enabled ? given.torch_autocast : null
  const problems: ConfigProblem[] = []
  const notices: string[] = []
  const chosen = [
    ...(fp16.enabled ? ['fp16.enabled'] : []),
    ...(bf16.enabled ? ['bf16.enabled'] : []),
    ...(autocast ? ['torch_autocast.enabled'] : []),
  ]
  if (chosen.length > 1)
    problems.push(conflict(chosen.join(' and '), 'at most one of them true', chosen.length > 2 ? 'all' : 'both'))
  const half = fp16.enabled || autocast?.dtype === 'float16'
  const dtype: FloatDType = half ? 'f16' : bf16.enabled || autocast ? 'bf16' : 'f32'
  const name = { f32: 'fp32', f16: 'fp16', bf16: 'bf16' }[dtype]
  for (const key of ['param_dtype', 'buffer_dtype'] as const) {
    const value = types[key]
    if (value && value !== (autocast ? 'fp32' : name)) {
      problems.push(
        conflict(`data_types.${key}`, `${autocast ? 'fp32' : name}, the dtype that fp16 and bf16 choose`, value),
      )
    }
  }
  const others = { gradients: communication, accumulation: types.grad_accum_dtype }
  for (const [role, value] of Object.entries(others)) {
    if (!value || value === 'fp32' || value === name) continue
    const key = role === 'gradients' ? 'communication_data_type' : 'data_types.grad_accum_dtype'
    problems.push(conflict(key, name === 'fp32' ? 'fp32 in an fp32 run' : `fp32 or ${name} in a run in ${name}`, value))
  }
  if (fp16.auto_cast) notices.push('fp16.auto_cast: the inputs are token ids; there is nothing to cast')
  return {
    value: {
      dtype,
      gradients: communication ? dtypeOf[communication] : dtype,
      accumulation: types.grad_accum_dtype ? dtypeOf[types.grad_accum_dtype] : 'f32',
      lossScale: half ? lossScale(fp16) : noLossScale,
      skipsOverflow: dtype === 'f16' || (dtype === 'bf16' && (bf16.check_grad_overflow ?? true)),
      autocast: autocast ? (autocast.lower_precision_safe_modules ?? safeModules).map(className) : null,
    },
    problems,
    notices,
  }
}

/** `torch.nn.Linear` names the module class `Linear`. */
const className = (path: string): string => path.slice(path.lastIndexOf('.') + 1)

function lossScale(fp16: NonNullable<Sections['fp16']>): LossScaleSpec {
  const fixed = fp16.loss_scale ?? 0
  return {
    dynamic: fixed === 0,
    initial: fixed || 2 ** (fp16.initial_scale_power ?? 16),
    window: fp16.loss_scale_window ?? 1000,
    hysteresis: fp16.hysteresis ?? 2,
    consecutiveHysteresis: fp16.consecutive_hysteresis ?? false,
    min: fp16.min_loss_scale ?? 1,
  }
}
