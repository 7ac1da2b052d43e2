// The compiler's way: trace, differentiate, passes, partition, plan, assemble. Runs once, on the main thread; ranks receive bytes.
import { type ArenaName, arenaNames } from '../../kernels/abi/program.js'
import type { Backend } from '../../kernels/ops/backend.js'
import { byteLength } from '../../kernels/ops/definition.js'
import type { LanguageModel } from '../nn/language-model.js'
import { namedParameters } from '../nn/module.js'
import type { Tensor } from '../nn/tensor.js'
import { noLossScale } from '../optim/index.js'
import { assemble, type CompiledProgram, printProgram } from './assemble.js'
import { differentiate } from './autodiff.js'
import { type Graph, printGraph } from './ir.js'
import type { PlacedGraph } from './partition/build.js'
import type { GatherOptions } from './partition/gathers.js'
import { createLayout, type FlatLayout, type WeightDType } from './partition/layout.js'
import { Partitioner } from './partition/partition.js'
import {
  type MicroStep,
  masterState,
  type OptimizerPlan,
  type OverflowRule,
  optimizerStates,
  Sharding,
  type ZeroStage,
} from './partition/sharding.js'
import { checkpointBlocks } from './passes/checkpoint.js'
import { fusionPasses } from './passes/fuse.js'
import { tokenOrder } from './passes/order.js'
import { gradientPrecision, lowerPrecision } from './passes/precision.js'
import { type CheapOp, recomputeCheap } from './passes/recompute.js'
import { commonSubexpressions, deadCode } from './passes/simplify.js'
import { type FixedTensor, type MemoryPlan, planMemory } from './plan.js'
import type { Pass } from './rewrite.js'
import { trace } from './trace.js'

/** Programs of a training run. `forward` gives the logits of one row, `refresh` follows a write of parameters from outside. */
export type ProgramName = 'initialize' | 'refresh' | 'evaluate' | 'forward' | MicroStep

export interface TrainingOptions {
  readonly optimizer: OptimizerPlan
  /** Micro-batches that one rank adds up before an update. */
  readonly accumulation: number
  readonly clipping: number
  /** Elements of gradient that are reduced together, and of parameters that are gathered together after the update. */
  readonly reduceBucketSize: number
  readonly allgatherBucketSize: number
  readonly recompute: Recompute
  /** Whether the optimizer's states lie, and are updated, on the host beside the device; default false. */
  readonly offload?: boolean
  readonly overflow: OverflowRule
}

/** What the backward computes again instead of keeping it. */
export interface Recompute {
  /** Values that cost little to make again. */
  readonly cheap: readonly CheapOp[]
  /** How many blocks, counted from the first, keep nothing but their inputs. */
  readonly blocks: number
}

/** Dtypes of a run. */
export interface Precision {
  /** Of weights and activations; statistics, losses, masters and optimizer states are f32. */
  readonly dtype: WeightDType
  /** Of the gradients of one micro-batch, as they are made and sent to their owner. */
  readonly gradients: WeightDType
  /** Of the accumulator. */
  readonly accumulation: WeightDType
  /** Whether the module of that path computes in f32. Its own parameters are then f32 too. */
  readonly keeps: (module: string) => boolean
}

export const fullPrecision: Precision = { dtype: 'f32', gradients: 'f32', accumulation: 'f32', keeps: () => false }

export interface CompileOptions {
  readonly model: LanguageModel
  /** Mean loss of a micro-batch; default: the model's own. */
  readonly loss?: (logits: Tensor, targets: Tensor) => Tensor
  readonly ranks: number
  readonly stage: ZeroStage
  /** Rows of a micro-batch. */
  readonly microBatch: number
  readonly sequence: number
  readonly gathers: GatherOptions
  readonly persistenceThreshold: number
  readonly persistenceLimit: number
  readonly backend: Backend
  /** Default: {@link fullPrecision}. */
  readonly precision?: Precision
  /** Absent: only `forward` and what it needs. */
  readonly training?: TrainingOptions
  /** Names of passes to leave out. */
  readonly without?: readonly string[]
  /** What the program's fingerprint covers beside its instructions: device, instruction set. */
  readonly environment: Readonly<Record<string, string>>
  /** Receives what `DEEPTROUPE_DEBUG` asks for. */
  readonly debug?: (what: 'graph' | 'plan' | 'program', text: () => string) => void
}

