// Whether a plan fits into the machine, and if not, what would: other plans of the same run are made and measured.
import { machine } from '../../native/index.js'
import { planTotals } from '../../runtime/graph/compile.js'
import { formatBytes } from '../../runtime/observe/index.js'
import { roomOf } from './device.js'
import { EngineError } from './errors.js'
import { fitPlan } from './fit.js'
import type { PlanChoices } from './planner.js'
import type { Prepared } from './prepare.js'

/** Throws {@link EngineError} `ENGINE_MEMORY` where the ranks' plans do not fit, naming how much is missing and which settings would fit. */
export function expectRoom(prepared: Prepared): void {
  const { compilation, ranks, target } = prepared
  expectHostRoom(ranks * planTotals(compilation.plan).host)
  const bytes = target.sharers * planTotals(compilation.plan).total
  const room = roomOf(target, ranks)
  if (bytes <= room) return
  const message = `initialize: memory of the plan, expected at most ${formatBytes(room)} ${target.planned.where}, got ${formatBytes(bytes)}: ${formatBytes(bytes - room)} too much; ${advice(prepared, room)}`
  throw new EngineError('ENGINE_MEMORY', message, { bytes, room, missing: bytes - room })
}

/** What lies in the host's memory beside GPUs, of all ranks. */
function expectHostRoom(bytes: number): void {
  const room = Math.min(machine().memoryBytes, process.constrainedMemory() || Number.POSITIVE_INFINITY)
  if (bytes <= room) return
  const message = `initialize: memory of the plan on the host, expected at most ${formatBytes(room)}, got ${formatBytes(bytes)}: ${formatBytes(bytes - room)} too much; without zero_optimization.offload_optimizer it is the GPUs'`
  throw new EngineError('ENGINE_MEMORY', message, { bytes, room, missing: bytes - room })
}

/** Settings that would fit into `room`, each by itself or, where none does, all together. */
function advice(prepared: Prepared, room: number): string {
  const { choices, ranks, blocks, options, planner, target } = prepared
  if (!options.data) return 'a smaller model or fewer tokens would fit'
  const { stage, micro, accumulation, offload, recompute } = choices
  const sizeOf = (changes: Partial<PlanChoices>): number => {
    const asked = { ...choices, ...changes, logitChunks: 1 }
    return target.sharers * planTotals(fitPlan(planner, asked, target, { blocks }).compilation.plan).total
  }
  const fits = (what: string, changes: Partial<PlanChoices>): string[] => {
    const size = sizeOf(changes)
    return size <= room ? [`${what} (${formatBytes(size)})`] : []
  }
  const stages = ([1, 2, 3] as const).filter((other) => ranks > 1 && other > stage)
  const smaller = divisors(micro).map((rows) => ({ micro: rows, accumulation: (accumulation * micro) / rows }))
  const checkpointing = { recompute: { cheap: [], blocks } }
  const mayOffload = target.device === 'cuda' && !offload
  const found = [
    ...first(stages, (other) => fits(`ZeRO stage ${other}`, { stage: other })),
    ...(mayOffload ? fits('offload_optimizer', { offload: true }) : []),
    ...(recompute.blocks < blocks ? fits('activation checkpointing', checkpointing) : []),
    ...first(smaller, (batch) => fits(nameOfBatch(batch), batch)),
  ]
  if (found.length > 0) return `it would fit with ${found.join(', or with ')}`
  const all = {
    ...(stages.length > 0 && { stage: 3 as const }),
    ...(mayOffload && { offload: true }),
    ...(recompute.blocks < blocks && checkpointing),
    ...smaller.at(-1),
  }
  const together = [
    ...(all.stage ? ['ZeRO stage 3'] : []),
    ...(all.offload ? ['offload_optimizer'] : []),
    ...(all.recompute ? ['activation checkpointing'] : []),
    ...(smaller.length > 0 ? [nameOfBatch(smaller.at(-1)!)] : []),
  ].join(', ')
  if (together === '') return 'nothing that changes no result would make it fit'
  const size = sizeOf(all)
  const outcome = size <= room ? 'it would fit only with' : 'it would not fit even with'
  return `${outcome} ${together} together (${formatBytes(size)})`
}

const nameOfBatch = ({ micro, accumulation }: { readonly micro: number; readonly accumulation: number }): string =>
  `micro-batches of ${micro} x ${accumulation}`

/** What divides `n` and is less, the largest first. */
const divisors = (n: number): number[] =>
  Array.from({ length: n - 1 }, (_, i) => n - 1 - i).filter((divisor) => n % divisor === 0)

/** What `find` gives for the first item for which it gives something. */
function first<T>(items: readonly T[], find: (item: T) => string[]): string[] {
  for (const item of items) {
    const found = find(item)
    if (found.length > 0) return found
  }
  return []
}
