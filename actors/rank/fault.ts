// Faults that a run is asked to suffer (`--chaos`), as a rank lives through them. They are real: the thread ends, the heap fills, the
// handler throws, so that what is tested is what happens when the same comes unasked.
import { setTimeout as sleep } from 'node:timers/promises'

export type Fault =
  /** The rank's worker thread ends, at a moment of the step drawn from the seed: between two runs, or inside one. */
  | { readonly kind: 'kill'; readonly moment: number }
  /** The rank's handler throws. */
  | { readonly kind: 'throw' }
  /** The rank's worker thread runs out of heap. */
  | { readonly kind: 'oom' }
  /** The rank does nothing for a while; the others wait in their next collective. */
  | { readonly kind: 'stall'; readonly seconds: number }
  /** The rank takes `factor` times as long, in every step. */
  | { readonly kind: 'slow'; readonly factor: number }
  /** The rank's mailbox is filled to its bound while it is busy. */
  | { readonly kind: 'flood' }

/** How long a flooded rank stays busy, so that its mailbox cannot drain; its sender gives up well before. */
const floodedSeconds = 3

/** What happens before micro-step `micro` of `micros`. */
export async function sufferBefore(
  faults: readonly Fault[],
  micro: number,
  micros: number,
  signal: AbortSignal,
): Promise<void> {
  for (const fault of faults) {
    if (fault.kind === 'kill' && placeOf(fault.moment, micros) === micro) process.exit(1)
    if (micro > 0) continue
    if (fault.kind === 'throw') throw new Error('chaos: throw')
    if (fault.kind === 'oom') fillHeap()
    if (fault.kind === 'stall') await sleep(fault.seconds * 1000, undefined, { signal })
    if (fault.kind === 'flood') await sleep(floodedSeconds * 1000, undefined, { signal })
  }
}

/** What happens while micro-step `micro` runs. */
export function sufferDuring(faults: readonly Fault[], micro: number, micros: number): void {
  for (const fault of faults) {
    if (fault.kind === 'kill' && placeOf(fault.moment, micros) === micro + 0.5) process.exit(1)
  }
}

/** What happens after a micro-step that took `milliseconds`. */
export async function sufferAfter(faults: readonly Fault[], milliseconds: number, signal: AbortSignal): Promise<void> {
  for (const fault of faults) {
    if (fault.kind === 'slow') await sleep((fault.factor - 1) * milliseconds, undefined, { signal })
  }
}

/** A moment in [0, 1) as a micro-step, or half a micro-step more for inside its run. */
const placeOf = (moment: number, micros: number): number => Math.floor(2 * micros * moment) / 2

function fillHeap(): never {
  const hoard: object[] = []
  for (;;) hoard.push({ at: hoard.length })
}
