// What a rank does at a time: runs of programs, and steps made of them. Runs are asked for ahead, so that the device goes from one to the
// next by itself; what each brought is taken as it ends, before the next one ends.
import type { Program } from '../../kernels/abi/program.js'
import { type GroupToken, type RankDevice, RunError, type RunOptions, type RunReport } from '../../native/device.js'
import { groupProgress } from '../../native/index.js'
import type { ActorRef } from '../../runtime/actor/protocol.js'
import type { SlotArrays } from '../../runtime/data/slot.js'
import type { ProgramName } from '../../runtime/graph/compile.js'
import { orderName } from '../../runtime/graph/passes/order.js'
import type { OptimizerShardProtocol } from '../optimizer-shard/protocol.js'
import { sufferAfter, sufferBefore, sufferDuring } from './fault.js'
import type { BatchShape, StepOrder, StepReport } from './protocol.js'
import { fillScalars, leftAlone, type MicroRun, microRuns } from './state.js'

export interface Loaded {
  readonly handle: number
  readonly program: Program
}

export interface RankState {
  readonly token: GroupToken
  readonly rank: number
  readonly device: RankDevice
  readonly programs: ReadonlyMap<ProgramName, Loaded>
  readonly slots: readonly SlotArrays[]
  readonly batch: BatchShape
  readonly optimizer: ActorRef<OptimizerShardProtocol>
  /** The step at whose end parameters and optimizer states are once no run is under way; null: not known. */
  held: number | null
  /** Runs under way. */
  running: number
  /** What `groupProgress` says once all runs that were asked for are done. */
  asked: number
  /** When the latest run ended, by `performance.now()`. */
  ended: number
  /** Steps that were begun and not yet reported, the oldest first. */
  readonly flights: Flight[]
}

/** A step under way. */
export interface Flight {
  /** All its runs are asked for. Rejects where one cannot be. */
  readonly asked: Promise<void>
  readonly report: Promise<StepReport>
}

export function loaded(state: RankState, name: ProgramName): Loaded {
  const found = state.programs.get(name)
  if (!found)
    throw new Error(`rank ${state.rank}: program ${name}, expected one of ${[...state.programs.keys()].join(', ')}`)
  return found
}

/** Shared memory that a program's tensor of that name lies in. */
export function binding(state: RankState, program: Program, name: string): Int32Array | Float32Array | Float64Array {
  const { byteOffset, dtype, shape } = program.tensors[program.bindings[name]!]!
  const length = shape.reduce((a, b) => a * b, 1)
  const { io } = state.device
  if (dtype === 'i32') return new Int32Array(io, byteOffset, length)
  return dtype === 'f64' ? new Float64Array(io, byteOffset, length) : new Float32Array(io, byteOffset, length)
}

export function setRows(state: RankState, program: Program, slot: number, row: number): void {
  const { inputs, targets, order } = state.slots[slot]!
  const { sequence, micro } = state.batch
  const [from, to] = [row * sequence, (row + micro) * sequence]
  binding(state, program, 'tokens').set(inputs.subarray(from, to))
  binding(state, program, 'targets').set(targets.subarray(from, to))
  if (order && orderName in program.bindings) binding(state, program, orderName).set(order.subarray(from, to))
}

/** Runs a program behind those under way. After a failure inside the update nothing is known of what this rank holds. */
export async function run(
  state: RankState,
  name: ProgramName,
  scalars: Readonly<Record<string, number>>,
  options: RunOptions = {},
): Promise<RunReport & { readonly nativeSeconds: number }> {
  const { handle, program } = loaded(state, name)
  const values = fillScalars(program, scalars)
  const started = performance.now()
  state.asked += program.instructions.length
  state.running += 1
  try {
    const report = await state.device.run(handle, values, options)
    const since = Math.max(started, state.ended)
    state.ended = performance.now()
    return { ...report, nativeSeconds: (state.ended - since) / 1000 }
  } catch (error) {
    if (!isAborted(error) || !leftAlone(program, error.instruction)) state.held = null
    throw error
  } finally {
    state.running -= 1
  }
}

