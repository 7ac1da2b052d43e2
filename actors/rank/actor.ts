// A rank: one native call for each micro-step. While it is under way the worker's event loop stays free for control messages; if this
// life ends, the communicator is aborted so that no other rank waits for it.
import { decodeProgram, type Program } from '../../kernels/abi/program.js'
import type { GroupToken, RankDevice, RunReport } from '../../native/device.js'
import { abortGroup, openRank } from '../../native/index.js'
import { type Behaviour, defineActor } from '../../runtime/actor/definition.js'
import type { ActorRef } from '../../runtime/actor/protocol.js'
import type { ProgramName } from '../../runtime/graph/compile.js'
import { optimizerShard } from '../optimizer-shard/actor.js'
import type { OptimizerShardProtocol } from '../optimizer-shard/protocol.js'
import { forgetDevice, readRegions, shareDevice, writeRegions } from './device.js'
import { sufferAfter, sufferBefore, sufferDuring } from './fault.js'
import type { BatchShape, Diagnosis, RankArgs, RankProtocol, StepOrder, StepReport } from './protocol.js'
import { fillScalars, type MicroRun, microRuns } from './state.js'

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
}

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

async function runMicro(state: RankState, order: StepOrder, run: MicroRun, check: boolean): Promise<RunReport> {
  const { handle, program } = loaded(state, run.program)
  setRows(state, program, order.slot, run.row)
  const scalars = fillScalars(program, { ...order.scalars, sample: run.sample })
  return state.device.run(handle, scalars, { check, profile: order.profile })
}

const behaviour: Behaviour<RankProtocol, RankState, RankArgs> = {
  async init(context, { token, rank, threads, programs, slots, batch }) {
    const device = openRank(token, { rank, threads })
    context.signal.addEventListener('abort', () => abortGroup(token, `rank ${rank} ended`), { once: true })
    shareDevice(token, rank, device)
    for (const arena of ['parameters', 'gradients', 'activations', 'buckets', 'gathered', 'workspace'] as const) {
      device.allocate(arena)
    }
    const optimizer = await context.spawn(
      optimizerShard,
      { token, rank },
      { name: 'optimizer', worker: context.worker, maxRestarts: 0 },
    )
    const handles = Object.entries(programs).map(
      ([name, bytes]) => [name as ProgramName, { handle: device.load(bytes), program: decodeProgram(bytes) }] as const,
    )
    return { token, rank, device, programs: new Map(handles), slots, batch, optimizer }
  },

  receive: {
    optimizer: (state) => state.optimizer,

    async initialize(state, { seed }) {
      const { handle, program } = loaded(state, 'initialize')
      await state.device.run(handle, fillScalars(program, { seed }))
    },

    async refresh(state) {
      const { handle, program } = loaded(state, 'refresh')
      await state.device.run(handle, fillScalars(program, {}))
    },

    async step(state, order, { signal }): Promise<StepReport> {
      const { faults = [] } = order
      const losses: number[] = []
      const profile: { program: ProgramName; seconds: Float64Array }[] = []
      let control = new Float64Array()
      const runs = microRuns(state.batch, state.rank, state.token.ranks, order)
      for (const [m, run] of runs.entries()) {
        await sufferBefore(faults, m, runs.length, signal)
        const started = performance.now()
        const running = runMicro(state, order, run, false)
        sufferDuring(faults, m, runs.length)
        const { seconds } = await running
        await sufferAfter(faults, performance.now() - started, signal)
        const { program } = loaded(state, run.program)
        losses.push(binding(state, program, 'loss')[0]!)
        if (seconds) profile.push({ program: run.program, seconds })
        if ('control' in program.bindings) control = Float64Array.from(binding(state, program, 'control'))
      }
      const finite = control[2] === 1 && losses.every(Number.isFinite)
      return { losses, norm: control[0]!, finite, ...(order.profile && { profile }) }
    },

    async diagnose(state, order): Promise<Diagnosis | null> {
      for (const [micro, run] of microRuns(state.batch, state.rank, state.token.ranks, order).entries()) {
        const { nonFinite } = await runMicro(state, { ...order, profile: false }, run, true)
        if (nonFinite === undefined) continue
        const { op, debug } = loaded(state, run.program).program.instructions[nonFinite]!
        const { flops: _flops, bytes: _bytes, ...where } = debug
        return { rank: state.rank, micro, op, ...where }
      }
      return null
    },

    async evaluate(state, { slot }) {
      const { handle, program } = loaded(state, 'evaluate')
      setRows(state, program, slot, state.rank * state.batch.micro)
      await state.device.run(handle, fillScalars(program, idle))
      return binding(state, program, 'loss')[0]!
    },

    async forward(state, { tokens, logits }) {
      const { handle, program } = loaded(state, 'forward')
      const row = binding(state, program, 'tokens')
      row.fill(0)
      row.set(tokens)
      await state.device.run(handle, fillScalars(program, idle))
      if (state.rank !== 0) return
      const { arena, byteOffset } = program.tensors[program.bindings['logits']!]!
      state.device.read(arena, byteOffset, logits)
    },

    read: (state, { arena, regions, target }) => readRegions(state.device, arena, regions, target),
    write: (state, { arena, regions, bytes }) => writeRegions(state.device, arena, regions, bytes),
  },

  async stop(state) {
    forgetDevice(state.token, state.rank)
    await state.device.close()
  },
}

export const rank = defineActor(import.meta.url, 'rank', behaviour)
