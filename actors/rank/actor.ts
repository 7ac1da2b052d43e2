// A rank: one native call for each micro-step, asked for ahead, so that the device goes from one step to the next while messages travel.
// The worker's event loop stays free for control messages; if this life ends, the communicator is aborted so that no other rank waits for
// it. It always knows of which step's end its state is, so that a life that ends in order can leave its memory to the next.
import { decodeProgram, type Program } from '../../kernels/abi/program.js'
import { type GroupToken, type RankDevice, RunError, type RunOptions, type RunReport } from '../../native/device.js'
import { abortGroup, groupProgress, openRank } from '../../native/index.js'
import { type ActorContext, type Behaviour, defineActor } from '../../runtime/actor/definition.js'
import type { ActorRef } from '../../runtime/actor/protocol.js'
import type { ProgramName } from '../../runtime/graph/compile.js'
import { optimizerShard } from '../optimizer-shard/actor.js'
import type { OptimizerShardProtocol } from '../optimizer-shard/protocol.js'
import { forgetDevice, readRegions, shareDevice, writeRegions } from './device.js'
import { sufferAfter, sufferBefore, sufferDuring } from './fault.js'
import type { BatchShape, Diagnosis, RankArgs, RankProtocol, StepOrder, StepReport } from './protocol.js'
import { fillScalars, leftAlone, type MicroRun, microRuns } from './state.js'

interface Loaded {
  readonly handle: number
  readonly program: Program
}

interface RankState {
  readonly token: GroupToken
  readonly rank: number
  readonly device: RankDevice
  readonly programs: ReadonlyMap<ProgramName, Loaded>
  readonly slots: readonly SharedArrayBuffer[]
  readonly batch: BatchShape
  readonly optimizer: ActorRef<OptimizerShardProtocol>
  /** The step at whose end parameters and optimizer states are once no run is under way; null: not known. */
  held: number | null
  /** Runs under way. */
  running: number
  /** Instructions of all runs that were asked for. */
  asked: number
  /** When the latest run ended, by `performance.now()`. */
  ended: number
  /** Steps that were begun and not yet reported, the oldest first. */
  readonly flights: Flight[]
}

/** A step under way. */
interface Flight {
  /** All its runs are asked for. Rejects where one cannot be. */
  readonly asked: Promise<void>
  readonly report: Promise<StepReport>
}

/** Arenas that a rank reserves itself. */
const rankArenas = ['parameters', 'gradients', 'activations', 'buckets', 'gathered', 'workspace'] as const

/** Scalars of programs without randomness; attention lists them all the same. */
const idle = { seed: 0, step: 0, sample: 0 }

function loaded(state: RankState, name: ProgramName): Loaded {
  const found = state.programs.get(name)
  if (!found)
    throw new Error(`rank ${state.rank}: program ${name}, expected one of ${[...state.programs.keys()].join(', ')}`)
  return found
}

/** Shared memory that a program's tensor of that name lies in. */
function binding(state: RankState, program: Program, name: string): Int32Array | Float32Array | Float64Array {
  const { byteOffset, dtype, shape } = program.tensors[program.bindings[name]!]!
  const length = shape.reduce((a, b) => a * b, 1)
  const { io } = state.device
  if (dtype === 'i32') return new Int32Array(io, byteOffset, length)
  return dtype === 'f64' ? new Float64Array(io, byteOffset, length) : new Float32Array(io, byteOffset, length)
}

function setRows(state: RankState, program: Program, slot: number, row: number): void {
  const { rows, sequence, micro } = state.batch
  const batch = new Int32Array(state.slots[slot]!)
  const count = micro * sequence
  binding(state, program, 'tokens').set(batch.subarray(row * sequence, row * sequence + count))
  const targets = (rows + row) * sequence
  binding(state, program, 'targets').set(batch.subarray(targets, targets + count))
}

