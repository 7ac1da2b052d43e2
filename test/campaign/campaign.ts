// Long seeded campaigns: what `npm test` samples, these cover. Every other module of this folder exports one as `campaign`.
import { hashed } from '../support/training.js'

export interface CampaignContext {
  readonly seed: number
  /** Time to stop, by `performance.now()`. */
  readonly deadline: number
  /** A line for the person who waits, on stderr. */
  note(text: string): void
}

export interface Campaign {
  readonly name: string
  /** Resolves with what was covered, for the summary; rejects with the first thing that is wrong, told so that it can be redone. */
  run(context: CampaignContext): Promise<Readonly<Record<string, unknown>>>
}

/** Draws from a seed. */
export class Draws {
  #count = 0
  constructor(readonly seed: number) {}

  /** From 0 to below 1. */
  next(): number {
    return hashed(this.#count++, this.seed)
  }

  /** A whole number from `low` to below `high`. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low))
  }

  pick<T>(items: readonly T[]): T {
    return items[this.integer(0, items.length)]!
  }

  shuffled<T>(items: readonly T[]): T[] {
    return items
      .map((item) => ({ item, key: this.next() }))
      .sort((a, b) => a.key - b.key)
      .map(({ item }) => item)
  }
}
