// The `zero_optimization` section: the keys of zero.md 13 with their defaults, and the settings that the planner reads.
import type * as z from 'zod'
import { because, choice, flag, integer, list, number, results, section, text, tunes } from './fields.js'

export const zeroSection = section({
  stage: integer(0, 3).optional(),
  reduce_bucket_size: integer().optional(),
  allgather_bucket_size: integer().optional(),
  stage3_prefetch_bucket_size: integer().optional(),
  stage3_param_persistence_threshold: integer().optional(),
  stage3_model_persistence_threshold: integer().optional(),
  stage3_max_live_parameters: integer().optional(),
  stage3_max_reuse_distance: integer().optional(),
  stage3_gather_16bit_weights_on_model_save: flag.optional(),
  contiguous_gradients: tunes(flag, true),
  reduce_scatter: tunes(flag, true),
  allgather_partitions: tunes(flag, true),
  overlap_comm: tunes(flag.nullable(), null, false),
  use_multi_rank_bucket_allreduce: tunes(flag, true),
  load_from_fp32_weights: tunes(flag, true),
  elastic_checkpoint: tunes(flag, false),
  sub_group_size: tunes(integer(), 1e9),
  ignore_unused_parameters: tunes(flag, true),
  legacy_stage1: tunes(flag, false),
  round_robin_gradients: tunes(flag, false),
  stage3_module_granularity_threshold: tunes(integer(), 0),
  stage3_use_all_reduce_for_fetch_params: tunes(flag, false),
  stage3_allgather_sequential: tunes(flag, false),
  memory_efficient_linear: tunes(flag, true),
  override_module_apply: tunes(flag, true),
  pipeline_loading_checkpoint: tunes(flag, false),
  log_trace_cache_warnings: tunes(flag, false),
  enable_sanity_checks: tunes(flag, false),
  save_muon_momentum_buffer_in_memory: tunes(flag, false),
  leaf_module: tunes(
    section({
      classes: list(text).optional(),
      names: list(text).optional(),
      name_suffixes: list(text).optional(),
    }).nullable(),
    null,
  ),
  zero_hpz_partition_size: tunes(integer(1), 1),
  zero_quantized_weights: results(flag, false),
  zero_quantized_nontrainable_weights: results(flag, false),
  zero_quantized_gradients: results(flag, false),
  zeropp_loco_param: results(
    section({ err_beta: number().optional(), reset_T: integer(1).optional() }).nullable(),
    null,
  ),
  mics_shard_size: results(integer(-1), -1),
  mics_hierarchical_params_gather: results(flag, false),
  offload_param: section({
    device: because(
      results(choice('none', 'cpu', 'nvme'), 'none'),
      'parameters stay where they are computed with; stage 3 shares them out among the ranks, offload_optimizer frees what the optimizer takes',
    ),
    nvme_path: text.nullish(),
    buffer_count: integer().optional(),
    buffer_size: integer().optional(),
    max_in_cpu: integer().optional(),
    pin_memory: flag.optional(),
  }).nullish(),
  offload_optimizer: section({
    device: because(results(choice('none', 'cpu', 'nvme'), 'none', 'cpu'), 'only the memory of the host is served'),
    nvme_path: text.nullish(),
    buffer_count: integer().optional(),
    pin_memory: because(tunes(flag, true), 'memory of the host that a GPU copies from and to is always pinned'),
    pipeline_read: flag.optional(),
    pipeline_write: flag.optional(),
    fast_init: flag.optional(),
    ratio: because(tunes(number(0, 1), 1), 'all of the optimizer goes to the host'),
    super_offload: tunes(flag, false),
    cpuadam_cores_perc: number(0, 1).optional(),
  }).nullish(),
  zenflow: results(
    section({
      topk_ratio: number(0, 1).optional(),
      select_strategy: choice('auto', 'step', 'epoch').optional(),
      select_interval: integer().or(choice('auto')).optional(),
      update_interval: integer().or(choice('auto')).optional(),
      overlap_step: flag.optional(),
      offload: flag.optional(),
      auto_ratio: number(0, 1).optional(),
      full_warm_up_rounds: integer().optional(),
      pt_reserved_cores_perc: number(0, 1).optional(),
      steps_per_epoch: integer(1).nullish(),
    }).nullable(),
    null,
  ),
})

/**
 * ZeRO as the planner reads it; sizes and distances in elements. The bucket sizes are null where the user left them open: then
 * the planner chooses them from the model.
 */
export interface ZeroConfig {
  readonly stage: 0 | 1 | 2 | 3
  readonly reduceBucketSize: number | null
  readonly allgatherBucketSize: number | null
  /** Stage 3: most elements gathered ahead of use; 0 gathers nothing ahead. */
  readonly prefetchBucketSize: number | null
  /** Stage 3: a parameter of at most this many elements stays gathered ... */
  readonly paramPersistenceThreshold: number
  /** ... while all that stay are together at most this many. */
  readonly modelPersistenceThreshold: number
  /** Stage 3: bound on gathered elements that prefetching respects. */
  readonly maxLiveParameters: number
  /** Stage 3: a parameter whose next use is at most this many elements away stays gathered. */
  readonly maxReuseDistance: number
  /** Stage 3: whether 16-bit weights may be gathered from all ranks to save the model. */
  readonly gather16bitWeightsOnModelSave: boolean
  /** Whether the optimizer's states lie, and are updated, in the memory of the host. */
  readonly offloadOptimizer: boolean
}

/** The section's settings, defaults filled in. */
export function zeroConfig(given: z.output<typeof zeroSection> = {}): ZeroConfig {
  return {
    stage: (given.stage ?? 0) as ZeroConfig['stage'],
    reduceBucketSize: given.reduce_bucket_size ?? null,
    allgatherBucketSize: given.allgather_bucket_size ?? null,
    prefetchBucketSize: given.stage3_prefetch_bucket_size ?? null,
    paramPersistenceThreshold: given.stage3_param_persistence_threshold ?? 1e5,
    modelPersistenceThreshold: given.stage3_model_persistence_threshold ?? Number.MAX_SAFE_INTEGER,
    maxLiveParameters: given.stage3_max_live_parameters ?? 1e9,
    maxReuseDistance: given.stage3_max_reuse_distance ?? 1e9,
    gather16bitWeightsOnModelSave: given.stage3_gather_16bit_weights_on_model_save ?? false,
    offloadOptimizer: given.offload_optimizer?.device === 'cpu',
  }
}
