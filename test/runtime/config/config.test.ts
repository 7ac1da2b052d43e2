// Resolution of whole configurations: defaults, every class of bad input with its key, and silence, notice or error for what does not act.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { ConfigError, loadConfig, type ResolvedConfig, resolveConfig } from '../../../runtime/config/index.js'
import { defaultConfig } from './defaults.js'

type Raw = Record<string, unknown>
const facts = { world: 2, worldOrigin: '--ranks 2' }
const resolve = (raw: Raw): ResolvedConfig =>
  resolveConfig({ name: 'config', raw: { train_batch_size: 8, ...raw } }, facts)

function failure(raw: Raw): ConfigError {
  try {
    resolve(raw)
  } catch (error) {
    if (error instanceof ConfigError) return error
    throw error
  }
  throw new Error(`expected an error for ${JSON.stringify(raw)}`)
}

/** `{ a: { b: value } }` for `a.b`. */
const at = (path: string, value: unknown): Raw =>
  path.split('.').reduceRight<unknown>((inner, name) => ({ [name]: inner }), value) as Raw

test('an almost empty configuration has the documented defaults and no notices', (t) => {
  t.deepEqual(resolve({}), {
    name: 'config',
    batch: { train: 8, micro: 4, accumulation: 1, world: 2 },
    optimizer: {
      kind: 'adam',
      decoupled: true,
      lr: 1e-3,
      betas: [0.9, 0.999],
      eps: 1e-8,
      weightDecay: 0,
      biasCorrection: true,
      stochasticRounding: false,
    },
    scheduler: null,
    gradientClipping: 1,
    zero: {
      stage: 0,
      reduceBucketSize: null,
      allgatherBucketSize: null,
      prefetchBucketSize: null,
      paramPersistenceThreshold: 1e5,
      modelPersistenceThreshold: Number.MAX_SAFE_INTEGER,
      maxLiveParameters: 1e9,
      maxReuseDistance: 1e9,
      gather16bitWeightsOnModelSave: false,
      offloadOptimizer: false,
    },
    precision: {
      dtype: 'f32',
      gradients: 'f32',
      accumulation: 'f32',
      lossScale: { dynamic: false, initial: 1, window: 1, hysteresis: 1, consecutiveHysteresis: false, min: 1 },
      skipsOverflow: false,
      autocast: null,
    },
    stepsPerPrint: null,
    wallClockBreakdown: false,
    notices: [],
  })
})

test('every key at its documented default is silent and changes nothing', (t) => {
  t.deepEqual(resolve(defaultConfig), resolve({}))
})

test('acting keys arrive', (t) => {
  const config = resolve({
    train_micro_batch_size_per_gpu: 2,
    gradient_clipping: 0,
    steps_per_print: 50,
    wall_clock_breakdown: true,
    optimizer: { type: 'SGD', params: { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01 } },
    scheduler: { type: 'WarmupDecayLR', params: { total_num_steps: 100, warmup_num_steps: 5, warmup_type: 'linear' } },
    zero_optimization: {
      stage: 3,
      overlap_comm: true,
      reduce_bucket_size: 5e8,
      allgather_bucket_size: 2e8,
      stage3_prefetch_bucket_size: 0,
      param_persistence_threshold: 7,
      stage3_model_persistence_threshold: 8,
      max_live_parameters: 9,
      stage3_max_reuse_distance: 10,
      offload_optimizer: { device: 'cpu' },
    },
  })
  t.deepEqual(config.notices, [])
  t.deepEqual(config.batch, { train: 8, micro: 2, accumulation: 2, world: 2 })
  t.is(config.gradientClipping, 0)
  t.is(config.stepsPerPrint, 50)
  t.true(config.wallClockBreakdown)
  t.deepEqual(config.optimizer, {
    kind: 'sgd',
    lr: 0.1,
    momentum: 0.9,
    dampening: 0,
    nesterov: true,
    weightDecay: 0.01,
  })
  t.deepEqual(config.scheduler, {
    type: 'WarmupDecayLR',
    minLr: 0,
    maxLr: 1e-3,
    warmupSteps: 5,
    warmup: 'linear',
    totalSteps: 100,
  })
  t.deepEqual(config.zero, {
    stage: 3,
    reduceBucketSize: 5e8,
    allgatherBucketSize: 2e8,
    prefetchBucketSize: 0,
    paramPersistenceThreshold: 7,
    modelPersistenceThreshold: 8,
    maxLiveParameters: 9,
    maxReuseDistance: 10,
    gather16bitWeightsOnModelSave: false,
    offloadOptimizer: true,
  })
})

