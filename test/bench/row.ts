// A figure of the benchmark: what ran, our speed and the speed of each peer in the same run, and their ratio.
// Ratios are what a row claims; the absolute numbers belong to the machine and the minute.

export interface Row {
  readonly row: string
  readonly case: string
  readonly unit: string
  /** Whether a larger number is the better one. */
  readonly higherIsBetter: boolean
  readonly ours: number
  /** Peers that ran, by name and version. */
  readonly peers: Readonly<Record<string, number>>
  /** Why a peer is missing, and other things to know. */
  readonly notes: readonly string[]
  /** What explains the figure, by instruction. */
  readonly page?: string
}

/** The peer that did best. */
export function bestPeer({ peers, higherIsBetter }: Row): readonly [name: string, value: number] | null {
  const sorted = Object.entries(peers).sort(([, a], [, b]) => (higherIsBetter ? b - a : a - b))
  return sorted[0] ?? null
}

/** Ours divided by the best peer's. */
export function ratio(row: Row): number | null {
  const best = bestPeer(row)
  return best && row.ours / best[1]
}

export function median(values: readonly number[]): number {
  if (values.length === 0) throw new Error('bench: times of steps, expected at least one, got none')
  const sorted = values.toSorted((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2
}

const digits = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toPrecision(3))

/** One line for each row. */
export function tableOf(rows: readonly Row[]): string {
  const cells = rows.map((row) => {
    const best = bestPeer(row)
    const factor = ratio(row)
    return [
      row.row,
      row.case,
      digits(row.ours),
      best ? digits(best[1]) : '-',
      row.higherIsBetter ? row.unit : `${row.unit} (less is better)`,
      factor === null ? '-' : factor.toFixed(2),
      [...(best ? [best[0]] : []), ...row.notes].join('; '),
    ]
  })
  const all = [['row', 'case', 'ours', 'best peer', 'unit', 'ratio', 'peer'], ...cells]
  const widths = all[0]!.map((_, column) => Math.max(...all.map((line) => line[column]!.length)))
  return `${all
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')}\n`
}
