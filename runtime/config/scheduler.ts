// `scheduler` of the configuration: the parameters of each of the five schedules with DeepSpeed's defaults, checked and put into the
// words of runtime/optim.
import * as z from 'zod'
import type { OptimizerSpec } from '../optim/optimizer.js'
import type { PerGroup, ScheduleSpec } from '../optim/schedule.js'
import { show } from './error.js'
import { flag, integer, list, number, section, text } from './fields.js'
import { type Inspection, inspect } from './inspect.js'
import { type Typed, typeName } from './optimizer.js'

const rate: z.ZodType<PerGroup> = z.union([number(0), list(number(0))], {
  error: 'a number >= 0, or a list of them with one for each parameter group',
})

const warmupParams = {
  warmup_min_lr: rate.optional(),
  warmup_max_lr: rate.nullish(),
  warmup_num_steps: integer(1).optional(),
  warmup_type: text.optional(),
}

const rangeTest = section({
  lr_range_test_min_lr: rate.optional(),
  lr_range_test_step_size: integer(1).optional(),
  lr_range_test_step_rate: number(0).optional(),
  lr_range_test_staircase: flag.optional(),
})

const oneCycle = section({
  cycle_min_lr: rate,
  cycle_max_lr: rate,
  decay_lr_rate: number(0).optional(),
  cycle_first_step_size: integer(1).optional(),
  cycle_second_step_size: integer().nullish(),
  cycle_first_stair_count: integer().optional(),
  cycle_second_stair_count: integer().nullish(),
  decay_step_size: integer().optional(),
  cycle_momentum: flag.optional(),
  cycle_min_mom: number(0, 1).optional(),
  cycle_max_mom: number(0, 1).optional(),
  decay_mom_rate: number(0).optional(),
})

const warmup = section(warmupParams)
const warmupDecay = section({ ...warmupParams, total_num_steps: integer(1) })
const warmupCosine = section({
  total_num_steps: integer(1),
  warmup_min_ratio: number(0).optional(),
  warmup_num_steps: integer(1).optional(),
  cos_min_ratio: number(0).optional(),
  warmup_type: text.optional(),
})

const scheduleNames = ['LRRangeTest', 'OneCycle', 'WarmupLR', 'WarmupDecayLR', 'WarmupCosineLR'] as const
const scheduleKey = ['scheduler', 'params']

/** The schedule that a configuration names; null for a constant learning rate. `optimizer` decides whether OneCycle can move betas. */
export function resolveScheduler(
  given: Typed | null | undefined,
  optimizer: OptimizerSpec | undefined,
): Inspection<ScheduleSpec | null> {
  if (!given) return { value: null, problems: [], notices: [] }
  const params = given.params ?? {}
  const type = scheduleNames.find((name) => name.toLowerCase() === given.type?.toLowerCase())
  switch (type) {
    case 'LRRangeTest':
      return convert(inspect(rangeTest, params, scheduleKey), (p) => ({
        type,
        minLr: p.lr_range_test_min_lr ?? 1e-3,
        stepSize: p.lr_range_test_step_size ?? 2000,
        stepRate: p.lr_range_test_step_rate ?? 1,
        staircase: p.lr_range_test_staircase ?? false,
      }))
    case 'OneCycle':
      return convert(inspect(oneCycle, params, scheduleKey), (p, notices) => {
        const first = p.cycle_first_step_size ?? 2000
        const momentum = p.cycle_momentum ?? true
        if (momentum && optimizer?.kind === 'sgd') {
          notices.push('scheduler.params.cycle_momentum: SGD has no betas; the cycle moves the learning rate only')
        } else if (momentum && optimizer?.kind === 'adam' && optimizer.betas[1] !== 0.99) {
          notices.push(
            `scheduler.params.cycle_momentum: beta2 is 0.99 during the cycle, not ${optimizer.betas[1]}, as in DeepSpeed`,
          )
        }
        return {
          type,
          minLr: p.cycle_min_lr,
          maxLr: p.cycle_max_lr,
          decayLrRate: p.decay_lr_rate ?? 0,
          firstSteps: first,
          secondSteps: p.cycle_second_step_size ?? first,
          firstStairs: p.cycle_first_stair_count ?? 0,
          secondStairs: p.cycle_second_stair_count ?? p.cycle_first_stair_count ?? 0,
          decaySteps: p.decay_step_size ?? 0,
          momentum: momentum
            ? { min: p.cycle_min_mom ?? 0.8, max: p.cycle_max_mom ?? 0.9, decayRate: p.decay_mom_rate ?? 0 }
            : null,
        }
      })
    case 'WarmupLR':
      return convert(inspect(warmup, params, scheduleKey), (p, notices) => ({
        type,
        minLr: p.warmup_min_lr ?? 0,
        maxLr: p.warmup_max_lr ?? null,
        warmupSteps: p.warmup_num_steps ?? 1000,
        warmup: warmupKind(p.warmup_type, notices),
      }))
    case 'WarmupDecayLR':
      return convert(inspect(warmupDecay, params, scheduleKey), (p, notices) => ({
        type,
        minLr: p.warmup_min_lr ?? 0,
        maxLr: p.warmup_max_lr === undefined ? 1e-3 : p.warmup_max_lr,
        warmupSteps: p.warmup_num_steps ?? 1000,
        warmup: warmupKind(p.warmup_type, notices),
        totalSteps: total(p.total_num_steps, p.warmup_num_steps ?? 1000, notices),
      }))
    case 'WarmupCosineLR':
      return convert(inspect(warmupCosine, params, scheduleKey), (p, notices) => ({
        type,
        totalSteps: total(p.total_num_steps, p.warmup_num_steps ?? 1000, notices),
        minRatio: p.warmup_min_ratio ?? 0,
        warmupSteps: p.warmup_num_steps ?? 1000,
        warmup: warmupKind(p.warmup_type, notices),
        cosineMinRatio: p.cos_min_ratio ?? 1e-4,
      }))
    case undefined:
      return { problems: [typeName('scheduler.type', 'a schedule', given.type, scheduleNames)], notices: [] }
  }
}

function convert<P>(
  part: Inspection<P>,
  build: (params: P, notices: string[]) => ScheduleSpec,
): Inspection<ScheduleSpec> {
  const notices = [...part.notices]
  if (part.value === undefined) return { problems: part.problems, notices }
  return { value: build(part.value, notices), problems: part.problems, notices }
}

function warmupKind(type: string | undefined, notices: string[]): 'log' | 'linear' {
  if (type !== undefined && type !== 'log' && type !== 'linear') {
    notices.push(`scheduler.params.warmup_type: ${show(type)} is neither log nor linear; log is used, as in DeepSpeed`)
  }
  return type === 'linear' ? 'linear' : 'log'
}

function total(steps: number, warmupSteps: number, notices: string[]): number {
  if (steps < warmupSteps) {
    notices.push(`scheduler.params.total_num_steps: ${steps} steps end before the warmup of ${warmupSteps}`)
  }
  return steps
}
