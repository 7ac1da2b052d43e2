// Sections of training techniques that do not act yet: compression, curricula, layer dropping, elasticity, tuning. As in features.ts,
// only the switch of a technique is marked; the other keys detail it.
import { anything, choice, flag, integer, list, number, open, results, section, text, tunes } from './fields.js'

const names = list(text)

/** One technique of `compression_training`: shared settings and groups of modules with their own. */
const technique = <P extends Parameters<typeof section>[0], S extends Parameters<typeof section>[0]>(
  shared: S,
  params: P,
) =>
  section({
    shared_parameters: section({
      enabled: results(flag, false),
      schedule_offset: integer().optional(),
      ...shared,
    }).optional(),
    different_groups: open(
      section({
        params: section(params).optional(),
        modules: names.optional(),
        related_modules: list(names).nullish(),
      }),
    ).optional(),
  }).optional()

const pruning = { dense_ratio: number(0, 1).optional() }

const compression = section({
  layer_reduction: section({
    enabled: results(flag, false),
    keep_number_layer: integer(1).optional(),
    module_name_prefix: text.optional(),
    teacher_layer: list(integer()).optional(),
    other_module_name: names.optional(),
  }).optional(),
  weight_quantization: technique(
    {
      quantizer_kernel: flag.optional(),
      quantize_groups: integer(1).optional(),
      quantize_verbose: flag.optional(),
      quantization_type: choice('symmetric', 'asymmetric').optional(),
      quantize_weight_in_forward: flag.optional(),
      rounding: choice('nearest', 'stochastic').optional(),
      fp16_mixed_quantize: section({
        enabled: flag.optional(),
        quantize_change_ratio: number(0).optional(),
      }).optional(),
    },
    {
      start_bits: integer(1, 16).optional(),
      target_bits: integer(1, 16).optional(),
      quantization_period: integer().optional(),
    },
  ),
  activation_quantization: technique(
    {
      quantization_type: choice('symmetric', 'asymmetric').optional(),
      range_calibration: choice('dynamic', 'static').optional(),
    },
    { bits: integer(1, 16).optional() },
  ),
  sparse_pruning: technique(
    {
      method: choice('l1', 'topk', 'snip_momentum').optional(),
      schedule_offset_end: integer().optional(),
      schedule_offset_stride: integer(1).optional(),
      block_pattern: text.optional(),
      dense_ratio: number(0, 1).optional(),
      excluded_modules: names.optional(),
    },
    pruning,
  ),
  row_pruning: technique({ method: choice('l1', 'topk').optional() }, pruning),
  head_pruning: technique({ method: choice('l1', 'topk').optional(), num_heads: integer(1).optional() }, pruning),
  channel_pruning: technique({ method: choice('l1', 'topk').optional() }, pruning),
}).optional()

const curriculum = {
  enabled: results(flag, false),
  curriculum_type: text.optional(),
  min_difficulty: integer().optional(),
  max_difficulty: integer().optional(),
  schedule_type: choice('fixed_linear', 'fixed_root', 'fixed_discrete', 'custom').optional(),
  schedule_config: open(anything).optional(),
}

const dataEfficiency = section({
  enabled: results(flag, false),
  seed: integer().optional(),
  data_sampling: section({
    enabled: flag.optional(),
    num_epochs: integer(1).optional(),
    num_workers: integer().optional(),
    pin_memory: flag.optional(),
    curriculum_learning: section({
      enabled: flag.optional(),
      data_cluster_path: text.optional(),
      curriculum_metrics: open(
        section({
          index_to_sample_path: text.optional(),
          index_to_metric_path: text.optional(),
          difficulty_type: choice('value', 'percentile').optional(),
          clustering_type: choice('schedule_based', 'single_cluster').optional(),
          min_difficulty: number().optional(),
          max_difficulty: number().optional(),
          schedule_type: choice('fixed_linear', 'fixed_root', 'fixed_discrete', 'custom').optional(),
          schedule_config: open(anything).optional(),
        }),
      ).optional(),
    }).optional(),
    dynamic_batching: section({
      enabled: flag.optional(),
      metrics_path: text.optional(),
      lr_scaling_method: choice('linear', 'sqrt', 'none').optional(),
      min_batch_size: integer(1).optional(),
      max_batch_size: integer(1).nullish(),
      sequence_picking_order: choice('dataloader', 'random', 'seqlen').optional(),
      max_tokens: integer(1).optional(),
      verbose: flag.optional(),
    }).optional(),
  }).optional(),
  data_routing: section({
    enabled: flag.optional(),
    random_ltd: section({
      enabled: flag.optional(),
      total_layer_num: integer(1).optional(),
      random_ltd_layer_num: integer().optional(),
      random_ltd_layer_id: list(integer()).optional(),
      model_mask_name: text.nullish(),
      model_type: choice('encoder', 'decoder').optional(),
      hidden_state_order: text.optional(),
      random_ltd_schedule: section({
        min_value: integer().optional(),
        max_value: integer().optional(),
        schedule_type: text.optional(),
        schedule_config: open(anything).optional(),
      }).optional(),
      layer_token_lr_schedule: open(anything).optional(),
    }).optional(),
  }).optional(),
})

