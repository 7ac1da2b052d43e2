// Profiles as Chrome traces (chrome://tracing, Perfetto), in the trace-event format: a process for each rank, complete events ("X") in
// microseconds. Each instruction carries the rates that it reached, from its cost as the op table counts it.

/** One span of work on one rank. */
export interface TraceSpan {
  readonly name: string
  /** `forward`, `backward`, `communication`, `update`, or another phase. */
  readonly category: string
  readonly rank: number
  /** A lane within the rank; 0 by default. */
  readonly lane?: number
  /** On one clock for all ranks of the trace. */
  readonly startSeconds: number
  readonly endSeconds: number
  /** Floating-point operations and bytes moved, where the work has a cost. */
  readonly flops?: number
  readonly bytes?: number
  /** The dtype that those operations compute on. */
  readonly dtype?: string
  /** Further facts: module, source line, step. */
  readonly details?: Readonly<Record<string, string | number>>
}

type TraceEvent =
  | {
      readonly ph: 'X'
      readonly name: string
      readonly cat: string
      readonly pid: number
      readonly tid: number
      readonly ts: number
      readonly dur: number
      readonly args: Readonly<Record<string, string | number>>
    }
  | { readonly ph: 'M'; readonly name: string; readonly pid: number; readonly args: Readonly<Record<string, string>> }

export interface ChromeTrace {
  readonly displayTimeUnit: 'ms'
  readonly traceEvents: readonly TraceEvent[]
}

/** The trace of `spans`, its clock starting at the earliest of them. `gflops_per_second` and `gb_per_second` are in `args`. */
export function chromeTrace(spans: readonly TraceSpan[]): ChromeTrace {
  const origin = spans.reduce((least, span) => Math.min(least, span.startSeconds), Number.POSITIVE_INFINITY)
  const ranks = [...new Set(spans.map((span) => span.rank))].sort((a, b) => a - b)
  return {
    displayTimeUnit: 'ms',
    traceEvents: [
      ...ranks.map((rank) => ({ ph: 'M' as const, name: 'process_name', pid: rank, args: { name: `rank ${rank}` } })),
      ...spans.map((span) => ({
        ph: 'X' as const,
        name: span.name,
        cat: span.category,
        pid: span.rank,
        tid: span.lane ?? 0,
        ts: (span.startSeconds - origin) * 1e6,
        dur: (span.endSeconds - span.startSeconds) * 1e6,
        args: { ...span.details, ...rates(span) },
      })),
    ],
  }
}

function rates({ startSeconds, endSeconds, flops, bytes }: TraceSpan): Record<string, number> {
  const seconds = endSeconds - startSeconds
  const rate = (amount: number): number => (seconds > 0 ? amount / seconds / 1e9 : 0)
  return {
    ...(flops === undefined ? {} : { flops, gflops_per_second: rate(flops) }),
    ...(bytes === undefined ? {} : { bytes, gb_per_second: rate(bytes) }),
  }
}
