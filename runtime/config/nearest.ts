// "Did you mean": the known name closest to a mistyped one. Used for config keys, option values and command-line flags.

/** Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment). */
export function editDistance(a: string, b: string): number {
  const rows = a.length + 1
  const columns = b.length + 1
  const cost = new Int32Array(rows * columns)
  const at = (i: number, j: number): number => cost[i * columns + j]!
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      if (i === 0 || j === 0) {
        cost[i * columns + j] = i + j
        continue
      }
      const same = a[i - 1] === b[j - 1] ? 0 : 1
      let best = Math.min(at(i - 1, j) + 1, at(i, j - 1) + 1, at(i - 1, j - 1) + same)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, at(i - 2, j - 2) + 1)
      cost[i * columns + j] = best
    }
  }
  return at(rows - 1, columns - 1)
}

/**
 * The candidate nearest to `name`, case aside, or null if none is near: at most a third of the longer name, and at least one
 * letter, may differ. Among equals the first one wins.
 */
export function nearest(name: string, candidates: Iterable<string>): string | null {
  let best: string | null = null
  let least = Number.POSITIVE_INFINITY
  for (const candidate of candidates) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase())
    const allowed = Math.max(1, Math.floor(Math.max(name.length, candidate.length) / 3))
    if (distance <= allowed && distance < least) {
      best = candidate
      least = distance
    }
  }
  return best
}