export const techniqueSections = {
  sparse_attention: results(
    section({
      mode: choice('dense', 'fixed', 'variable', 'bigbird', 'bslongformer').optional(),
      block: integer(1).optional(),
      different_layout_per_head: flag.optional(),
      num_local_blocks: integer(1).optional(),
      num_global_blocks: integer().optional(),
      attention: choice('bidirectional', 'unidirectional').optional(),
      horizontal_global_attention: flag.optional(),
      num_different_global_patterns: integer(1).optional(),
      num_random_blocks: integer().optional(),
      local_window_blocks: list(integer(1)).optional(),
      global_block_indices: list(integer()).optional(),
      global_block_end_indices: list(integer()).nullish(),
      num_sliding_window_blocks: integer(1).optional(),
    }).nullable(),
    null,
  ),
  progressive_layer_drop: section({
    enabled: results(flag, false),
    theta: number(0, 1).optional(),
    gamma: number(0).optional(),
  }).optional(),
  eigenvalue: section({
    enabled: results(flag, false),
    verbose: flag.optional(),
    max_iter: integer(1).optional(),
    tol: number(0).optional(),
    stability: number(0).optional(),
    gas_boundary_resolution: integer(1).optional(),
    layer_name: text.optional(),
    layer_num: integer().optional(),
  }).optional(),
  quantize_training: results(open(anything).nullable(), null),
  compression_training: compression,
  weight_quantization: results(
    section({
      quantized_initialization: open(anything).optional(),
      post_init_quant: open(anything).optional(),
    }).nullable(),
    null,
  ),
  curriculum_learning: section(curriculum).optional(),
  data_efficiency: dataEfficiency.optional(),
  elasticity: section({
    enabled: results(flag, false),
    max_train_batch_size: integer(1).optional(),
    micro_batch_sizes: list(integer(1)).optional(),
    min_gpus: integer(1).optional(),
    max_gpus: integer(1).optional(),
    min_time: number(0).optional(),
    prefer_larger_batch: flag.optional(),
    ignore_non_elastic_batch_info: flag.optional(),
    version: number(0).optional(),
    num_gpus_per_node: integer(1).optional(),
    model_parallel_size: integer(1).optional(),
  }).optional(),
  autotuning: section({
    enabled: tunes(flag, false),
    fast: flag.optional(),
    results_dir: text.optional(),
    exps_dir: text.optional(),
    overwrite: flag.optional(),
    start_profile_step: integer().optional(),
    end_profile_step: integer().optional(),
    metric: choice('latency', 'throughput', 'flops').optional(),
    metric_path: text.nullish(),
    tuner_type: choice('gridsearch', 'random', 'model_based').optional(),
    tuner_early_stopping: integer().optional(),
    tuner_num_trials: integer(1).optional(),
    arg_mappings: open(anything).nullish(),
    max_train_batch_size: integer(1).nullish(),
    min_train_batch_size: integer(1).optional(),
    max_train_micro_batch_size_per_gpu: integer(1).optional(),
    min_train_micro_batch_size_per_gpu: integer(1).optional(),
    num_tuning_micro_batch_sizes: integer(1).optional(),
    mp_size: integer(1).optional(),
    model_info: open(anything).nullish(),
    model_info_path: text.nullish(),
  }).optional(),
}