export interface Compilation {
  readonly layout: FlatLayout
  readonly sharding: Sharding
  readonly plan: MemoryPlan
  readonly programs: Readonly<Partial<Record<ProgramName, CompiledProgram>>>
}

const noOverflow: OverflowRule = { skips: false, scales: false, lossScale: noLossScale }
const identity: OptimizerPlan = { kind: 'sgd', attributes: { momentum: 0, dampening: 0, nesterov: 0 }, groups: [] }

export function compile(options: CompileOptions): Compilation {
  const { model, ranks, stage, microBatch, sequence, training } = options
  const { precision = fullPrecision } = options
  const parameters = namedParameters(model)
  const { keeps } = precision
  const ownerOf = (parameter: string): string => parameter.slice(0, Math.max(0, parameter.lastIndexOf('.')))
  const weight = (name: string): WeightDType => (keeps(ownerOf(name)) ? 'f32' : precision.dtype)
  const layout = createLayout(
    parameters.map(({ name, parameter, unit }) => ({ name, shape: parameter.shape, unit, dtype: weight(name) })),
    stage === 3 && ranks > 1
      ? { ranks, persistenceThreshold: options.persistenceThreshold, persistenceLimit: options.persistenceLimit }
      : { ranks },
  )
  const sharding = new Sharding(layout, {
    ranks,
    stage,
    gathers: options.gathers,
    overlaps: options.backend.overlaps,
    reduceBucketSize: training?.reduceBucketSize ?? 0,
    allgatherBucketSize: training?.allgatherBucketSize ?? 0,
    optimizer: training?.optimizer ?? identity,
    clipping: training?.clipping ?? 0,
    gradients: precision.gradients,
    // One micro-batch has nothing to add up: its gradients are the sum.
    accumulation: training && training.accumulation * ranks === 1 ? precision.gradients : precision.accumulation,
    masters: training !== undefined && !training.optimizer.stochasticRounding,
    offload: training?.offload ?? false,
    overflow: training?.overflow ?? noOverflow,
  })
  const lower = lowerPrecision({ dtype: precision.dtype, keeps, weight })
  const partitioner = new Partitioner(sharding)
  const optimize = (graph: Graph, first: readonly Pass[] = []): Graph => {
    const { backend } = options
    const last = backend.tokenOrder ? [tokenOrder] : []
    const passes = [commonSubexpressions, deadCode, ...first, ...fusionPasses(backend), deadCode, ...last]
    return passes
      .filter((pass) => !options.without?.includes(pass.name))
      .reduce((result, pass) => pass.run(result), graph)
  }
  const tokens = (rows: number) => ({ shape: [rows, sequence], dtype: 'i32' as const })
  const lossGraph = (isTraining: boolean): Graph => {
    const graph = trace(model, {
      inputs: { tokens: tokens(microBatch), targets: tokens(microBatch) },
      training: isTraining,
      body: (m, io) => ({
        loss: options.loss
          ? options.loss(m.forward(io.tokens), io.targets).scale(isTraining ? 1 : microBatch * sequence)
          : m.loss(io.tokens, io.targets, isTraining ? 'mean' : 'sum'),
      }),
    })
    return lower.run(graph)
  }

  const placed: Partial<Record<ProgramName, PlacedGraph>> = {}
  placed.initialize = partitioner.initialize(
    parameters.map(({ name, parameter: { init } }) =>
      init.kind === 'normal'
        ? {
            name,
            op: 'initialize_normal',
            attributes: { mean: init.mean, std: init.std, ...nameKey(name) },
          }
        : { name, op: 'initialize_constant', attributes: { value: init.value } },
    ),
  )
  placed.refresh = partitioner.refresh()
  const forward = trace(model, {
    inputs: { tokens: tokens(1) },
    training: false,
    body: (m, io) => ({ logits: m.forward(io.tokens) }),
  })
  placed.forward = partitioner.forward(optimize(lower.run(forward)))
  if (training) {
    placed.evaluate = partitioner.forward(optimize(lossGraph(false)))
    const names = parameters.map(({ name }) => name)
    const joint = differentiate(lossGraph(true), {
      loss: 'loss',
      wrt: names,
      seed: 1 / (training.accumulation * ranks),
      scaled: training.overflow.scales,
    })
    const slots = new Map(layout.parameters.map((slot) => [slot.name, slot]))
    const gradients = gradientPrecision((name) => sharding.gradientDType(slots.get(name)!.unit), names)
    const { cheap, blocks } = training.recompute
    const optimized = optimize(gradients.run(joint), [
      ...(blocks > 0 ? [checkpointBlocks(blocks)] : []),
      ...(cheap.length > 0 ? [recomputeCheap(cheap)] : []),
    ])
    options.debug?.('graph', () => printGraph(optimized))
    const { accumulation } = training
    const steps: MicroStep[] =
      accumulation === 1 ? ['only'] : accumulation === 2 ? ['first', 'last'] : ['first', 'middle', 'last']
    for (const step of steps) placed[step] = partitioner.microStep(optimized, step)
  }

  const hostArenas = training?.offload ? (['optimizer'] as const) : []
  const plan = planMemory(placed, fixedTensors(sharding, placed), options.backend, hostArenas)
  options.debug?.('plan', () => JSON.stringify(plan.arenas))
  const programs: Partial<Record<ProgramName, CompiledProgram>> = {}
  for (const [name, graph] of Object.entries(placed)) {
    const program = assemble(name, graph, plan.programs[name]!, { ranks, environment: options.environment })
    programs[name as ProgramName] = program
    options.debug?.('program', () => printProgram(program))
  }
  return { layout, sharding, plan, programs }
}