test('"Adam" decouples weight decay unless adam_w_mode is false; names in any case', (t) => {
  const decoupled = (type: string, params: Raw = {}): unknown => {
    const { optimizer } = resolve({ optimizer: { type, params } })
    return optimizer.kind === 'adam' && optimizer.decoupled
  }
  t.true(decoupled('Adam'))
  t.true(decoupled('adamw'))
  t.false(decoupled('ADAM', { adam_w_mode: false }))
  t.is(
    failure({ optimizer: { type: 'AdamW', params: { adam_w_mode: false } } }).details.key,
    'optimizer.params.adam_w_mode',
  )
})

test('schedule defaults', (t) => {
  const schedule = (type: string, params: Raw): unknown => resolve({ scheduler: { type, params } }).scheduler
  t.deepEqual(schedule('WarmupLR', {}), { type: 'WarmupLR', minLr: 0, maxLr: null, warmupSteps: 1000, warmup: 'log' })
  t.deepEqual(schedule('LRRangeTest', {}), {
    type: 'LRRangeTest',
    minLr: 1e-3,
    stepSize: 2000,
    stepRate: 1,
    staircase: false,
  })
  t.deepEqual(schedule('WarmupCosineLR', { total_num_steps: 5000 }), {
    type: 'WarmupCosineLR',
    totalSteps: 5000,
    minRatio: 0,
    warmupSteps: 1000,
    warmup: 'log',
    cosineMinRatio: 1e-4,
  })
  t.deepEqual(
    schedule('OneCycle', {
      cycle_min_lr: 0,
      cycle_max_lr: [1, 2],
      cycle_first_step_size: 5,
      cycle_first_stair_count: 3,
    }),
    {
      type: 'OneCycle',
      minLr: 0,
      maxLr: [1, 2],
      decayLrRate: 0,
      firstSteps: 5,
      secondSteps: 5,
      firstStairs: 3,
      secondStairs: 3,
      decaySteps: 0,
      momentum: { min: 0.8, max: 0.9, decayRate: 0 },
    },
  )
})

const wrong: [path: string, value: unknown, expected: RegExp, got: string][] = [
  ['train_batch_size', 8.5, /integer >= 1/, '8.5'],
  ['train_batch_size', '8', /integer >= 1/, '"8"'],
  ['train_micro_batch_size_per_gpu', 0, /integer >= 1/, '0'],
  ['gradient_clipping', -1, /number >= 0/, '-1'],
  ['gradient_clipping', null, /number >= 0/, 'null'],
  ['steps_per_print', true, /integer/, 'true'],
  ['wall_clock_breakdown', 'yes', /true or false/, '"yes"'],
  ['zero_optimization.stage', 4, /integer from 0 to 3/, '4'],
  ['zero_optimization.stage', '2', /integer from 0 to 3/, '"2"'],
  ['zero_optimization.reduce_bucket_size', -1, /integer >= 0/, '-1'],
  ['zero_optimization', 3, /an object/, '3'],
  ['optimizer', 'Adam', /an object/, '"Adam"'],
  ['optimizer.params', [], /an object/, '[]'],
  ['gradient_allreduce_op', 'max', /one of mean, sum/, '"max"'],
  ['checkpoint.tag_validation', 'Maybe', /Ignore, Warn, Fail/, '"Maybe"'],
]
for (const [path, value, expected, got] of wrong) {
  test(`wrong value: ${path} ${JSON.stringify(value)}`, (t) => {
    const { details, code } = failure(at(path, value))
    t.is(code, 'CONFIG_VALUE')
    t.is(details.key, path)
    t.regex(details.expected, expected)
    t.is(details.got, got)
  })
}

