// `optimizer` of the configuration: the parameters of each type, checked and put into the words of runtime/optim. "Adam" means AdamW
// unless `adam_w_mode` is false, and clipping has one place only, `gradient_clipping`.
import * as z from 'zod'
import { defaultOptimizer, type OptimizerSpec } from '../optim/optimizer.js'
import { type ConfigProblem, show, unknownName } from './error.js'
import { flag, number, results, section, tunes } from './fields.js'
import { type Inspection, inspect } from './inspect.js'

/** `optimizer` or `scheduler` as it was given. */
export interface Typed {
  readonly type?: string | null | undefined
  readonly params?: Record<string, unknown> | null | undefined
}

const beta = number(0).refine((value) => value < 1, { error: 'a number >= 0 and below 1' })

const adamParams = section({
  lr: number(0).optional(),
  betas: z.tuple([beta, beta], { error: 'two numbers, each >= 0 and below 1' }).optional(),
  eps: number(0).optional(),
  weight_decay: number(0).optional(),
  bias_correction: flag.optional(),
  adam_w_mode: flag.optional(),
  /** The name that torchao's optimizers have for it. */
  bf16_stochastic_round: flag.optional(),
  amsgrad: results(flag, false),
  torch_adam: tunes(flag, false),
  fp32_optimizer_states: results(flag, true),
})

const sgdParams = section({
  lr: number(0).optional(),
  momentum: number(0).optional(),
  dampening: number().optional(),
  nesterov: flag.optional(),
  weight_decay: number(0).optional(),
})

const laterOptimizers = [
  'Adagrad',
  'Lamb',
  'Lion',
  'Muon',
  'OneBitAdam',
  'OneBitLamb',
  'ZeroOneAdam',
  'MuAdam',
  'MuAdamW',
  'MuSGD',
]

/** The optimizer that a configuration names, or AdamW at learning rate 1e-3. "Adam" decouples weight decay unless `adam_w_mode` is false. */
export function resolveOptimizer(given: Typed | null | undefined): Inspection<OptimizerSpec> {
  if (!given) return { value: defaultOptimizer, problems: [], notices: [] }
  const { type } = given
  const params = { ...given.params }
  const problems: ConfigProblem[] = []
  if ('max_grad_norm' in params) {
    problems.push({
      code: 'CONFIG_CONFLICT',
      key: 'optimizer.params.max_grad_norm',
      expected: 'the top-level key gradient_clipping instead',
      got: show(params.max_grad_norm),
    })
    delete params.max_grad_norm
  }
  const part = optimizerPart(type, params)
  return problems.length === 0 ? part : { problems: [...problems, ...part.problems], notices: part.notices }
}

function optimizerPart(type: string | null | undefined, params: Record<string, unknown>): Inspection<OptimizerSpec> {
  const known = ['Adam', 'AdamW', 'SGD']
  const name = type?.toLowerCase()
  if (name === 'adam' || name === 'adamw') {
    const { value, problems, notices } = inspect(adamParams, params, ['optimizer', 'params'])
    if (!value) return { problems, notices }
    if (name === 'adamw' && value.adam_w_mode === false) {
      return {
        problems: [conflict('adam_w_mode', 'true with type AdamW (type Adam decays by the gradient)', false)],
        notices,
      }
    }
    const spec: OptimizerSpec = {
      kind: 'adam',
      decoupled: value.adam_w_mode ?? true,
      lr: value.lr ?? defaultOptimizer.lr,
      betas: value.betas ?? defaultOptimizer.betas,
      eps: value.eps ?? defaultOptimizer.eps,
      weightDecay: value.weight_decay ?? defaultOptimizer.weightDecay,
      biasCorrection: value.bias_correction ?? defaultOptimizer.biasCorrection,
      stochasticRounding: value.bf16_stochastic_round ?? defaultOptimizer.stochasticRounding,
    }
    return { value: spec, problems, notices }
  }
  if (name === 'sgd') {
    const { value, problems, notices } = inspect(sgdParams, params, ['optimizer', 'params'])
    if (!value) return { problems, notices }
    const spec: OptimizerSpec = {
      kind: 'sgd',
      lr: value.lr ?? 1e-3,
      momentum: value.momentum ?? 0,
      dampening: value.dampening ?? 0,
      nesterov: value.nesterov ?? false,
      weightDecay: value.weight_decay ?? 0,
    }
    if (spec.nesterov && (spec.momentum === 0 || spec.dampening !== 0)) {
      const got = `momentum ${spec.momentum}, dampening ${spec.dampening}`
      return { problems: [conflict('nesterov', 'false, or momentum above 0 with dampening 0', got)], notices }
    }
    return { value: spec, problems, notices }
  }
  const later = laterOptimizers.find((optimizer) => optimizer.toLowerCase() === name)
  const problem: ConfigProblem = later
    ? {
        code: 'CONFIG_UNSUPPORTED',
        key: 'optimizer.type',
        expected: `one of ${known.join(', ')} (${later} is not supported yet)`,
        got: show(type),
      }
    : typeName('optimizer.type', 'an optimizer', type, [...known, ...laterOptimizers])
  return { problems: [problem], notices: [] }
}

/** The problem of a `type` that is not there or not known. */
export function typeName(
  key: string,
  what: string,
  type: string | null | undefined,
  known: readonly string[],
): ConfigProblem {
  if (type) return unknownName(key, what, type, known)
  return { code: 'CONFIG_VALUE', key, expected: `one of ${known.join(', ')}`, got: show(type) }
}

const conflict = (name: string, expected: string, got: unknown): ConfigProblem => ({
  code: 'CONFIG_CONFLICT',
  key: `optimizer.params.${name}`,
  expected,
  got: typeof got === 'string' ? got : show(got),
})
