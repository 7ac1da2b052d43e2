// Sections of techniques that do not act yet. They are here so that a file that names them is read for what it says: silent where
// they are off, one clear error or notice where they are on, and a mistyped key inside them is found. Keys without a mark only
// detail a technique whose switch is marked.
import { anything, choice, flag, integer, list, number, open, results, section, text, tunes } from './fields.js'

const names = list(text)
const dtype = choice('fp32', 'fp16', 'bf16')

export const precisionSections = {
  fp16: section({
    enabled: results(flag, false),
    auto_cast: flag.optional(),
    loss_scale: number(0).optional(),
    initial_scale_power: integer().optional(),
    loss_scale_window: integer(1).optional(),
    hysteresis: integer().optional(),
    consecutive_hysteresis: flag.optional(),
    min_loss_scale: number(0).optional(),
    fp16_master_weights_and_grads: flag.optional(),
  }).optional(),
  bf16: section({
    enabled: results(flag, false),
    immediate_grad_update: flag.optional(),
    check_grad_overflow: flag.optional(),
    bf16_master_weights_and_grads: flag.optional(),
    bf16_optimizer_states: flag.optional(),
  }).optional(),
  amp: results(open(anything).nullable(), null, {}),
  torch_autocast: section({
    enabled: results(flag, false),
    dtype: choice('bfloat16', 'float16').optional(),
    lower_precision_safe_modules: names.nullish(),
  }).nullish(),
  data_types: section({
    grad_accum_dtype: results(dtype.nullable(), null, 'fp32'),
    param_dtype: results(dtype.nullable(), null, 'fp32'),
    buffer_dtype: results(dtype.nullable(), null, 'fp32'),
  }).optional(),
}

export const parallelSections = {
  tensor_parallel: section({
    autotp_size: results(integer(), 0, 1),
    dtype: text.optional(),
    tp_overlap_comm: flag.optional(),
    keep_module_on_host: flag.optional(),
    replace_with_kernel_inject: flag.optional(),
    tensor_parallel: section({ tp_size: results(integer(1), 1), tp_grain_size: integer(1).optional() }).optional(),
    tp: section({ tp_size: results(integer(1), 1), tp_grain_size: integer(1).optional() }).optional(),
    preset_model: choice('llama', 'bloom', 'chatglm', 'mixtral', 'deepseek_v2', 'qwen2', 'phi3').nullish(),
    partition_config: section({
      use_default_specs: flag.optional(),
      layer_specs: list(
        section({
          patterns: names.optional(),
          partition_type: choice('row', 'column', 'skip').optional(),
          shape: anything.optional(),
          partition_dim: integer().nullish(),
          model_types: names.nullish(),
        }),
      ).optional(),
    }).nullish(),
  }).optional(),
  expert_parallel: section({
    enabled: results(flag, false),
    autoep_size: integer(1).optional(),
    expert_tensor_parallel_size: integer(1).optional(),
    preset_model: choice('mixtral', 'qwen3_moe', 'qwen3_5_moe', 'deepseek_v2', 'deepseek_v3').nullish(),
    moe_layer_pattern: text.nullish(),
    router_pattern: text.nullish(),
    expert_pattern: text.nullish(),
    expert_w1: text.nullish(),
    expert_w2: text.nullish(),
    expert_w3: text.nullish(),
    num_experts_attr: text.nullish(),
    top_k_attr: text.nullish(),
    score_func: choice('auto', 'softmax', 'sigmoid').optional(),
    score_apply: choice('auto', 'pre', 'post').optional(),
    combine_impl: choice('auto', 'weighted_sum', 'legacy_bmm').optional(),
    route_norm: flag.nullish(),
    route_scale: number().optional(),
    top_k: integer(1).or(choice('auto')).optional(),
    routed_scaling_factor: number().or(choice('auto')).optional(),
    num_expert_groups: integer(1).nullish(),
    num_limited_groups: integer(1).nullish(),
    load_balance_coeff: number().nullish(),
    has_shared_experts: flag.nullish(),
    shared_experts_pattern: text.nullish(),
    shared_experts_gate_pattern: text.nullish(),
    use_grouped_mm: flag.optional(),
    disable_triton_grouped_mm: flag.optional(),
    validate_folding_routing: flag.optional(),
  }).optional(),
  pipeline: section({
    stages: results(integer(1).or(choice('auto')), 'auto', 1),
    partition: text.optional(),
    seed_layers: flag.optional(),
    activation_checkpoint_interval: integer().optional(),
    pipe_partitioned: flag.optional(),
    grad_partitioned: flag.optional(),
    use_reentrant: flag.nullish(),
  }).optional(),
  hybrid_engine: section({
    enabled: results(flag, false),
    max_out_tokens: integer(1).optional(),
    inference_tp_size: integer(1).optional(),
    release_inference_cache: flag.optional(),
    pin_parameters: flag.optional(),
    tp_gather_partition_size: integer(1).optional(),
    enable_cuda_graph: flag.optional(),
  }).optional(),
  compile: section({
    deepcompile: tunes(flag, false),
    passes: list(choice('z1', 'z3', 'autosp', 'autotp')).nullish(),
    free_activation: flag.optional(),
    free_activation_threshold: integer().optional(),
    offload_activation: flag.optional(),
    offload_activation_pin_memory: flag.optional(),
    offload_opt_states: flag.optional(),
    offload_parameters: flag.optional(),
    double_buffer: flag.optional(),
    symmetric_memory: flag.optional(),
    debug_log: flag.optional(),
    keep_int_input_tensors: flag.optional(),
    keep_all_input_tensors: flag.optional(),
    sync_before_reduce: flag.optional(),
    sync_after_reduce: flag.optional(),
    sync_before_allgather: flag.optional(),
    sync_after_allgather: flag.optional(),
  }).optional(),
}

