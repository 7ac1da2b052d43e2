// What an optimizer is told once (its specification) and at each step (its scalars). The update itself is the op of the same name
// in kernels/ops/optimizer.ts; these are the numbers for its attributes and its scalar slots, computed in float64.

/** Adam (arXiv 1412.6980), with decay on the gradient, or AdamW (arXiv 1711.05101), with decay on the parameter (`decoupled`). */
export interface AdamSpec {
  readonly kind: 'adam'
  readonly decoupled: boolean
  readonly lr: number
  readonly betas: readonly [number, number]
  readonly eps: number
  readonly weightDecay: number
  readonly biasCorrection: boolean
  /** Weights in bf16 are updated as they are, without fp32 masters, and rounded stochastically (arXiv 2010.06192). */
  readonly stochasticRounding: boolean
}

/** SGD as PyTorch defines it. */
export interface SgdSpec {
  readonly kind: 'sgd'
  readonly lr: number
  readonly momentum: number
  readonly dampening: number
  readonly nesterov: boolean
  readonly weightDecay: number
}

export type OptimizerSpec = AdamSpec | SgdSpec

/** The optimizer of a configuration that names none: AdamW at learning rate 1e-3 without weight decay. */
export const defaultOptimizer: AdamSpec = {
  kind: 'adam',
  decoupled: true,
  lr: 1e-3,
  betas: [0.9, 0.999],
  eps: 1e-8,
  weightDecay: 0,
  biasCorrection: true,
  stochasticRounding: false,
}

/** Scalars of the `adam` op. */
export interface AdamScalars {
  readonly learning_rate: number
  readonly beta1: number
  readonly beta2: number
  /** 1 - beta1^t, or 1 without bias correction. */
  readonly correction1: number
  readonly correction2: number
}

/** Scalars of the `sgd` op. */
export interface SgdScalars {
  readonly learning_rate: number
  /** 1 at the first step, when the momentum buffer takes the gradient as it is; else 0. */
  readonly first: number
}

export type OptimizerScalars<S extends OptimizerSpec = OptimizerSpec> = S extends AdamSpec ? AdamScalars : SgdScalars

/** What a schedule may change from step to step. */
export interface StepSettings {
  readonly lr: number
  readonly beta1?: number
  readonly beta2?: number
}

/**
 * The scalars of optimizer step `step` (the first is 1; skipped steps do not count). Powers are computed from `step` alone, so a
 * resumed run has the same numbers. Betas are the specification's unless the schedule moves them.
 */
export function optimizerScalars<S extends OptimizerSpec>(
  spec: S,
  step: number,
  settings: StepSettings,
): OptimizerScalars<S>
export function optimizerScalars(spec: OptimizerSpec, step: number, settings: StepSettings): OptimizerScalars {
  if (spec.kind === 'sgd') return { learning_rate: settings.lr, first: step === 1 ? 1 : 0 }
  const { beta1 = spec.betas[0], beta2 = spec.betas[1] } = settings
  return {
    learning_rate: settings.lr,
    beta1,
    beta2,
    correction1: spec.biasCorrection ? 1 - beta1 ** step : 1,
    correction2: spec.biasCorrection ? 1 - beta2 ** step : 1,
  }
}
