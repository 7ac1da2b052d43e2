// The run-time scalars of one step: everything that varies from step to step, by the names that programs read them under.
import { optimizerScalars } from '../../runtime/optim/index.js'
import type { Prepared } from './prepare.js'

/** Scalars of step `step` (from 1) after `applied` optimizer steps, and the learning rate of the first parameter group. */
export function stepScalars(
  { config, groups, schedule }: Prepared,
  step: number,
  applied: number,
  seed: number,
  lossScale: number,
): { readonly lr: number; readonly scalars: Readonly<Record<string, number>> } {
  const { lr, ...betas } = schedule.at(applied)
  const scalars: Record<string, number> = { seed, step, loss_scale: lossScale }
  groups.forEach((_, g) => {
    const roles = optimizerScalars(config.optimizer, applied + 1, { ...betas, lr: lr[g]! })
    for (const [role, value] of Object.entries(roles)) scalars[`${role}.${g}`] = value
  })
  return { lr: lr[0]!, scalars }
}