export const memorySections = {
  activation_checkpointing: section({
    partition_activations: tunes(flag, false),
    contiguous_memory_optimization: tunes(flag, false),
    cpu_checkpointing: tunes(flag, false),
    synchronize_checkpoint_boundary: tunes(flag, false),
    profile: tunes(flag, false),
    number_checkpoints: tunes(integer(1).nullable(), null),
  }).optional(),
  aio: section({
    block_size: tunes(integer(1), 1048576),
    queue_depth: tunes(integer(1), 8),
    intra_op_parallelism: tunes(integer(1), 1),
    single_submit: tunes(flag, false),
    overlap_events: tunes(flag, true),
    use_gds: tunes(flag, false),
  }).optional(),
  checkpoint: section({
    tag_validation: tunes(
      text.regex(/^(ignore|warn|fail)$/i, { error: 'one of Ignore, Warn, Fail' }),
      'Warn',
      'warn',
      'WARN',
    ),
    load_universal: tunes(flag, false),
    use_node_local_storage: tunes(flag, false),
    checkpoint_serialization: tunes(flag, true),
    parallel_write: section({ pipeline_stage: tunes(flag, false) }).optional(),
    writer: tunes(
      section({
        type: choice('fast', 'python', 'mock').optional(),
        decoupled: flag.optional(),
        io_buffer_size: integer(1).optional(),
        io_buffer_double: flag.optional(),
        io_multiplier: integer(1).optional(),
        show_statistics: flag.optional(),
        data_parallel: choice('replica', 'socket', 'machine').nullish(),
      }).nullable(),
      null,
    ),
  }).optional(),
  nebula: section({
    enabled: tunes(flag, false),
    persistent_storage_path: text.nullish(),
    persistent_time_interval: number(0).optional(),
    num_of_version_in_retention: integer(1).optional(),
    enable_nebula_load: flag.optional(),
    nebula_load_path: text.nullish(),
  }).optional(),
  datastates_ckpt: tunes(open(anything).nullable(), null),
}

const fileMonitor = section({
  enabled: tunes(flag, false),
  output_path: text.optional(),
  job_name: text.optional(),
}).optional()

export const monitorSections = {
  tensorboard: fileMonitor,
  csv_monitor: fileMonitor,
  wandb: section({
    enabled: tunes(flag, false),
    group: text.nullish(),
    team: text.nullish(),
    project: text.nullish(),
  }).optional(),
  comet: section({
    enabled: tunes(flag, false),
    samples_log_interval: integer(1).optional(),
    project: text.nullish(),
    workspace: text.nullish(),
    api_key: text.nullish(),
    experiment_name: text.nullish(),
    experiment_key: text.nullish(),
    online: flag.nullish(),
    mode: text.nullish(),
  }).optional(),
  flops_profiler: section({
    enabled: tunes(flag, false),
    recompute_fwd_factor: number(0).optional(),
    profile_step: integer().optional(),
    module_depth: integer(-1).optional(),
    top_modules: integer(1).optional(),
    detailed: flag.optional(),
    output_file: text.nullish(),
  }).optional(),
  comms_logger: section({
    enabled: tunes(flag, false),
    verbose: flag.optional(),
    prof_all: flag.optional(),
    debug: flag.optional(),
    prof_ops: names.optional(),
  }).optional(),
}

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