/** Everything that outlives a run, in the order in which it lies in its arena. */
function fixedTensors(
  sharding: Sharding,
  programs: Readonly<Partial<Record<ProgramName, PlacedGraph>>>,
): FixedTensor[] {
  const tensors = new Map<string, FixedTensor>()
  for (const { graph } of Object.values(programs)) {
    for (const { name, value } of graph.inputs) {
      const bytes = Math.max(tensors.get(name)?.bytes ?? 0, byteLength(value.type))
      tensors.set(name, { name, bytes, dtype: value.type.dtype })
    }
  }
  const { units } = sharding.layout
  const names = [
    ...units.map((unit) => `parameters/${unit.name}`),
    ...units.map((unit) => `gradients/${unit.name}`),
    ...[masterState, ...optimizerStates(sharding.options.optimizer)].flatMap((state) =>
      units.map((unit) => `optimizer/${state}/${unit.name}`),
    ),
  ]
  const others = [...tensors.keys()].filter((name) => !names.includes(name)).sort()
  return [...names, ...others].flatMap((name) => tensors.get(name) ?? [])
}

/** FNV-1a, 64 bits, of a parameter's name: the key under which it draws its initial values. */
function nameKey(name: string): { key_low: number; key_high: number } {
  let hash = 0xcbf29ce484222325n
  for (const byte of Buffer.from(name)) hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn
  return { key_low: Number(hash & 0xffffffffn), key_high: Number(hash >> 32n) }
}

/** Bytes of each arena, and in all: of those on the device, and of those on the host beside it. */
export function planTotals(plan: MemoryPlan): { arenas: Record<ArenaName, number>; total: number; host: number } {
  const arenas = { ...plan.arenas }
  const sum = (names: readonly ArenaName[]): number => names.reduce((bytes, name) => bytes + arenas[name], 0)
  const host = sum(plan.hostArenas)
  return { arenas, total: sum(arenaNames) - host, host }
}
