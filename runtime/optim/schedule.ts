// The five learning-rate schedules of DeepSpeed as pure functions of the number of optimizer steps already applied, so that a
// resumed run needs nothing stored. Formulas and their quirks are DeepSpeed's, because users' curves depend on them: the start value
// serves before the first update (t = -1) and t = 0 before the second, so with warmup from 0 the first two updates use the start.
import { OptimError } from './error.js'
import type { OptimizerSpec } from './optimizer.js'

/** One value for all parameter groups, or one for each. */
export type PerGroup = number | readonly number[]

interface WarmupSpec {
  readonly minLr: PerGroup
  /** null: each group's own learning rate. */
  readonly maxLr: PerGroup | null
  readonly warmupSteps: number
  readonly warmup: 'log' | 'linear'
}

export type ScheduleSpec =
  | {
      readonly type: 'LRRangeTest'
      readonly minLr: PerGroup
      readonly stepSize: number
      readonly stepRate: number
      readonly staircase: boolean
    }
  | {
      readonly type: 'OneCycle'
      readonly minLr: PerGroup
      readonly maxLr: PerGroup
      readonly decayLrRate: number
      readonly firstSteps: number
      readonly secondSteps: number
      readonly firstStairs: number
      readonly secondStairs: number
      readonly decaySteps: number
      /** null: beta1 stays as configured. Else beta1 moves against the learning rate and beta2 is 0.99, as in DeepSpeed. */
      readonly momentum: { readonly min: number; readonly max: number; readonly decayRate: number } | null
    }
  | ({ readonly type: 'WarmupLR' } & WarmupSpec)
  | ({ readonly type: 'WarmupDecayLR'; readonly totalSteps: number } & WarmupSpec)
  | {
      readonly type: 'WarmupCosineLR'
      readonly totalSteps: number
      readonly minRatio: number
      readonly warmupSteps: number
      readonly warmup: 'log' | 'linear'
      readonly cosineMinRatio: number
    }

/** What the next update uses; `lr` has one entry for each parameter group. */
export interface ScheduledStep {
  readonly lr: readonly number[]
  readonly beta1?: number
  readonly beta2?: number
}

export interface Schedule {
  /** Settings of the update that follows `appliedSteps` applied ones (0: the first). Steps skipped for overflow do not count. */
  at(appliedSteps: number): ScheduledStep
}

/** OneCycle's beta2 while it moves beta1. */
const cycleBeta2 = 0.99

/**
 * The schedule for parameter groups with the given learning rates; null keeps them constant. Throws {@link OptimError} where a list
 * of the schedule does not have one entry for each group.
 */
export function createSchedule(
  spec: ScheduleSpec | null,
  baseLrs: readonly number[],
  optimizer: OptimizerSpec['kind'] = 'adam',
): Schedule {
  if (!spec) return { at: () => ({ lr: baseLrs }) }
  const spread = (key: string, value: PerGroup): readonly number[] => {
    if (typeof value === 'number') return baseLrs.map(() => value)
    if (value.length === baseLrs.length) return value
    const details = {
      key,
      expected: `one value for each of the ${baseLrs.length} parameter groups`,
      got: `${value.length} values`,
    }
    throw new OptimError('OPTIM_SCHEDULE', spec.type, details)
  }
  const between = (low: readonly number[], high: readonly number[], share: number): number[] =>
    low.map((min, i) => min + (high[i]! - min) * share)

  switch (spec.type) {
    case 'LRRangeTest': {
      const min = spread('lr_range_test_min_lr', spec.minLr)
      return {
        at: (applied) => {
          const x = applied / spec.stepSize
          const factor = 1 + spec.stepRate * (spec.staircase ? Math.floor(x) : x)
          return { lr: min.map((lr) => lr * factor) }
        },
      }
    }
    case 'OneCycle': {
      const min = spread('cycle_min_lr', spec.minLr)
      const max = spread('cycle_max_lr', spec.maxLr)
      const total = spec.firstSteps + spec.secondSteps
      const momentum = optimizer === 'adam' ? spec.momentum : null
      const betas = (beta1: number): object => (momentum ? { beta1, beta2: cycleBeta2 } : {})
      return {
        at: (applied) => {
          const t = applied - 1
          // DeepSpeed's constructor writes the lower momentum here, though the cycle starts at the upper one.
          if (t < 0) return { lr: min, ...betas(momentum?.min ?? 0) }
          if (t < total) {
            const share = cycleShare(applied, spec)
            return {
              lr: between(min, max, share),
              ...betas(momentum ? momentum.max - (momentum.max - momentum.min) * share : 0),
            }
          }
          const decay = spec.decaySteps > 0 ? (t - total + 1) / spec.decaySteps : 0
          return {
            lr: min.map((lr) => lr / (1 + spec.decayLrRate * decay)),
            ...betas(momentum ? momentum.max * (1 + momentum.decayRate * decay) : 0),
          }
        },
      }
    }
    case 'WarmupLR':
    case 'WarmupDecayLR': {
      const min = spread('warmup_min_lr', spec.minLr)
      const max = spec.maxLr === null ? baseLrs : spread('warmup_max_lr', spec.maxLr)
      const warm = Math.max(2, spec.warmupSteps)
      return {
        at: (applied) => {
          const t = applied - 1
          if (t < 0) return { lr: min }
          if (t < warm) return { lr: between(min, max, warmupShare(t, warm, spec.warmup)) }
          if (spec.type === 'WarmupLR') return { lr: max }
          const share = Math.max(0, (spec.totalSteps - t) / Math.max(1, spec.totalSteps - warm))
          return { lr: between(min, max, share) }
        },
      }
    }
    case 'WarmupCosineLR': {
      const warm = Math.max(2, spec.warmupSteps)
      return {
        at: (applied) => {
          const ratio = cosineRatio(applied - 1, warm, spec)
          return { lr: baseLrs.map((lr) => lr * ratio) }
        },
      }
    }
  }
}

/** ln(t + 1) / ln(N) or t / N: 0 at t = 0. */
function warmupShare(t: number, steps: number, kind: 'log' | 'linear'): number {
  return kind === 'log' ? Math.log(t + 1) / Math.log(steps) : t / steps
}

function cosineRatio(t: number, warm: number, spec: ScheduleSpec & { readonly type: 'WarmupCosineLR' }): number {
  if (t < 0) return 0
  if (t < warm) return spec.minRatio + (1 - spec.minRatio) * warmupShare(t, warm, spec.warmup)
  const progress = Math.min(1, (t - warm + 1) / Math.max(1, spec.totalSteps - warm))
  return spec.cosineMinRatio + ((1 - spec.cosineMinRatio) * (1 + Math.cos(Math.PI * progress))) / 2
}

/** Height in the triangle of n steps: 0 at the foot, 1 at the top; in stairs where a half has any. */
function cycleShare(n: number, spec: ScheduleSpec & { readonly type: 'OneCycle' }): number {
  const total = spec.firstSteps + spec.secondSteps
  const ratio = spec.firstSteps / total
  const x = 1 + n / total - Math.floor(1 + n / total)
  if (x <= ratio) {
    if (spec.firstStairs === 0) return x / ratio
    return Math.floor(((n % total) * spec.firstStairs) / spec.firstSteps) / spec.firstStairs
  }
  if (spec.secondStairs === 0) return (x - 1) / (ratio - 1)
  return Math.floor(((total - (n % total)) * spec.secondStairs) / spec.secondSteps) / spec.secondStairs
}
