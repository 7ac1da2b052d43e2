// The run-time scalars of one step: everything that varies from step to step, by the names that programs read them under.
import { optimizerScalars } from '../../runtime/optim/index.js'
import type { Prepared } from './prepare.js'
import type { RunProgress } from './run-state.js'

/** What the ranks' programs go on from (`state` in kernels/ops/step.ts). */
export const stepStateOf = ({ applied, scaler }: Pick<RunProgress, 'applied' | 'scaler'>): number[] => {
  const { scale, iteration, lastOverflow, hysteresis } = scaler
  return [scale, iteration, lastOverflow, hysteresis, applied, 0, 0, 0]
}

/**
 * Scalars of step `step` (from 1), asked for when the run stood at `progress`: with the step right behind it, or one more on the way. In
 * that case one update more may have been made by then, or none if the step on the way is skipped, so there are two candidates.
 */
export function stepScalars(
  { config, groups, schedule }: Prepared,
  step: number,
  { step: done, applied, seed }: RunProgress,
): Readonly<Record<string, number>> {
  const scalars: Record<string, number> = { seed, step, taken: applied, follows: step === done + 1 ? 0 : 1 }
  for (const [candidate, suffix] of ['', '_next'].entries()) {
    const { lr, ...betas } = schedule.at(applied + candidate)
    groups.forEach((_, g) => {
      const roles = optimizerScalars(config.optimizer, applied + candidate + 1, { ...betas, lr: lr[g]! })
      for (const [role, value] of Object.entries(roles)) scalars[`${role}${suffix}.${g}`] = value
    })
  }
  return scalars
}