const wrongParams: [section: string, type: string, params: Raw, key: string][] = [
  ['optimizer', 'Adam', { lr: '1e-3' }, 'optimizer.params.lr'],
  ['optimizer', 'Adam', { betas: [0.9] }, 'optimizer.params.betas'],
  ['optimizer', 'Adam', { betas: [0.9, 1] }, 'optimizer.params.betas[1]'],
  ['optimizer', 'Adam', { max_grad_norm: 1 }, 'optimizer.params.max_grad_norm'],
  ['optimizer', 'Adam', { momentum: 0.9 }, 'optimizer.params.momentum'],
  ['optimizer', 'Adam', { amsgrad: true }, 'optimizer.params.amsgrad'],
  ['optimizer', 'SGD', { nesterov: true }, 'optimizer.params.nesterov'],
  ['optimizer', 'Lamb', {}, 'optimizer.type'],
  ['optimizer', 'Admw', {}, 'optimizer.type'],
  ['scheduler', 'WarmupDecayLR', {}, 'scheduler.params.total_num_steps'],
  ['scheduler', 'WarmupLR', { warmup_num_steps: 0 }, 'scheduler.params.warmup_num_steps'],
  ['scheduler', 'WarmupLR', { warmup_step: 1 }, 'scheduler.params.warmup_step'],
  ['scheduler', 'OneCycle', { cycle_min_lr: 0 }, 'scheduler.params.cycle_max_lr'],
  ['scheduler', 'Cosine', {}, 'scheduler.type'],
]
for (const [section, type, params, key] of wrongParams) {
  test(`wrong parameters: ${type} ${JSON.stringify(params)}`, (t) => {
    t.is(failure({ [section]: { type, params } }).details.key, key)
  })
}

test('a section without a type asks for one', (t) => {
  t.regex(
    failure({ optimizer: { params: { lr: 1 } } }).message,
    /optimizer\.type, expected one of Adam, AdamW, SGD.*got nothing/,
  )
  t.regex(failure({ scheduler: {} }).message, /scheduler\.type, expected one of LRRangeTest/)
})

const typos: [path: string, nearest: RegExp][] = [
  ['gradient_acumulation_steps', /did you mean gradient_accumulation_steps\?/],
  ['zero_optimization.stag', /did you mean stage\?/],
  ['zero_optimization.stage3_prefetch_bucketsize', /did you mean stage3_prefetch_bucket_size\?/],
  ['zero_optimization.offload_optimizer.devise', /did you mean device\?/],
  ['fp16.enable', /did you mean enabled\?/],
  ['reduce_bucket_size', /did you mean zero_optimization\.reduce_bucket_size\?/],
  ['compression_training.row_pruning.shared_parameters.enable', /did you mean enabled\?/],
]
for (const [path, nearest] of typos) {
  test(`unknown key: ${path}`, (t) => {
    const { code, details } = failure(at(path, 1))
    t.is(code, 'CONFIG_UNKNOWN_KEY')
    t.is(details.key, path)
    t.regex(details.expected, nearest)
  })
}

test('unknown types name the nearest', (t) => {
  t.regex(failure({ scheduler: { type: 'WarmupDecayRL' } }).message, /did you mean WarmupDecayLR\?/)
  t.regex(failure({ optimizer: { type: 'AdanW' } }).message, /did you mean AdamW\?/)
})

test('a section for remarks is not read', (t) => {
  t.deepEqual(resolve({ custom: { anything: ['goes', 'auto'] } }), resolve({}))
})