export const isAborted = (error: unknown): error is RunError => error instanceof RunError && error.code === 'aborted'

/** What a micro-step brought. */
interface MicroReport {
  readonly loss: number
  /** Of one that updates. */
  readonly control: Float64Array | null
  readonly nativeSeconds: number
  readonly profile: NonNullable<StepReport['profile']>
}

async function runMicro(
  state: RankState,
  order: StepOrder,
  { program: name, row, sample }: MicroRun,
  more = false,
): Promise<MicroReport> {
  const { program } = loaded(state, name)
  setRows(state, program, order.slot, row)
  let loss = 0
  let control: Float64Array | null = null
  const written = (): void => {
    loss = binding(state, program, 'loss')[0]!
    if (!('control' in program.bindings)) return
    control = Float64Array.from(binding(state, program, 'control'))
    state.held = order.step
  }
  const { profile } = order
  const { seconds, nativeSeconds } = await run(state, name, { ...order.scalars, sample }, { profile, more, written })
  return { loss, control, nativeSeconds, profile: seconds ? [{ program: name, seconds }] : [] }
}

/** A micro-step with the faults that strike meanwhile. */
async function sufferMicro(
  state: RankState,
  order: StepOrder,
  micro: MicroRun,
  [m, micros]: readonly [number, number],
  signal: AbortSignal,
): Promise<MicroReport> {
  const { faults = [] } = order
  const before = state.asked
  const done = (): number => groupProgress(state.token)[state.rank]!.instructions - before
  const over = runMicro(state, order, micro)
  const { instructions } = loaded(state, micro.program).program
  const running = { instructions: instructions.length, done, over }
  const [report] = await Promise.all([over, sufferDuring(faults, m, micros, running, signal)])
  return report
}

/** Begins a step once all runs of those before it are asked for. */
export function begin(state: RankState, order: StepOrder, signal: AbortSignal): void {
  const before = state.flights.at(-1)?.asked ?? Promise.resolve()
  let tell = (): void => {}
  const told = new Promise<void>((resolve) => {
    tell = resolve
  })
  const report = before.then(() => makeStep(state, order, signal, tell))
  const asked = Promise.race([told, report.then(() => {})])
  // Whoever comes to them gets the error.
  for (const promise of [asked, report]) promise.catch(() => {})
  state.flights.push({ asked, report })
}

/** Makes a step; `asked` is called once all its runs are asked for. Faults have it made one micro-step at a time. */
async function makeStep(
  state: RankState,
  order: StepOrder,
  signal: AbortSignal,
  asked: () => void,
): Promise<StepReport> {
  const { faults = [] } = order
  const runs = microRuns(state.batch, state.rank, state.token.ranks, order)
  const under: Promise<MicroReport>[] = []
  for (const [m, micro] of runs.entries()) {
    const strikes = faults.length > 0
    if (strikes) await sufferBefore(faults, m, runs.length, signal)
    const started = performance.now()
    const more = m < runs.length - 1
    under.push(
      strikes ? sufferMicro(state, order, micro, [m, runs.length], signal) : runMicro(state, order, micro, more),
    )
    if (!more) asked()
    if (!strikes) continue
    await under[m]
    await sufferAfter(faults, performance.now() - started, signal)
  }
  const settled = await Promise.allSettled(under)
  const failed = settled.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined
  if (failed) throw failed.reason
  const made = await Promise.all(under)
  const losses = made.map(({ loss }) => loss)
  const [norm, , finite, candidate] = made.at(-1)!.control!
  return {
    losses,
    norm: norm!,
    finite: finite === 1 && losses.every(Number.isFinite),
    candidate: candidate!,
    nativeSeconds: made.reduce((sum, { nativeSeconds }) => sum + nativeSeconds, 0),
    ...(order.profile && { profile: made.flatMap(({ profile }) => profile) }),
  }
}

/** Settles when no step is under way any more. */
export const landed = ({ flights }: RankState): Promise<unknown> =>
  Promise.allSettled(flights.map(({ report }) => report))
