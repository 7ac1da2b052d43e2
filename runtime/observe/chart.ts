// A curve in the terminal, drawn with braille dots (2 x 4 per character). Pure: losses in, lines of text out.

export interface ChartOptions {
  /** Columns of the whole chart, axis included; 72 by default. */
  readonly width?: number
  /** Lines of the plot, axis excluded; 12 by default. */
  readonly height?: number
  /** Step of the first value; 1 by default. */
  readonly firstStep?: number
  readonly title?: string
}

/** Bits of the dots of a braille character, by row and column within it. */
const dots = [
  [0x01, 0x08],
  [0x02, 0x10],
  [0x04, 0x20],
  [0x40, 0x80],
] as const

/**
 * The curve of `values`, one for each step. Where there are more steps than dot columns, a column shows the mean of its steps;
 * values that are not finite leave gaps. Without a finite value the chart is one line that says so.
 */
export function lossChart(values: readonly number[], options: ChartOptions = {}): string {
  const { width = 72, height = 12, firstStep = 1, title = 'loss' } = options
  const finite = values.filter(Number.isFinite)
  if (finite.length === 0) return `${title}: no values\n`
  const labels = 8
  const columns = Math.max(8, width - labels - 2)
  const means = columnMeans(values, Math.min(2 * columns, values.length))
  const shown = means.filter(Number.isFinite)
  const low = Math.min(...shown)
  const high = Math.max(...shown)
  const span = high - low || 1
  const rows = 4 * height

  const cells = Array.from({ length: height }, () => new Uint8Array(columns))
  const mark = (x: number, y: number): void => {
    const cell = cells[y >> 2]!
    cell[x >> 1] = cell[x >> 1]! | dots[y & 3]![x & 1]!
  }
  const place = (i: number): number =>
    means.length === 1 ? 0 : Math.round((i * (2 * columns - 1)) / (means.length - 1))
  const drop = (value: number): number => (high === low ? rows >> 1 : Math.round(((high - value) / span) * (rows - 1)))
  means.forEach((value, i) => {
    if (!Number.isFinite(value)) return
    const previous = means[i - 1]
    const [x, y] = [place(i), drop(value)]
    mark(x, y)
    if (previous === undefined || !Number.isFinite(previous)) return
    const [fromX, fromY] = [place(i - 1), drop(previous)]
    const length = Math.max(x - fromX, Math.abs(y - fromY))
    for (let t = 1; t < length; t++) {
      mark(Math.round(fromX + ((x - fromX) * t) / length), Math.round(fromY + ((y - fromY) * t) / length))
    }
  })

  const ticks = new Map([
    [0, high],
    [(height - 1) >> 1, high - (span * ((height - 1) >> 1)) / Math.max(1, height - 1)],
    [height - 1, low],
  ])
  if (high === low) {
    ticks.clear()
    ticks.set(height >> 1, low)
  }
  const lines = cells.map((cell, row) => {
    const tick = ticks.get(row)
    const label = tick === undefined ? '' : tickLabel(tick)
    const plot = Array.from(cell, (bits) => (bits === 0 ? ' ' : String.fromCharCode(0x2800 + bits))).join('')
    return `${label.padStart(labels)} ${tick === undefined ? '│' : '┤'}${plot}`.trimEnd()
  })
  const first = String(firstStep)
  const last = `step ${firstStep + values.length - 1}`
  const gap = ' '.repeat(Math.max(1, columns - first.length - last.length))
  return `${[
    `${' '.repeat(labels + 2)}${title}`,
    ...lines,
    `${' '.repeat(labels + 1)}└${'─'.repeat(columns)}`,
    `${' '.repeat(labels + 2)}${first}${gap}${last}`,
  ].join('\n')}\n`
}

function columnMeans(values: readonly number[], columns: number): number[] {
  return Array.from({ length: columns }, (_, i) => {
    const start = Math.floor((i * values.length) / columns)
    const end = Math.floor(((i + 1) * values.length) / columns)
    const part = values.slice(start, end).filter(Number.isFinite)
    return part.length === 0 ? Number.NaN : part.reduce((sum, value) => sum + value, 0) / part.length
  })
}

function tickLabel(value: number): string {
  const size = Math.abs(value)
  if (size !== 0 && (size >= 1e5 || size < 1e-3)) return value.toExponential(1)
  return size >= 1000 ? value.toFixed(0) : value.toFixed(3)
}
