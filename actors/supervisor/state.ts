// The supervisor's memory between steps: which batch lies in which slot. Pure.
import type { StepReport } from '../rank/protocol.js'
import type { TrainReport } from './protocol.js'

/** Slots by the first sample of the batch in them. */
export interface Slots {
  readonly samples: readonly (number | null)[]
}

export const emptySlots = (count: number): Slots => ({ samples: Array.from({ length: count }, () => null) })

/** The slot that holds a batch, or undefined. */
export function slotOf(slots: Slots, sample: number): number | undefined {
  const slot = slots.samples.indexOf(sample)
  return slot < 0 ? undefined : slot
}

/** A slot for a new batch, none of `busy`; an empty one where there is one. */
export function takeSlot(slots: Slots, sample: number | null, busy: readonly number[]): { slots: Slots; slot: number } {
  const free = slots.samples.findIndex((held, i) => held === null && !busy.includes(i))
  const slot = free >= 0 ? free : slots.samples.findIndex((_, i) => !busy.includes(i))
  return { slots: { samples: slots.samples.map((held, i) => (i === slot ? sample : held)) }, slot }
}

/**
 * The ranks' reports as one: losses are added in order of k = micro-step * world + rank. Throws where ranks saw different norms, or had made
 * different numbers of updates: by these each decides on its own update.
 */
export function combine(reports: readonly StepReport[]): TrainReport {
  for (const [what, of] of [
    ['gradient norm', ({ norm }: StepReport) => norm],
    ['updates made', ({ candidate }: StepReport) => candidate],
  ] as const) {
    const other = reports.findIndex((report) => !Object.is(of(report), of(reports[0]!)))
    if (other < 0) continue
    const got = `${of(reports[0]!)} on rank 0 and ${of(reports[other]!)} on rank ${other}`
    throw new Error(`step: ${what}, expected the same on every rank, got ${got}`)
  }
  let sum = 0
  const micros = reports[0]!.losses.length
  for (let m = 0; m < micros; m++) for (const report of reports) sum += report.losses[m]!
  return {
    loss: sum / (micros * reports.length),
    norm: reports[0]!.norm,
    finite: reports.every((report) => report.finite),
    candidate: reports[0]!.candidate,
    ranks: reports,
  }
}