const autos: [path: string, filler: RegExp][] = [
  ['train_batch_size', /per_device_train_batch_size/],
  ['gradient_clipping', /max_grad_norm/],
  ['zero_optimization.reduce_bucket_size', /hidden_size squared/],
  ['fp16.enabled', /fp16 and bf16 flags/],
  ['tensorboard.job_name', /Trainer fills this in/],
]
for (const [path, filler] of autos) {
  test(`"auto" is an error that names what would fill it: ${path}`, (t) => {
    const { code, details, problems } = failure(at(path, 'auto'))
    t.is(problems.length, 1)
    t.is(code, 'CONFIG_AUTO')
    t.is(details.key, path)
    t.regex(details.expected, filler)
  })
}

test('"auto" inside parameters and lists', (t) => {
  const { problems } = failure({
    optimizer: { type: 'AdamW', params: { lr: 'auto', betas: ['auto', 0.9] } },
    scheduler: { type: 'WarmupLR', params: { warmup_max_lr: 'auto' } },
  })
  t.deepEqual(
    problems.map(({ code, key }) => [code, key]),
    [
      ['CONFIG_AUTO', 'optimizer.params.lr'],
      ['CONFIG_AUTO', 'optimizer.params.betas[0]'],
      ['CONFIG_AUTO', 'scheduler.params.warmup_max_lr'],
    ],
  )
})

test('keys whose own meaning has an "auto" keep it', (t) => {
  t.deepEqual(resolve({ pipeline: { stages: 'auto' } }).notices, [])
})

const unsupported: [path: string, value: unknown][] = [
  ['zero_optimization.zero_quantized_weights', true],
  ['zero_optimization.zero_quantized_gradients', true],
  ['zero_optimization.mics_shard_size', 2],
  ['zero_optimization.zenflow', { topk_ratio: 0.1 }],
  ['sparse_gradients', true],
  ['prescale_gradients', true],
  ['gradient_predivide_factor', 2],
  ['gradient_allreduce_op', 'sum'],
  ['managed_gradient_accumulation', false],
  ['dataloader_drop_last', true],
  ['sequence_parallel_size', 2],
  ['tensor_parallel.autotp_size', 2],
  ['expert_parallel.enabled', true],
  ['pipeline.stages', 2],
  ['hybrid_engine.enabled', true],
  ['sparse_attention', { mode: 'fixed' }],
  ['progressive_layer_drop.enabled', true],
  ['compression_training.weight_quantization.shared_parameters.enabled', true],
  ['compression_training.layer_reduction.enabled', true],
  ['curriculum_learning.enabled', true],
  ['data_efficiency.enabled', true],
  ['elasticity.enabled', true],
]
for (const [path, value] of unsupported) {
  test(`not supported yet: ${path}`, (t) => {
    const { code, details, problems, message } = failure(at(path, value))
    t.is(problems.length, 1)
    t.is(code, 'CONFIG_UNSUPPORTED')
    t.is(details.key, path)
    t.regex(message, /not supported yet/)
  })
}

const noticed: [path: string, value: unknown][] = [
  ['zero_optimization.overlap_comm', true],
  ['zero_optimization.contiguous_gradients', false],
  ['zero_optimization.sub_group_size', 1e8],
  ['activation_checkpointing.partition_activations', true],
  ['aio.block_size', 4096],
  ['checkpoint.tag_validation', 'Fail'],
  ['csv_monitor.enabled', true],
  ['flops_profiler.enabled', true],
  ['comms_logger.enabled', true],
  ['compile.deepcompile', true],
  ['dump_state', true],
  ['optimizer.legacy_fusion', true],
]
for (const [path, value] of noticed) {
  test(`one notice: ${path}`, (t) => {
    const raw = at(path, value)
    if (path.startsWith('optimizer')) Object.assign(raw.optimizer as Raw, { type: 'AdamW' })
    const { notices, ...rest } = resolve(raw)
    const { notices: _, ...plain } = resolve({})
    t.is(notices.length, 1)
    t.true(notices[0]!.startsWith(`${path}: `))
    t.deepEqual(rest, plain)
  })
}

