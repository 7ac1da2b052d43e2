// The memory plan for people and for programs: bytes by category for one rank, before anything runs.
import { arenaNames } from '../../kernels/abi/program.js'
import { planTotals } from '../../runtime/graph/compile.js'
import { countParameters } from '../../runtime/nn/module.js'
import { formatBytes, formatCount } from '../../runtime/observe/index.js'
import type { Prepared } from '../engine/prepare.js'

/** `--dry-run --json`: all sizes in bytes, for each rank. */
export function planReport(prepared: Prepared) {
  const { compilation, config, device, isa, options, ranks, sequence, threads } = prepared
  const { arenas, total } = planTotals(compilation.plan)
  return {
    type: 'plan',
    parameters: countParameters(options.model),
    device,
    isa,
    ranks,
    threads,
    stage: config.zero.stage,
    batch: config.batch,
    sequence,
    bytes_per_rank: { ...arenas, total },
    bytes: total * ranks,
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
  gradients: 'accumulated gradients (a slice from stage 2 on)',
  optimizer: 'optimizer states (a slice from stage 1 on)',
  activations: 'values between forward and backward, reused by lifetime',
  buckets: 'gradients on their way to their owner',
  gathered: 'parameters gathered from other ranks (stage 3)',
  workspace: 'scratch of the largest instruction',
  io: 'tokens, loss and norm, shared with JavaScript',
}

export function planText(prepared: Prepared): string {
  const report = planReport(prepared)
  const { batch } = report
  const row = (name: string, bytes: number, note: string): string =>
    `  ${name.padEnd(12)} ${formatBytes(bytes).padStart(10)}  ${note}`
  return [
    `${formatCount(report.parameters)} parameters on ${report.ranks} ranks x ${report.threads} threads (${report.device}${report.isa ? `, ${report.isa}` : ''}), ZeRO stage ${report.stage}`,
    `batch ${batch.train} = ${batch.micro} rows x ${batch.accumulation} micro-steps x ${batch.world} ranks, ${report.sequence} tokens a row`,
    'bytes of one rank:',
    ...arenaNames.map((name) => row(name, report.bytes_per_rank[name], meaning[name])),
    row('total', report.bytes_per_rank.total, `all ranks: ${formatBytes(report.bytes)}`),
    'programs:',
    ...Object.entries(report.programs).map(
      ([name, program]) =>
        `  ${name.padEnd(12)} ${String(program.instructions).padStart(5)} instructions  ${program.hash.slice(0, 16)}`,
    ),
    '',
  ].join('\n')
}
