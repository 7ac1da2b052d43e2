// From a resolved configuration to compilations: one for the run, and others to see what would fit.
import type { ResolvedConfig } from '../../runtime/config/index.js'
import { type Compilation, type CompileOptions, compile, type Recompute } from '../../runtime/graph/compile.js'
import type { OptimizerPlan, ZeroStage } from '../../runtime/graph/partition/sharding.js'
import type { LanguageModel } from '../../runtime/nn/language-model.js'
import type { Tensor } from '../../runtime/nn/tensor.js'
import type { OptimizerSpec, ResolvedGroup } from '../../runtime/optim/index.js'
import type { ChosenDevice } from './device.js'

/** What may vary while the run means the same. */
export interface PlanChoices {
  readonly recompute: Recompute
  /** Parts in which the fused head's logits are made, where the device leaves it to the plan. */
  readonly logitChunks: number
  readonly stage: ZeroStage
  readonly micro: number
  readonly accumulation: number
  /** Whether the optimizer works on the host beside GPUs. */
  readonly offload: boolean
}

export type Planner = (choices: PlanChoices) => Compilation

export interface PlannerFacts {
  readonly model: LanguageModel
  readonly loss?: ((outputs: Tensor, targets: Tensor) => Tensor) | undefined
  readonly config: ResolvedConfig
  readonly groups: readonly ResolvedGroup[]
  readonly precision: NonNullable<CompileOptions['precision']>
  readonly device: ChosenDevice
  readonly ranks: number
  readonly sequence: number
  /** Without data only `forward` is compiled. */
  readonly trains: boolean
}

/** Elements that are reduced or gathered together where the user left it open: 25 MiB of f32. */
const defaultBucket = (25 << 20) / 4
/** The same of updated parameters where their gathers run beside the update, which each place where some are sent interrupts. */
const defaultGathers = 1.3e8
/** DeepSpeed's default of `stage3_prefetch_bucket_size`. */
const defaultPrefetch = 5e7

function optimizerPlan(spec: OptimizerSpec, groups: readonly ResolvedGroup[]): OptimizerPlan {
  if (spec.kind === 'adam') {
    const { stochasticRounding } = spec
    const attributes = { decoupled: spec.decoupled ? 1 : 0, epsilon: spec.eps }
    return { kind: 'adam', attributes, groups, stochasticRounding }
  }
  const { momentum, dampening, nesterov } = spec
  return { kind: 'sgd', attributes: { momentum, dampening, nesterov: nesterov ? 1 : 0 }, groups }
}

export function createPlanner(facts: PlannerFacts): Planner {
  const { model, loss, config, groups, precision, device, ranks, sequence, trains } = facts
  const { zero } = config
  const debug = new Set((process.env['DEEPTROUPE_DEBUG'] ?? '').split(','))
  return ({ recompute, logitChunks, stage, micro, accumulation, offload }) => {
    const backend = device.backend(logitChunks)
    return compile({
      model,
      ...(loss && { loss }),
      ranks,
      stage,
      microBatch: micro,
      sequence,
      gathers: {
        maxReuseDistance: zero.maxReuseDistance,
        maxLiveParameters: zero.maxLiveParameters,
        prefetchBucketSize: zero.prefetchBucketSize ?? defaultPrefetch,
      },
      persistenceThreshold: zero.paramPersistenceThreshold,
      persistenceLimit: zero.modelPersistenceThreshold,
      precision,
      backend,
      ...(trains && {
        training: {
          optimizer: optimizerPlan(config.optimizer, groups),
          accumulation,
          clipping: config.gradientClipping,
          reduceBucketSize: zero.reduceBucketSize ?? defaultBucket,
          allgatherBucketSize: zero.allgatherBucketSize ?? (backend.overlaps ? defaultGathers : defaultBucket),
          recompute,
          offload,
          overflow: {
            skips: config.precision.skipsOverflow,
            scales: config.precision.dtype === 'f16',
            lossScale: config.precision.lossScale,
          },
        },
      }),
      environment: device.environment,
      debug: (what, text) => {
        if (debug.has(what)) process.stderr.write(text())
      },
    })
  }
}
