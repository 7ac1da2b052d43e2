// From a raw configuration to the settings of a run. All that is wrong with a file is told at once, by key, before anything starts;
// what is known but does not act yet is an error if it would change results and a notice if not.
import type { OptimizerSpec } from '../optim/optimizer.js'
import type { ScheduleSpec } from '../optim/schedule.js'
import { type BatchSizes, resolveBatch } from './batch.js'
import { type ConfigProblem, throwProblems } from './error.js'
import { inspect, keyPaths } from './inspect.js'
import { modernise } from './legacy.js'
import type { ConfigSource } from './load.js'
import { resolveOptimizer } from './optimizer.js'
import { type PrecisionConfig, resolvePrecision } from './precision.js'
import { resolveScheduler } from './scheduler.js'
import { configSchema } from './schema.js'
import { type ZeroConfig, zeroConfig } from './zero.js'

/** What a configuration is resolved against. */
export interface ConfigFacts {
  /** Data-parallel ranks. */
  readonly world: number
  /** Where `world` came from, for messages: `--ranks 2`. */
  readonly worldOrigin?: string
}

export interface ResolvedConfig {
  readonly name: string
  readonly batch: BatchSizes
  readonly optimizer: OptimizerSpec
  /** null: the learning rate stays as it is. */
  readonly scheduler: ScheduleSpec | null
  /** Largest global norm of the gradients; 0: no clipping. */
  readonly gradientClipping: number
  readonly zero: ZeroConfig
  readonly precision: PrecisionConfig
  /** null: no line of its own every so many steps. */
  readonly stepsPerPrint: number | null
  readonly wallClockBreakdown: boolean
  /** One sentence for each key that is deprecated or has no effect yet. */
  readonly notices: readonly string[]
}

const roundsNothing: ConfigProblem = {
  code: 'CONFIG_CONFLICT',
  key: 'optimizer.params.bf16_stochastic_round',
  expected: 'false, or bf16.enabled true: it rounds weights in bf16',
  got: 'true',
}

const roundsMasters: ConfigProblem = {
  ...roundsNothing,
  expected: 'false with zero_optimization.offload_optimizer, whose masters lie on the host',
}

/** Checks a configuration and fills in its defaults. Throws one {@link ConfigError} that holds every problem found. */
export function resolveConfig(source: ConfigSource, facts: ConfigFacts): ResolvedConfig {
  const modern = modernise(source.raw)
  const { value, problems, notices } = inspect(configSchema, modern.value, [], keyPaths(configSchema))
  const given = (value ?? modern.value) as Partial<NonNullable<typeof value>> | null
  const part = <T>(key: string, resolve: () => T): T | undefined =>
    problems.some((problem) => problem.key === key || problem.key.startsWith(`${key}.`) || problem.key === 'the file')
      ? undefined
      : resolve()
  const optimizer = part('optimizer', () => resolveOptimizer(given?.optimizer))
  const scheduler = part('scheduler', () => resolveScheduler(given?.scheduler, optimizer?.value))
  const precision = value && resolvePrecision(value, value.communication_data_type)
  const rounds = optimizer?.value?.kind === 'adam' && optimizer.value.stochasticRounding
  const inBf16 = precision?.value?.dtype === 'bf16' && precision.value.autocast === null
  throwProblems(source.name, [
    ...modern.problems,
    ...problems,
    ...(optimizer?.problems ?? []),
    ...(scheduler?.problems ?? []),
    ...(precision?.problems ?? []),
    ...(rounds && precision && !inBf16 ? [roundsNothing] : []),
    ...(rounds && value && zeroConfig(value.zero_optimization).offloadOptimizer ? [roundsMasters] : []),
  ])

  // Past this point there was no problem, so every part has its value.
  const config = value!
  return {
    name: source.name,
    batch: resolveBatch(
      {
        train: config.train_batch_size ?? null,
        micro: config.train_micro_batch_size_per_gpu ?? null,
        accumulation: config.gradient_accumulation_steps ?? null,
      },
      facts.world,
      facts.worldOrigin,
      source.name,
    ),
    optimizer: optimizer!.value!,
    scheduler: scheduler!.value!,
    gradientClipping: config.gradient_clipping ?? 1,
    zero: zeroConfig(config.zero_optimization),
    stepsPerPrint: config.steps_per_print ?? null,
    wallClockBreakdown: config.wall_clock_breakdown ?? false,
    precision: precision!.value!,
    notices: [...modern.notices, ...notices, ...optimizer!.notices, ...scheduler!.notices, ...precision!.notices],
  }
}
