// What an actor's host measures: how long handlers took. All of the first runs are timed, later one in sixteen, so that a fast
// actor is not slowed by its clock. Percentiles are over the latest samples and within 2 %: a sample is kept as ten bits of its
// logarithm, for there may be very many actors, and most of them idle.

const kept = 120
const timedAtFirst = 64
const oneIn = 16

const bits = 10
const perWord = 3
const mask = (1 << bits) - 1
/** Codes from one power of two to the next; with 1 for a microsecond they reach 27 hours. */
const perOctave = 28

const codeOf = (ms: number): number => {
  const micros = ms * 1000
  return micros < 1 ? 0 : Math.min(1 + Math.round(Math.log2(micros) * perOctave), mask)
}

const timeOf = (code: number): number => (code === 0 ? 0 : 2 ** ((code - 1) / perOctave) / 1000)

/** Milliseconds that handlers took, asynchronous work included; below a microsecond is 0. */
export interface HandlerView {
  /** Runs since the life began. */
  readonly count: number
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
}

export class HandlerTimes {
  /** Codes of the latest samples, three to a word. */
  private readonly words: number[] = []
  private samples = 0
  private next = 0
  private count = 0

  /** Counts a run; true: it is to be timed. */
  begin(): boolean {
    return this.count++ < timedAtFirst || this.count % oneIn === 0
  }

  note(ms: number): void {
    const at = Math.floor(this.next / perWord)
    const shift = (this.next % perWord) * bits
    this.words[at] = ((this.words[at] ?? 0) & ~(mask << shift)) | (codeOf(ms) << shift)
    this.next = (this.next + 1) % kept
    if (this.samples < kept) this.samples++
  }

  view(): HandlerView {
    const codes = Array.from(
      { length: this.samples },
      (_, n) => (this.words[Math.floor(n / perWord)]! >>> ((n % perWord) * bits)) & mask,
    )
    codes.sort((a, b) => a - b)
    const at = (quantile: number): number => timeOf(codes[Math.ceil(quantile * codes.length) - 1] ?? 0)
    return { count: this.count, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) }
  }
}
