// A profile as a page: where the time of steps went, by instruction, against what the machine can reach.
import { type Ceilings, machineCeilings } from '../../native/index.js'
import type { TraceSpan } from '../../runtime/observe/index.js'
import type { Prepared } from '../engine/prepare.js'

/** Equal instructions of a step: the same op for the same place in every block. */
interface Line {
  readonly op: string
  readonly place: string
  calls: number
  seconds: number
  flops: number
  bytes: number
  /** What the work would take at the ceilings. */
  least: number
  /** Of `least`, what the memory's ceiling would take. */
  leastOfMemory: number
}

/** `transformer.h.3.attn.c_attn` of all blocks: `transformer.h.*.attn.c_attn`. */
const placeOf = (module: string | number | undefined): string => String(module ?? '').replace(/\.\d+(?=\.|$)/g, '.*')

function linesOf(spans: readonly TraceSpan[], ceilings: Ceilings | null): Line[] {
  const lines = new Map<string, Line>()
  for (const { name: op, startSeconds, endSeconds, flops = 0, bytes = 0, dtype, details } of spans) {
    const place = placeOf(details?.['module'])
    const key = `${op} ${place}`
    const line = lines.get(key) ?? { op, place, calls: 0, seconds: 0, flops: 0, bytes: 0, least: 0, leastOfMemory: 0 }
    lines.set(key, line)
    line.calls += 1
    line.seconds += endSeconds - startSeconds
    line.flops += flops
    line.bytes += bytes
    if (!ceilings) continue
    const computing = flops / (dtype === 'bf16' ? ceilings.bf16 : ceilings.f32)
    const moving = bytes / ceilings.bytes
    line.least += Math.max(computing, moving)
    if (moving > computing) line.leastOfMemory += moving
  }
  return [...lines.values()].sort((a, b) => b.seconds - a.seconds)
}

const columns = ['op', 'where', 'calls', 'ms', 'share', 'GFLOP/s', 'GB/s', 'of ceiling'] as const

function cellsOf(line: Line, total: number): string[] {
  const { op, place, calls, seconds, flops, bytes, least, leastOfMemory } = line
  const rate = (amount: number): string => (amount > 0 ? (amount / seconds / 1e9).toFixed(1) : '')
  const bound = 2 * leastOfMemory > least ? 'memory' : 'compute'
  return [
    op,
    place,
    String(calls),
    (seconds * 1e3).toFixed(1),
    `${((100 * seconds) / total).toFixed(1)} %`,
    rate(flops),
    rate(bytes),
    least > 0 ? `${((100 * least) / seconds).toFixed(0)} % ${bound}` : '',
  ]
}

/**
 * One line for each op in each place of the model, the longest first: calls, milliseconds and share of the time of all ranks, the rates
 * while it ran, and how near it came to the ceiling that bounds it. `ceilings` are those of one rank while all run; null: not known.
 */
export function profileTable(spans: readonly TraceSpan[], ceilings: Ceilings | null): string {
  const lines = linesOf(spans, ceilings)
  const total = lines.reduce((sum, line) => sum + line.seconds, 0)
  const rows = [[...columns], ...lines.map((line) => cellsOf(line, total))]
  const widths = columns.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const text = rows.map((row) =>
    row
      .map((cell, column) =>
        column < 2 || column === 7 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!),
      )
      .join('  ')
      .trimEnd(),
  )
  return `${[...text, ...(ceilings ? [ceilingLine(ceilings)] : [])].join('\n')}\n`
}

const ceilingLine = ({ f32, bf16, bytes }: Ceilings): string => {
  const [single, half, stream] = [f32, bf16, bytes].map((rate) => (rate / 1e9).toFixed(1))
  return (
    `ceilings of a rank, measured while all ranks ran: ${single} GFLOP/s in f32, ${half} in bf16, ${stream} GB/s ` +
    '(more than 100 % of memory: the operands were in a cache)'
  )
}

/** What one rank of a run can reach while all its ranks do. Measured now; null on the reference device. */
export function ceilingsOfRank({ isa, ranks, threads }: Prepared): Ceilings | null {
  const all = isa && machineCeilings(isa, ranks * threads)
  return all ? { f32: all.f32 / ranks, bf16: all.bf16 / ranks, bytes: all.bytes / ranks } : null
}