test('details of techniques that are off are silent', (t) => {
  const config = resolve({
    fp16: { enabled: false, initial_scale_power: 12, loss_scale_window: 100 },
    zero_optimization: { offload_optimizer: { device: 'none', buffer_count: 9 } },
    amp: { enabled: false, opt_level: 'O2' },
  })
  t.deepEqual(config, resolve({}))
})

const deprecated: [raw: Raw, same: Raw][] = [
  [{ zero_optimization: true }, { zero_optimization: { stage: 1 } }],
  [{ zero_optimization: false }, {}],
  [{ bfloat16: { enabled: false } }, {}],
  [{ zero_optimization: { cpu_offload: false } }, {}],
  [{ zero_optimization: { cpu_offload_use_pin_memory: true } }, {}],
  [{ zero_optimization: { stage3_gather_fp16_weights_on_model_save: false } }, {}],
  [{ zero_optimization: { allgather_size: 4 } }, { zero_optimization: { allgather_bucket_size: 4 } }],
]
for (const [raw, same] of deprecated) {
  test(`deprecated: ${JSON.stringify(raw)} maps with one notice`, (t) => {
    const { notices, ...rest } = resolve(raw)
    const { notices: none, ...expected } = resolve(same)
    t.deepEqual(none, [])
    t.is(notices.length, 1)
    t.regex(notices[0]!, /deprecated/)
    t.deepEqual(rest, expected)
  })
}

