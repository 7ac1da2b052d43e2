// A rank: one native call for each micro-step. While it is under way the worker's event loop stays free for control messages; if this
// life ends, the communicator is aborted so that no other rank waits for it. It always knows of which step's end its state is, so that
// a life that ends in order can leave its memory to the next.
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
  /** The step at whose end parameters and optimizer states are; null: not known. */
  held: number | null
  /** Of the native calls of a step. */
  nativeSeconds: number
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

/** Runs a program. While it runs, and after a failure inside the update, nothing is known of what this rank holds. */
async function run(
  state: RankState,
  name: ProgramName,
  scalars: Readonly<Record<string, number>>,
  options: RunOptions = {},
): Promise<RunReport> {
  const { handle, program } = loaded(state, name)
  const { held } = state
  state.held = null
  const values = fillScalars(program, scalars)
  const started = performance.now()
  try {
    const report = await state.device.run(handle, values, options)
    state.nativeSeconds += (performance.now() - started) / 1000
    state.held = held
    return report
  } catch (error) {
    if (isAborted(error) && leftAlone(program, error.instruction)) state.held = held
    throw error
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

function runMicro(state: RankState, order: StepOrder, micro: MicroRun, check: boolean): Promise<RunReport> {
  setRows(state, loaded(state, micro.program).program, order.slot, micro.row)
  return run(state, micro.program, { ...order.scalars, sample: micro.sample }, { check, profile: order.profile })
}

/** A micro-step with the faults that strike meanwhile. */
async function sufferMicro(
  state: RankState,
  order: StepOrder,
  micro: MicroRun,
  [m, micros]: readonly [number, number],
  signal: AbortSignal,
): Promise<RunReport> {
  const { faults = [] } = order
  const done = (): number => groupProgress(state.token)[state.rank]!.instructions
  const before = done()
  const over = runMicro(state, order, micro, false)
  const { instructions } = loaded(state, micro.program).program
  const running = { instructions: instructions.length, done: () => done() - before, over }
  const [report] = await Promise.all([over, sufferDuring(faults, m, micros, running, signal)])
  return report
}

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
    nativeSeconds: 0,
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
    held: (state) => state.held,

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

    async step(state, order, { signal }): Promise<StepReport> {
      const { faults = [] } = order
      const losses: number[] = []
      const profile: { program: ProgramName; seconds: Float64Array }[] = []
      let control = new Float64Array()
      state.nativeSeconds = 0
      const runs = microRuns(state.batch, state.rank, state.token.ranks, order)
      for (const [m, micro] of runs.entries()) {
        await sufferBefore(faults, m, runs.length, signal)
        const started = performance.now()
        const { seconds } =
          faults.length === 0
            ? await runMicro(state, order, micro, false)
            : await sufferMicro(state, order, micro, [m, runs.length], signal)
        const { program } = loaded(state, micro.program)
        losses.push(binding(state, program, 'loss')[0]!)
        if (seconds) profile.push({ program: micro.program, seconds })
        if ('control' in program.bindings) {
          control = Float64Array.from(binding(state, program, 'control'))
          state.held = order.step
        }
        await sufferAfter(faults, performance.now() - started, signal)
      }
      const finite = control[2] === 1 && losses.every(Number.isFinite)
      return {
        losses,
        norm: control[0]!,
        finite,
        nativeSeconds: state.nativeSeconds,
        ...(order.profile && { profile }),
      }
    },

    async diagnose(state, order): Promise<Diagnosis | null> {
      for (const [micro, micros] of microRuns(state.batch, state.rank, state.token.ranks, order).entries()) {
        const { nonFinite } = await runMicro(state, { ...order, profile: false }, micros, true)
        if (nonFinite === undefined) continue
        const { op, debug } = loaded(state, micros.program).program.instructions[nonFinite]!
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
      if (arena === 'optimizer') await state.optimizer.ask({ type: 'read', regions, target })
      else readRegions(state.device, arena, regions, target)
    },

    async write(state, { arena, regions, bytes }) {
      state.held = null
      if (arena === 'optimizer') await state.optimizer.ask({ type: 'write', regions, bytes })
      else writeRegions(state.device, arena, regions, bytes)
    },
  },

  stop({ token, rank, device, held }, _context, { kind, error }) {
    // What went wrong on this rank itself makes its memory doubtful; an abort came from elsewhere.
    return close(token, rank, device, kind === 'exception' && !isAborted(error) ? null : held)
  },
}

export const rank = defineActor(import.meta.url, 'rank', behaviour)
