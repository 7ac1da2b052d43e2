// The DeepSpeed configuration as one zod schema: every known key (../optim holds what optimizers and schedules mean). Acting keys
// are plain; all others carry a mark from fields.ts or detail a marked one.
import type * as z from 'zod'
import { memorySections, monitorSections, parallelSections } from './features.js'
import { anything, choice, flag, integer, number, open, results, section, text, tunes } from './fields.js'
import { communicationDtype, precisionSections } from './precision.js'
import { techniqueSections } from './techniques.js'
import { zeroSection } from './zero.js'

export const configSchema = section({
  train_batch_size: integer(1).nullish(),
  train_micro_batch_size_per_gpu: integer(1).nullish(),
  gradient_accumulation_steps: integer(1).nullish(),
  optimizer: section({
    type: text.nullish(),
    params: open(anything).nullish(),
    legacy_fusion: tunes(flag, false),
  }).nullish(),
  scheduler: section({ type: text.nullish(), params: open(anything).nullish() }).nullish(),
  gradient_clipping: number(0).optional(),
  zero_optimization: zeroSection.optional(),
  steps_per_print: integer(1).nullish(),
  wall_clock_breakdown: flag.optional(),

  managed_gradient_accumulation: results(flag, true),
  dataloader_drop_last: results(flag, false),
  disable_allgather: results(flag, false),
  data_parallel_size: results(integer(1).nullable(), null),
  sequence_parallel_size: results(integer(1).nullable(), null, 1),
  communication_data_type: communicationDtype.nullish(),
  seq_parallel_communication_data_type: results(communicationDtype, 'fp32'),
  prescale_gradients: results(flag, false),
  gradient_predivide_factor: results(number(), 1),
  gradient_allreduce_op: results(choice('mean', 'sum'), 'mean'),
  sparse_gradients: results(flag, false),

  dump_state: tunes(flag, false),
  memory_breakdown: tunes(flag, false),
  log_level: tunes(text.nullable(), null),
  vocabulary_size: tunes(integer(1).nullable(), null),
  graph_harvesting: tunes(flag, false),
  use_data_before_expert_parallelism: tunes(flag, false),
  zero_allow_untested_optimizer: tunes(flag, false),
  zero_force_ds_cpu_optimizer: tunes(flag, true),
  timers: section({
    throughput: section({ enabled: tunes(flag, true), synchronized: tunes(flag, true) }).optional(),
  }).optional(),

  ...precisionSections,
  ...parallelSections,
  ...memorySections,
  ...monitorSections,
  ...techniqueSections,

  /** Never read: room for a file's own remarks and for other programs. */
  custom: anything.optional(),
})

/** A DeepSpeed configuration as users write it. */
export type DeepSpeedConfig = z.input<typeof configSchema>
