// Tells a rank that hangs from ranks that only wait for it: looks again and again at how far each one is. Pure. Looks are counted, not
// time, so that a process that was stopped for a while finds nobody guilty.
import type { RankProgress } from '../../native/device.js'

/** Looks within the deadline. */
export const looks = 10

/** One watch over an operation of ranks that are all expected to answer. */
export class StallWatch {
  #last: readonly RankProgress[] | null = null
  readonly #idle: number[]

  constructor(ranks: number) {
    this.#idle = Array.from({ length: ranks }, () => 0)
  }

  /**
   * A look at all ranks, `pending` being those that have not answered. The rank that did nothing for {@link looks} looks in a row while
   * no other held it up; null: none. Where all that are pending meet in a collective for that long, others are gone: the first of them.
   */
  look(progress: readonly RankProgress[], pending: ReadonlySet<number>): number | null {
    const last = this.#last
    this.#last = progress
    if (!last) return null
    for (const rank of pending) {
      const same = progress[rank]!.instructions === last[rank]!.instructions
      this.#idle[rank] = same ? this.#idle[rank]! + 1 : 0
    }
    const stuck = [...pending].filter((rank) => this.#idle[rank]! >= looks)
    const guilty = stuck.find((rank) => !progress[rank]!.meeting)
    return guilty ?? (stuck.length === pending.size ? (stuck[0] ?? null) : null)
  }
}
