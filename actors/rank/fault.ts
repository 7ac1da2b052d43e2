// Faults that a run is asked to suffer (`--chaos`), as a rank lives through them. They are real: the thread ends or blocks, the heap
// fills, the handler throws, so that what is tested is what happens when the same comes unasked.
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'

/** What strikes once in a step, at a moment of it from 0 to below 1. */
export type Strike = { readonly moment: number } & (
  | {
      /**
       * `kill`: the rank's worker thread ends. `throw`: its handler throws. `oom`: its thread runs out of heap. `freeze`: its thread
       * blocks for good.
       */
      readonly kind: 'kill' | 'throw' | 'oom' | 'freeze'
    }
  /** The rank does nothing for a while; the others wait in their next collective. */
  | { readonly kind: 'stall'; readonly seconds: number }
)

export type Fault =
  | Strike
  /** The rank takes `factor` times as long, in every step. */
  | { readonly kind: 'slow'; readonly factor: number }
  /** The rank's mailbox is filled to its bound while it is busy. */
  | { readonly kind: 'flood' }

/** How long a flooded rank stays busy, so that its mailbox cannot drain; its sender gives up well before. */
const floodedSeconds = 3

/** A run under way. */
export interface Running {
  /** Instructions of its program. */
  readonly instructions: number
  /** How many of them are done. */
  done(): number
  /** Settles when it has ended. */
  readonly over: Promise<unknown>
}

/** What happens before micro-step `micro` of `micros`. */
export async function sufferBefore(
  faults: readonly Fault[],
  micro: number,
  micros: number,
  signal: AbortSignal,
): Promise<void> {
  for (const fault of faults) {
    if (fault.kind === 'flood' && micro === 0) await pause(floodedSeconds, signal)
    if (!('moment' in fault)) continue
    const place = placeOf(fault.moment, micros)
    if (place.micro === micro && place.part === null) await strike(fault, signal)
  }
}

/**
 * What happens while micro-step `micro` runs, when a part of its instructions is done: also inside a collective. A device that computes
 * on the worker itself leaves no moment in between: there it happens at the run's end.
 */
export async function sufferDuring(
  faults: readonly Fault[],
  micro: number,
  micros: number,
  running: Running,
  signal: AbortSignal,
): Promise<void> {
  for (const fault of faults) {
    if (!('moment' in fault)) continue
    const place = placeOf(fault.moment, micros)
    if (place.micro !== micro || place.part === null) continue
    const target = Math.floor(place.part * (running.instructions + 1))
    let over = false
    const ended = (): void => {
      over = true
    }
    running.over.then(ended, ended)
    while (running.done() < target && !over) await turn()
    if (running.done() >= target) await strike(fault, signal)
  }
}

/** What happens after a micro-step that took `milliseconds`. */
export async function sufferAfter(faults: readonly Fault[], milliseconds: number, signal: AbortSignal): Promise<void> {
  for (const fault of faults) {
    if (fault.kind === 'slow') await pause(((fault.factor - 1) * milliseconds) / 1000, signal)
  }
}

/** The micro-step of a moment, and the part of its run that is done by then; null: it has not begun. */
function placeOf(moment: number, micros: number): { micro: number; part: number | null } {
  const at = 2 * micros * moment
  const half = Math.floor(at)
  return { micro: half >> 1, part: half % 2 === 0 ? null : at - half }
}

async function strike(fault: Strike, signal: AbortSignal): Promise<void> {
  switch (fault.kind) {
    case 'kill':
      process.exit(1)
      break
    case 'throw':
      throw new Error('chaos: throw')
    case 'oom':
      fillHeap()
      break
    case 'freeze':
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
      break
    case 'stall':
      await pause(fault.seconds, signal)
  }
}

/** Sleeps, at the longest until the rank's life is to end. */
async function pause(seconds: number, signal: AbortSignal): Promise<void> {
  await sleep(seconds * 1000, undefined, { signal }).catch(() => {})
}

function fillHeap(): never {
  const hoard: object[] = []
  for (;;) hoard.push({ at: hoard.length })
}
