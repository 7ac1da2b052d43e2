// The precision keys: what they settle, what they exclude, and what each that does not act says.
import test from 'ava'
import {
  ConfigError,
  type DeepSpeedConfig,
  type PrecisionConfig,
  type ResolvedConfig,
  resolveConfig,
} from '../../../runtime/config/index.js'

const resolve = (raw: object): ResolvedConfig =>
  resolveConfig({ name: 'config', raw: { train_batch_size: 8, ...raw } }, { world: 2 })
const precision = (raw: DeepSpeedConfig): PrecisionConfig => resolve(raw).precision

function problem(raw: object): { code: string; key: string; message: string } {
  try {
    resolve(raw)
  } catch (error) {
    if (error instanceof ConfigError) return { ...error.details, message: error.message }
    throw error
  }
  throw new Error(`expected an error for ${JSON.stringify(raw)}`)
}

test('bf16: gradients made and sent in bf16, added up in fp32, in every stage; overflow skips', (t) => {
  for (const stage of [0, 1, 2, 3] as const) {
    t.like(precision({ bf16: { enabled: true }, zero_optimization: { stage } }), {
      dtype: 'bf16',
      gradients: 'bf16',
      accumulation: 'f32',
      skipsOverflow: true,
      autocast: null,
    })
  }
  t.deepEqual(resolve({ bf16: { enabled: true } }).notices, [])
  t.is(precision({ bfloat16: { enabled: true } } as DeepSpeedConfig).dtype, 'bf16')
  t.false(precision({ bf16: { enabled: true, check_grad_overflow: false } }).skipsOverflow)
})

test('data_types and communication_data_type act', (t) => {
  t.is(precision({ bf16: { enabled: true }, data_types: { grad_accum_dtype: 'bf16' } }).accumulation, 'bf16')
  t.is(precision({ bf16: { enabled: true }, communication_data_type: 'fp32' }).gradients, 'f32')
  t.is(precision({ fp16: { enabled: true }, data_types: { grad_accum_dtype: 'fp32' } }).accumulation, 'f32')
  t.is(precision({ data_types: { grad_accum_dtype: 'fp32' }, communication_data_type: 'fp32' }).dtype, 'f32')
})

test('fp16: the scaler as documented, dynamic or static', (t) => {
  t.deepEqual(precision({ fp16: { enabled: true } }).lossScale, {
    dynamic: true,
    initial: 65536,
    window: 1000,
    hysteresis: 2,
    consecutiveHysteresis: false,
    min: 1,
  })
  t.deepEqual(
    precision({
      fp16: {
        enabled: true,
        initial_scale_power: 8,
        loss_scale_window: 10,
        hysteresis: 3,
        consecutive_hysteresis: true,
        min_loss_scale: 4,
      },
    }).lossScale,
    { dynamic: true, initial: 256, window: 10, hysteresis: 3, consecutiveHysteresis: true, min: 4 },
  )
  t.like(precision({ fp16: { enabled: true, loss_scale: 128 } }).lossScale, { dynamic: false, initial: 128 })
  t.is(problem({ fp16: { enabled: true, initial_scale_power: 33 } }).key, 'fp16.initial_scale_power')
  t.is(problem({ fp16: { enabled: true, loss_scale: true } }).key, 'fp16.loss_scale')
  t.is(problem({ fp16: { enabled: true, loss_scale_window: 0 } }).key, 'fp16.loss_scale_window')
  t.is(problem({ fp16: { enabled: true, min_loss_scale: 0 } }).key, 'fp16.min_loss_scale')
})

test('torch_autocast: classes of modules by the last part of their path', (t) => {
  t.deepEqual(precision({ torch_autocast: { enabled: true } }).autocast, ['Linear', 'Conv2d'])
  const { dtype, autocast, lossScale } = precision({
    torch_autocast: { enabled: true, dtype: 'float16', lower_precision_safe_modules: ['torch.nn.Linear', 'Mine'] },
  })
  t.is(dtype, 'f16')
  t.deepEqual(autocast, ['Linear', 'Mine'])
  t.true(lossScale.dynamic)
})

const rounding = { type: 'AdamW', params: { bf16_stochastic_round: true } }

test('bf16_stochastic_round is a parameter of Adam in bf16', (t) => {
  const { optimizer } = resolve({ bf16: { enabled: true }, optimizer: rounding })
  t.true(optimizer.kind === 'adam' && optimizer.stochasticRounding)
  const { key } = problem({ optimizer: { type: 'SGD', params: { bf16_stochastic_round: true } } })
  t.is(key, 'optimizer.params.bf16_stochastic_round')
})

const excluded: [raw: object, key: string][] = [
  [{ fp16: { enabled: true }, bf16: { enabled: true } }, 'fp16.enabled and bf16.enabled'],
  [{ bf16: { enabled: true }, torch_autocast: { enabled: true } }, 'bf16.enabled and torch_autocast.enabled'],
  [{ communication_data_type: 'bf16' }, 'communication_data_type'],
  [{ fp16: { enabled: true }, communication_data_type: 'bf16' }, 'communication_data_type'],
  [{ data_types: { grad_accum_dtype: 'fp16' } }, 'data_types.grad_accum_dtype'],
  [{ bf16: { enabled: true }, data_types: { param_dtype: 'fp32' } }, 'data_types.param_dtype'],
  [{ data_types: { buffer_dtype: 'bf16' } }, 'data_types.buffer_dtype'],
  [{ optimizer: rounding }, 'optimizer.params.bf16_stochastic_round'],
  [
    { optimizer: rounding, bf16: { enabled: true }, zero_optimization: { offload_optimizer: { device: 'cpu' } } },
    'optimizer.params.bf16_stochastic_round',
  ],
  [{ optimizer: rounding, fp16: { enabled: true } }, 'optimizer.params.bf16_stochastic_round'],
  [{ optimizer: rounding, torch_autocast: { enabled: true } }, 'optimizer.params.bf16_stochastic_round'],
]
for (const [raw, key] of excluded) {
  test(`does not go together: ${JSON.stringify(raw)}`, (t) => {
    const { code, key: got } = problem(raw)
    t.is(code, 'CONFIG_CONFLICT')
    t.is(got, key)
  })
}

const refused: [raw: object, key: string, why: RegExp][] = [
  [{ bf16: { enabled: true, bf16_master_weights_and_grads: true } }, 'bf16.bf16_master_weights_and_grads', /not built/],
  [{ bf16: { enabled: true, bf16_optimizer_states: true } }, 'bf16.bf16_optimizer_states', /not built/],
  [{ fp16: { enabled: true, fp16_master_weights_and_grads: true } }, 'fp16.fp16_master_weights_and_grads', /not built/],
  [{ amp: { enabled: true, opt_level: 'O1' } }, 'amp', /use bf16, fp16 or torch_autocast/],
]
for (const [raw, key, why] of refused) {
  test(`refused with its reason: ${key}`, (t) => {
    const { code, key: got, message } = problem(raw)
    t.is(code, 'CONFIG_UNSUPPORTED')
    t.is(got, key)
    t.regex(message, why)
  })
}

test('what changes nothing says so', (t) => {
  t.regex(resolve({ bf16: { enabled: true, immediate_grad_update: true } }).notices[0]!, /as the backward makes them/)
  t.regex(resolve({ fp16: { enabled: true, auto_cast: true } }).notices[0]!, /token ids/)
})