test('what is not offloaded says why', (t) => {
  const optimizer = failure(at('zero_optimization.offload_optimizer.device', 'nvme'))
  t.regex(optimizer.message, /expected "none" or "cpu" \(only the memory of the host is served\), got "nvme"/)
  const parameters = failure(at('zero_optimization.offload_param.device', 'cpu'))
  t.regex(parameters.message, /expected "none" \(parameters stay where they are computed with; /)
  t.deepEqual([optimizer.code, parameters.code], ['CONFIG_UNSUPPORTED', 'CONFIG_UNSUPPORTED'])
})

test('deprecated offload maps to the key that acts, or to the one that does not', (t) => {
  t.true(resolve({ zero_optimization: { cpu_offload: true } }).zero.offloadOptimizer)
  t.is(
    failure({ zero_optimization: { cpu_offload_param: true } }).details.key,
    'zero_optimization.offload_param.device',
  )
})

const both: [raw: Raw, key: string][] = [
  [{ bf16: {}, bfloat16: {} }, 'bfloat16'],
  [{ zero_optimization: { cpu_offload: false, offload_optimizer: {} } }, 'zero_optimization.cpu_offload'],
  [{ zero_optimization: { allgather_size: 1, allgather_bucket_size: 1 } }, 'zero_optimization.allgather_size'],
  [
    { zero_optimization: { max_live_parameters: 1, stage3_max_live_parameters: 1 } },
    'zero_optimization.max_live_parameters',
  ],
  [{ fp16: { enabled: true }, bf16: { enabled: true } }, 'fp16.enabled and bf16.enabled'],
]
for (const [raw, key] of both) {
  test(`two that exclude each other: ${JSON.stringify(raw)}`, (t) => {
    const { code, details } = failure(raw)
    t.is(code, 'CONFIG_CONFLICT')
    t.is(details.key, key)
  })
}

test('a full configuration: what is not supported is told by key, the rest resolves', (t) => {
  const full: Raw = {
    train_batch_size: null,
    train_micro_batch_size_per_gpu: 4,
    gradient_accumulation_steps: 8,
    gradient_clipping: 1.0,
    bf16: { enabled: true },
    optimizer: { type: 'AdamW', params: { lr: 2e-5, betas: [0.9, 0.95], weight_decay: 0.1 } },
    scheduler: { type: 'WarmupCosineLR', params: { total_num_steps: 20000, warmup_num_steps: 500 } },
    zero_optimization: {
      stage: 3,
      overlap_comm: true,
      stage3_gather_16bit_weights_on_model_save: true,
      offload_optimizer: { device: 'cpu' },
      offload_param: { device: 'none' },
    },
    activation_checkpointing: { partition_activations: false },
    wall_clock_breakdown: false,
    csv_monitor: { enabled: true, output_path: 'logs', job_name: 'run1' },
    checkpoint: { tag_validation: 'Fail' },
    steps_per_print: 50,
  }
  const nowhere = { ...(full.zero_optimization as Raw), offload_param: { device: 'cpu' } }
  t.deepEqual(
    failure({ ...full, zero_optimization: nowhere }).problems.map(({ code, key }) => [code, key]),
    [['CONFIG_UNSUPPORTED', 'zero_optimization.offload_param.device']],
  )
  const zero = full.zero_optimization as Raw
  const config = resolve({ ...full, zero_optimization: zero })
  t.is(config.precision.dtype, 'bf16')
  t.deepEqual(config.batch, { train: 64, micro: 4, accumulation: 8, world: 2 })
  t.like(config.optimizer, { lr: 2e-5, betas: [0.9, 0.95], weightDecay: 0.1 })
  t.is(config.zero.stage, 3)
  t.true(config.zero.gather16bitWeightsOnModelSave)
  t.true(config.zero.offloadOptimizer)
  t.deepEqual(
    config.notices.map((notice) => notice.split(':')[0]),
    ['csv_monitor.enabled', 'checkpoint.tag_validation'],
  )
})

test('fractional bucket sizes are floored with a notice, as fillers compute them', (t) => {
  const { zero, notices } = resolve({ zero_optimization: { stage3_prefetch_bucket_size: 0.9 * 65 * 65 } })
  t.is(zero.prefetchBucketSize, 3802)
  t.is(notices.length, 1)
  t.regex(notices[0]!, /stage3_prefetch_bucket_size: 3802\.5 is taken as 3802/)
})

test('quirks of schedules are told', (t) => {
  const notices = (type: string, params: Raw): readonly string[] => resolve({ scheduler: { type, params } }).notices
  t.regex(notices('WarmupLR', { warmup_type: 'cubic' })[0]!, /neither log nor linear/)
  t.regex(notices('WarmupDecayLR', { total_num_steps: 10 })[0]!, /end before the warmup of 1000/)
  t.regex(notices('OneCycle', { cycle_min_lr: 0, cycle_max_lr: 1 })[0]!, /beta2 is 0\.99/)
})

test('all problems of a file come in one error, the first five in words', (t) => {
  const error = failure({
    a1: 0,
    b2: 0,
    zero_optimization: { stage: 9 },
    sparse_gradients: true,
    gradient_clipping: 'x',
    dump_state: 2,
  })
  t.is(error.problems.length, 6)
  t.is(error.message.split('\n').length, 7)
  t.regex(error.message, /^config: 6 problems\n[\s\S]*\n {2}and 1 more$/)
})

test('files: read with comments, named in errors; base64; missing ones', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'config-'))
  t.teardown(() => {
    rmSync(folder, { recursive: true })
  })
  const file = join(folder, 'ds_config.json')
  const json = '{\n  // the batch\n  "train_batch_size": 4,\n}'
  writeFileSync(file, json)
  t.is(resolveConfig(loadConfig(file), facts).batch.train, 4)
  t.is(resolveConfig(loadConfig(Buffer.from('{"train_batch_size": 4}').toString('base64url')), facts).batch.train, 4)
  t.is(resolveConfig(loadConfig({ train_batch_size: 4 }), facts).batch.train, 4)

  writeFileSync(file, '{"train_batch_sise": 4}')
  t.true(
    t.throws(() => resolveConfig(loadConfig(file), facts)).message.startsWith(`config ${file}: train_batch_sise, `),
  )
  writeFileSync(file, '[4]')
  t.regex(t.throws(() => loadConfig(file)).message, /expected an object, got \[4\]/)

  const missing = t.throws(() => loadConfig(join(folder, 'none.json')), { instanceOf: ConfigError })
  t.is(missing.code, 'CONFIG_UNREADABLE')
  t.regex(missing.message, /none\.json: file, expected a readable JSON file, got ENOENT: no such file or directory$/)
  t.truthy(missing.cause)
})
