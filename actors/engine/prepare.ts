// Everything that is known before a run: the configuration resolved, the model compiled, the memory planned. Starts nothing.
import { allowedCores, coresOfRanks, type DeviceName, type GpuOptions } from '../../native/index.js'
import {
  type ConfigSource,
  type DeepSpeedConfig,
  loadConfig,
  type ResolvedConfig,
  resolveConfig,
} from '../../runtime/config/index.js'
import type { TokenSource } from '../../runtime/data/source.js'
import type { Compilation } from '../../runtime/graph/compile.js'
import type { LanguageModel } from '../../runtime/nn/language-model.js'
import type { Weights } from '../../runtime/nn/models/huggingface.js'
import { namedModules, namedParameters } from '../../runtime/nn/module.js'
import type { Tensor } from '../../runtime/nn/tensor.js'
import {
  createSchedule,
  type ParameterGroup,
  type ResolvedGroup,
  resolveGroups,
  type Schedule,
} from '../../runtime/optim/index.js'
import { type PlannedFault, parseChaos } from './chaos.js'
import { type ChosenDevice, chooseDevice, deviceNotices } from './device.js'
import { EngineError } from './errors.js'
import { fitPlan } from './fit.js'
import { createPlanner, type PlanChoices, type Planner } from './planner.js'
import { type ModuleMatch, precisionOf } from './precision.js'

/** Where a run keeps its checkpoints, so that it can recover from the newest. */
export interface CheckpointPolicy {
  readonly folder: string
  /** Steps between checkpoints; 0: only when asked. */
  readonly every?: number
  /** How many of the newest stay; 0 (the default): all. */
  readonly keep?: number
}

export interface InitializeOptions {
  readonly model: LanguageModel
  /** Initial values; default: the model's own initialisation from the seed. */
  readonly weights?: Weights
  /** DeepSpeed's configuration, as an object or a path. Default: micro-batches of 8, AdamW at 1e-3, clipping 1, ZeRO 0. */
  readonly config?: DeepSpeedConfig | string
  /** Without data the engine only runs `forward`. */
  readonly data?: TokenSource
  readonly evalData?: TokenSource
  readonly parameterGroups?: readonly ParameterGroup[]
  /** Mean loss of a micro-batch from logits [B, T, V] and targets [B, T]; default: the model's cross-entropy. */
  readonly loss?: (outputs: Tensor, targets: Tensor) => Tensor
  /** Rank actors, each on a worker thread; default 1. */
  readonly ranks?: number
  /** Native threads of each rank on the CPU; default: the cores shared out. */
  readonly threads?: number
  /** DeepSpeed's `--bind_cores_to_rank`: every native thread of every rank stays on a CPU of its own; default false. */
  readonly bindCoresToRank?: boolean
  /** `cuda` has a GPU for each rank. Default: `cpu`, or `reference` without the addon. */
  readonly device?: DeviceName
  /** How the device `cuda` computes. */
  readonly gpu?: GpuOptions
  /** Instruction set of the CPU kernels; default: the best there is. */
  readonly isa?: string
  readonly seed?: number
  readonly shuffle?: boolean
  /** Recompute each block's activations in the backward. */
  readonly checkpointActivations?: boolean
  /** Most bytes of the arenas of all ranks together, on GPUs of each rank. The backward recomputes as much as is needed to fit, cheap values first. */
  readonly memoryLimit?: number
  /** Modules, by path, that compute in fp32 under bf16 or fp16, with all modules within them. */
  readonly keepInFp32?: ModuleMatch
  readonly checkpoints?: CheckpointPolicy
  /** Failures that the run may recover from; default 0. */
  readonly restarts?: number
  /** Seconds after which a rank that does no instruction and waits for no other has failed; default 60. */
  readonly stallSeconds?: number
  /** Faults to suffer: `kill:rank=1@step=20,stall:rank=0@step=7:2s,slow:rank=1:x3`; also `throw`, `oom`, `freeze` and `flood`. */
  readonly chaos?: string
  /** Text of tokenizer.json, to go with saved weights. */
  readonly tokenizer?: string
  /** Tokens that `forward` sees at most; default: as many as a sample has, else the model's positions. */
  readonly sequence?: number
}

/** A run before it starts. */
export interface Prepared {
  readonly options: InitializeOptions
  readonly config: ResolvedConfig
  readonly device: DeviceName
  readonly isa: string | null
  readonly threads: number
  /** The CPU of each thread of each rank; null: not bound. */
  readonly cores: readonly (readonly number[])[] | null
  readonly target: ChosenDevice
  readonly ranks: number
  readonly sequence: number
  readonly seed: number
  readonly groups: readonly ResolvedGroup[]
  readonly schedule: Schedule
  readonly chaos: readonly PlannedFault[]
  readonly stallSeconds: number
  readonly compilation: Compilation
  /** What was chosen for it. */
  readonly choices: PlanChoices
  /** Makes other plans of the same run. */
  readonly planner: Planner
  /** What works, but not as one might think, a sentence each. */
  readonly notices: readonly string[]
  /** Blocks of the model. */
  readonly blocks: number
}

