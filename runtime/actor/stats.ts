// What an actor's host measures: how long handlers took. All of the first runs are timed, later one in sixteen, so that a fast
// actor is not slowed by its clock; percentiles are exact over the latest samples.

const kept = 128
const timedAtFirst = 64
const oneIn = 16

/** Milliseconds that handlers took, asynchronous work included. */
export interface HandlerView {
  /** Runs since the life began. */
  readonly count: number
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
}

export class HandlerTimes {
  private readonly samples: number[] = []
  private next = 0
  private count = 0

  /** Counts a run; true: it is to be timed. */
  begin(): boolean {
    return this.count++ < timedAtFirst || this.count % oneIn === 0
  }

  note(ms: number): void {
    this.samples[this.next] = ms
    this.next = (this.next + 1) % kept
  }

  view(): HandlerView {
    const sorted = this.samples.toSorted((a, b) => a - b)
    const at = (quantile: number): number => sorted[Math.ceil(quantile * sorted.length) - 1] ?? 0
    return { count: this.count, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) }
  }
}
