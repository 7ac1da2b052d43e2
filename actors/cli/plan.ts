// The memory plan for people and for programs: bytes by category for one rank, before anything runs.
import { type ArenaName, arenaNames } from '../../kernels/abi/program.js'
import type { DType } from '../../kernels/ops/definition.js'
import { planTotals } from '../../runtime/graph/compile.js'
import type { MemoryPlan } from '../../runtime/graph/plan.js'
import { countParameters } from '../../runtime/nn/module.js'
import { formatBytes, formatCount } from '../../runtime/observe/index.js'
import { describeRecompute } from '../engine/fit.js'
import type { Prepared } from '../engine/prepare.js'

/** Dtypes as configurations spell them. */
const dtypeName = (dtype: DType): string => ({ f32: 'fp32', f16: 'fp16' })[dtype as string] ?? dtype

/** What outlives a run, by category and dtype. */
function bytesByDType({ fixed }: MemoryPlan): Partial<Record<ArenaName, Record<string, number>>> {
  const sizes: Partial<Record<ArenaName, Record<string, number>>> = {}
  for (const { arena, bytes, dtype } of fixed.values()) {
    if (arena === 'io') continue
    const name = dtypeName(dtype)
    const own = sizes[arena] ?? {}
    sizes[arena] = { ...own, [name]: (own[name] ?? 0) + bytes }
  }
  return sizes
}

/** `--dry-run --json`: all sizes in bytes, for each rank. */
export function planReport(prepared: Prepared) {
  const { compilation, config, cores, device, isa, options, ranks, sequence, target, threads } = prepared
  const { arenas, total, host } = planTotals(compilation.plan)
  return {
    type: 'plan',
    parameters: countParameters(options.model),
    device,
    isa,
    environment: target.environment,
    ranks,
    threads,
    cores,
    stage: config.zero.stage,
    batch: config.batch,
    sequence,
    precision: {
      weights: dtypeName(config.precision.dtype),
      gradients: dtypeName(compilation.sharding.options.gradients),
      accumulation: dtypeName(compilation.sharding.options.accumulation),
    },
    recompute: prepared.choices.recompute,
    logit_chunks: prepared.choices.logitChunks,
    bytes_per_rank: { ...arenas, total },
    bytes: total * ranks,
    /** Of those arenas that lie on the host beside GPUs, which the totals leave out. */
    host_bytes_per_rank: host,
    host_bytes: host * ranks,
    bytes_by_dtype: bytesByDType(compilation.plan),
    programs: Object.fromEntries(
      Object.entries(compilation.programs).map(([name, { program, hash }]) => [
        name,
        { instructions: program.instructions.length, hash, bytes: program.arenas },
      ]),
    ),
  }
}

const meaning: Readonly<Record<(typeof arenaNames)[number], string>> = {
  parameters: 'weights (a slice from ZeRO stage 3 on)',
  gradients: 'accumulated gradients (a slice from stage 1 on)',
  optimizer: 'optimizer states, and masters of 16-bit weights (a slice from stage 1 on)',
  activations: 'values between forward and backward, reused by lifetime',
  buckets: 'gradients on their way to their owner',
  gathered: 'parameters gathered from other ranks (stage 3)',
  workspace: 'scratch of the largest instruction',
  io: 'tokens, loss and norm, shared with JavaScript',
}

/** `2 ranks x 1 threads (cpu, avx512)`, or `2 ranks (cuda, NVIDIA H200)`. */
function placesOf({ device, isa, ranks, threads, environment }: ReturnType<typeof planReport>): string {
  if (device === 'cuda') return `${ranks} ranks (cuda, ${environment['gpu']})`
  return `${ranks} ranks x ${threads} threads (${device}${isa ? `, ${isa}` : ''})`
}

export function planText(prepared: Prepared): string {
  const report = planReport(prepared)
  const { batch } = report
  const row = (name: string, bytes: number, note: string): string =>
    `  ${name.padEnd(12)} ${formatBytes(bytes).padStart(10)}  ${note}`
  const { weights, gradients, accumulation } = report.precision
  const { logitChunks } = prepared.choices
  const again = describeRecompute(prepared.choices.recompute, prepared.blocks)
  /** `bf16 56.6 MiB, fp32 1.00 MiB` where a category has one, or the dtype alone. */
  const dtypes = (name: ArenaName): string => {
    const sizes = Object.entries(report.bytes_by_dtype[name] ?? {})
    if (sizes.length === 0) return ''
    if (sizes.length === 1) return `; ${sizes[0]![0]}`
    return `; ${sizes.map(([dtype, bytes]) => `${dtype} ${formatBytes(bytes)}`).join(', ')}`
  }
  const { hostArenas } = prepared.compilation.plan
  const hosted = (name: ArenaName): boolean => hostArenas.includes(name)
  const rowOf = (name: ArenaName) => row(name, report.bytes_per_rank[name], meaning[name] + dtypes(name))
  return [
    `${formatCount(report.parameters)} parameters on ${placesOf(report)}, ZeRO stage ${report.stage}`,
    `batch ${batch.train} = ${batch.micro} rows x ${batch.accumulation} micro-steps x ${batch.world} ranks, ${report.sequence} tokens a row`,
    `weights and activations in ${weights}, gradients made and sent in ${gradients}, added up in ${accumulation}`,
    ...(report.cores ? [`CPUs of ranks: ${report.cores.map((own) => own.join(' ')).join(' | ')}`] : []),
    ...(again ? [`recomputed in the backward: ${again}`] : []),
    ...(logitChunks > 1 ? [`logits in ${logitChunks} chunks, so that they fit`] : []),
    'bytes of one rank:',
    ...arenaNames.flatMap((name) => (hosted(name) ? [] : [rowOf(name)])),
    row('total', report.bytes_per_rank.total, `all ranks: ${formatBytes(report.bytes)}`),
    ...(report.host_bytes > 0
      ? [
          'of the host beside it:',
          ...arenaNames.flatMap((name) => (hosted(name) ? [rowOf(name)] : [])),
          row('total', report.host_bytes_per_rank, `all ranks: ${formatBytes(report.host_bytes)}`),
        ]
      : []),
    'programs:',
    ...Object.entries(report.programs).map(
      ([name, program]) =>
        `  ${name.padEnd(12)} ${String(program.instructions).padStart(5)} instructions  ${program.hash.slice(0, 16)}`,
    ),
    '',
  ].join('\n')
}
