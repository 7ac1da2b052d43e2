// A profile in a table: where the time of a step goes, by op.
import type { TraceSpan } from '../../runtime/observe/index.js'

/** One line for each op, the longest first: calls, milliseconds, share, GFLOP/s and GB/s while it ran, over all ranks. */
export function profileTable(spans: readonly TraceSpan[]): string {
  const rows = new Map<string, { calls: number; seconds: number; flops: number; bytes: number }>()
  for (const { name, startSeconds, endSeconds, flops = 0, bytes = 0 } of spans) {
    const row = rows.get(name) ?? { calls: 0, seconds: 0, flops: 0, bytes: 0 }
    rows.set(name, row)
    row.calls += 1
    row.seconds += endSeconds - startSeconds
    row.flops += flops
    row.bytes += bytes
  }
  const total = [...rows.values()].reduce((sum, row) => sum + row.seconds, 0)
  const lines = [...rows]
    .sort(([, a], [, b]) => b.seconds - a.seconds)
    .map(([name, row]) =>
      [
        name.padEnd(34),
        String(row.calls).padStart(7),
        (row.seconds * 1e3).toFixed(1).padStart(11),
        `${((100 * row.seconds) / total).toFixed(1)} %`.padStart(8),
        (row.flops / row.seconds / 1e9).toFixed(1).padStart(9),
        (row.bytes / row.seconds / 1e9).toFixed(1).padStart(7),
      ].join(' '),
    )
  const head = `${'op'.padEnd(34)} ${'calls'.padStart(7)} ${'ms'.padStart(11)} ${'share'.padStart(8)} ${'GFLOP/s'.padStart(9)} ${'GB/s'.padStart(7)}`
  return `${[head, ...lines].join('\n')}\n`
}
