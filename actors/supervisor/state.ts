// The supervisor's memory between steps: which batch lies in which slot. Pure.
import type { StepReport } from '../rank/protocol.js'
import type { TrainReport } from './protocol.js'

/** Slots by the first sample of the batch in them; the oldest is taken for a new one. */
export interface Slots {
  readonly samples: readonly (number | null)[]
}

export const emptySlots = (count: number): Slots => ({ samples: Array.from({ length: count }, () => null) })

/** The slot that holds a batch, or undefined. */
export function slotOf(slots: Slots, sample: number): number | undefined {
  const slot = slots.samples.indexOf(sample)
  return slot < 0 ? undefined : slot
}

/** A slot for a new batch, any but `busy`. */
export function takeSlot(slots: Slots, sample: number | null, busy: number | null): { slots: Slots; slot: number } {
  const free = slots.samples.findIndex((held, i) => held === null && i !== busy)
  const slot = free >= 0 ? free : slots.samples.findIndex((_, i) => i !== busy)
  return { slots: { samples: slots.samples.map((held, i) => (i === slot ? sample : held)) }, slot }
}

/**
 * The ranks' reports as one: losses are added in order of k = micro-step * world + rank. Throws where ranks saw different norms: by the
 * norm each decides whether to update.
 */
export function combine(reports: readonly StepReport[]): TrainReport {
  const other = reports.findIndex(({ norm }) => !Object.is(norm, reports[0]!.norm))
  if (other > 0) {
    const got = `${reports[0]!.norm} on rank 0 and ${reports[other]!.norm} on rank ${other}`
    throw new Error(`step: gradient norm, expected the same on every rank, got ${got}`)
  }
  let sum = 0
  const micros = reports[0]!.losses.length
  for (let m = 0; m < micros; m++) for (const report of reports) sum += report.losses[m]!
  return {
    loss: sum / (micros * reports.length),
    norm: reports[0]!.norm,
    finite: reports.every((report) => report.finite),
    ranks: reports,
  }
}