/** Runs a program behind those under way. After a failure inside the update nothing is known of what this rank holds. */
async function run(
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

/** Writes what the next step goes on from. Programs that do not train have nothing of the kind. */
async function goOnFrom({ programs, optimizer }: RankState, numbers: readonly number[]): Promise<void> {
  const training = [...programs.values()].map(({ program }) => program).find(({ bindings }) => 'step' in bindings)
  if (!training) return
  const { byteOffset } = training.tensors[training.bindings['step']!]!
  const bytes = new Uint8Array(Float64Array.from(numbers).buffer)
  await optimizer.ask({ type: 'write', regions: [{ byteOffset, bytes: bytes.length }], bytes })
}

const isAborted = (error: unknown): error is RunError => error instanceof RunError && error.code === 'aborted'

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
  const { seconds, nativeSeconds } = await run(state, name, { ...order.scalars, sample }, { profile, written })
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
function begin(state: RankState, order: StepOrder, signal: AbortSignal): void {
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
    under.push(strikes ? sufferMicro(state, order, micro, [m, runs.length], signal) : runMicro(state, order, micro))
    if (m === runs.length - 1) asked()
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

/** No step is under way any more. */
const landed = ({ flights }: RankState): Promise<unknown> => Promise.allSettled(flights.map(({ report }) => report))

/** Opens the rank and loads its programs, onto the memory that an earlier life kept or fresh one. */
async function open(
  context: ActorContext<RankProtocol>,
  device: RankDevice,
  { token, rank, programs, slots, batch }: RankArgs,
): Promise<RankState> {
  shareDevice(token, rank, device)
  if (device.kept === null) for (const arena of rankArenas) device.allocate(arena)
  const optimizer = await context.spawn(
    optimizerShard,
    { token, rank },
    { name: 'optimizer', worker: context.worker, maxRestarts: 0 },
  )
  const handles = Object.entries(programs).map(
    ([name, bytes]) => [name as ProgramName, { handle: device.load(bytes), program: decodeProgram(bytes) }] as const,
  )
  return {
    token,
    rank,
    device,
    programs: new Map(handles),
    slots,
    batch,
    optimizer,
    held: device.kept,
    running: 0,
    asked: 0,
    ended: 0,
    flights: [],
  }
}

async function close(token: GroupToken, rank: number, device: RankDevice, held: number | null): Promise<void> {
  forgetDevice(token, rank)
  await device.close(held)
}

const behaviour: Behaviour<RankProtocol, RankState, RankArgs> = {
  async init(context, args) {
    const { token, rank, threads, cores } = args
    const device = openRank(token, { rank, threads, ...(cores && { cores: cores[rank]! }) })
    context.signal.addEventListener('abort', () => abortGroup(token, `rank ${rank} ended`), { once: true })
    try {
      return await open(context, device, args)
    } catch (error) {
      await close(token, rank, device, device.kept)
      throw error
    }
  },

  receive: {
    held: (state) => (state.running > 0 ? null : state.held),

    async initialize(state, { seed, state: next }) {
      if (state.device.kept !== null) await state.optimizer.ask({ type: 'clear' })
      if (seed !== null) await run(state, 'initialize', { seed })
      await goOnFrom(state, next)
      state.held = 0
    },

    async refresh(state, { step, state: next }) {
      await run(state, 'refresh', {})
      await goOnFrom(state, next)
      state.held = step
    },

    step(state, { orders }, { signal }) {
      for (const order of orders) begin(state, order, signal)
      return state.flights.shift()!.report
    },

    async diagnose(state, { order }): Promise<Diagnosis | null> {
      for (const [micro, { program: name, row, sample }] of microRuns(
        state.batch,
        state.rank,
        state.token.ranks,
        order,
      ).entries()) {
        const { program } = loaded(state, name)
        setRows(state, program, order.slot, row)
        const { nonFinite } = await run(state, name, { ...order.scalars, sample }, { check: true })
        if (nonFinite === undefined) continue
        const { op, debug } = program.instructions[nonFinite]!
        const { flops: _flops, bytes: _bytes, ...where } = debug
        return { rank: state.rank, micro, op, ...where }
      }
      return null
    },

    async evaluate(state, { slot }) {
      const { program } = loaded(state, 'evaluate')
      setRows(state, program, slot, state.rank * state.batch.micro)
      await run(state, 'evaluate', idle)
      return binding(state, program, 'loss')[0]!
    },

    async forward(state, { tokens, logits }) {
      const { program } = loaded(state, 'forward')
      const row = binding(state, program, 'tokens')
      row.fill(0)
      row.set(tokens)
      await run(state, 'forward', idle)
      if (state.rank !== 0) return
      const { arena, byteOffset } = program.tensors[program.bindings['logits']!]!
      state.device.read(arena, byteOffset, logits)
    },

    async read(state, { arena, regions, target }) {
      await landed(state)
      if (arena === 'optimizer') await state.optimizer.ask({ type: 'read', regions, target })
      else readRegions(state.device, arena, regions, target)
    },

    async write(state, { arena, regions, bytes }) {
      await landed(state)
      state.held = null
      if (arena === 'optimizer') await state.optimizer.ask({ type: 'write', regions, bytes })
      else writeRegions(state.device, arena, regions, bytes)
    },
  },

  async stop(state, _context, { kind, error }) {
    await landed(state)
    const { token, rank, device, held } = state
    // What went wrong on this rank itself makes its memory doubtful; an abort came from elsewhere.
    await close(token, rank, device, kind === 'exception' && !isAborted(error) ? null : held)
  },
}

export const rank = defineActor(import.meta.url, 'rank', behaviour)
