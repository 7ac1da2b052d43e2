// Sections of precision, parallelism, memory and monitoring that do not act yet. They are here so that a file that names them is read for what it says: silent where
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