const defaultConfig: DeepSpeedConfig = { train_micro_batch_size_per_gpu: 8 }

const inPlace =
  'zero_optimization.offload_optimizer changes nothing on this device: the optimizer works in the memory of the host already'

/** What a timer can wait for. */
const longestStall = Math.floor((2 ** 31 - 1) / 1000)

function expectCount(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return
  throw new EngineError('ENGINE_USAGE', `initialize: ${name}, expected an integer of at least ${least}, got ${value}`, {
    name,
  })
}

/** A CPU for each thread. Throws {@link EngineError} where there are too few, or no such threads. */
function boundCores(device: DeviceName, ranks: number, threads: number): number[][] {
  const refuse = (expected: string, got: string): never => {
    throw new EngineError('ENGINE_USAGE', `initialize: bindCoresToRank, expected ${expected}, got ${got}`)
  }
  if (device !== 'cpu') return refuse('the cpu device, whose ranks have native threads', device)
  const allowed = allowedCores()
  const threadsInAll = `${ranks} ranks of ${threads} threads`
  return (
    coresOfRanks(allowed, ranks, threads) ??
    refuse(`at most ${allowed.length} threads in all, one for each CPU that this process may use`, threadsInAll)
  )
}

/**
 * Resolves, traces, compiles and plans. Throws ConfigError, ModelError, GraphError or {@link EngineError}, each naming what is wrong.
 */
export function prepare(options: InitializeOptions): Prepared {
  const { model, data, ranks = 1, seed = 1234, restarts = 0, stallSeconds = 60 } = options
  expectCount('ranks', ranks, 1)
  expectCount('seed', seed, 0)
  expectCount('restarts', restarts, 0)
  if (!(stallSeconds > 0 && stallSeconds <= longestStall)) {
    const expected = `seconds above 0, ${longestStall} at most`
    throw new EngineError('ENGINE_USAGE', `initialize: stallSeconds, expected ${expected}, got ${stallSeconds}`)
  }
  const device = chooseDevice(options, ranks)
  expectCount('threads', device.threads, 1)
  const cores = options.bindCoresToRank ? boundCores(device.device, ranks, device.threads) : null
  if (options.memoryLimit !== undefined) expectCount('memoryLimit', options.memoryLimit, 1)
  const chaos = options.chaos === undefined ? [] : parseChaos(options.chaos, ranks, seed)
  const source: ConfigSource = loadConfig(options.config ?? defaultConfig)
  const config = resolveConfig(source, { world: ranks, worldOrigin: `ranks ${ranks}` })
  const { batch, zero } = config
  const sequence = data?.seq ?? options.sequence ?? model.maxPositions
  const rows = batch.micro * ranks
  if (data && data.samples < rows) {
    const message = `initialize: samples of ${data.name}, expected at least ${rows} (${ranks} ranks of ${batch.micro} rows), got ${data.samples}`
    throw new EngineError('ENGINE_USAGE', message, { samples: data.samples })
  }
  if (options.evalData && options.evalData.seq !== sequence) {
    const message = `initialize: sequence of ${options.evalData.name}, expected ${sequence} as in the training data, got ${options.evalData.seq}`
    throw new EngineError('ENGINE_USAGE', message)
  }
  const names = namedParameters(model).map(({ name }) => name)
  const groups = resolveGroups(names, config.optimizer, options.parameterGroups)
  const precision = precisionOf(model, config.precision, options.keepInFp32)
  const { loss, memoryLimit } = options
  const planner = createPlanner({ model, loss, config, groups, precision, device, ranks, sequence, trains: !!data })
  const blocks = new Set(namedModules(model).flatMap(({ block }) => block ?? [])).size
  const asked: PlanChoices = {
    recompute: { cheap: [], blocks: options.checkpointActivations ? blocks : 0 },
    logitChunks: 1,
    stage: zero.stage,
    micro: batch.micro,
    accumulation: batch.accumulation,
    offload: zero.offloadOptimizer && device.device === 'cuda',
  }
  const { choices, compilation } = fitPlan(planner, asked, device, { limit: memoryLimit, blocks })
  const schedule = createSchedule(
    config.scheduler,
    groups.map((group) => group.lr),
    config.optimizer.kind,
  )
  return {
    options,
    config,
    device: device.device,
    isa: device.isa,
    threads: device.threads,
    target: device,
    ranks,
    cores,
    sequence,
    seed,
    groups,
    schedule,
    chaos,
    stallSeconds,
    compilation,
    choices,
    planner,
    notices: [
      ...config.notices,
      ...(zero.offloadOptimizer && device.device !== 'cuda' ? [inPlace] : []),
      ...deviceNotices(
        device,
        Object.values(compilation.programs).map(({ program }) => program),
      ),
    ],
    blocks,
  }
}
