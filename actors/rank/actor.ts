// A rank: one native call for each micro-step, asked for ahead, so that the device goes from one step to the next while messages travel.
// The worker's event loop stays free for control messages; if this life ends, the communicator is aborted so that no other rank waits for
// it. It always knows of which step's end its state is, so that a life that ends in order can leave its memory to the next.
import { decodeProgram } from '../../kernels/abi/program.js'
import type { GroupToken, RankDevice } from '../../native/device.js'
import { abortGroup, groupProgress, openRank } from '../../native/index.js'
import { type ActorContext, type Behaviour, defineActor } from '../../runtime/actor/definition.js'
import { slotArrays } from '../../runtime/data/slot.js'
import type { ProgramName } from '../../runtime/graph/compile.js'
import { optimizerShard } from '../optimizer-shard/actor.js'
import { forgetDevice, readRegions, shareDevice, writeRegions } from './device.js'
import type { Diagnosis, RankArgs, RankProtocol } from './protocol.js'
import { microRuns } from './state.js'
import { begin, binding, isAborted, landed, loaded, type RankState, run, setRows } from './steps.js'

/** Arenas that a rank reserves itself. */
const rankArenas = ['parameters', 'gradients', 'activations', 'buckets', 'gathered', 'workspace'] as const

/** Scalars of programs without randomness; attention lists them all the same. */
const idle = { seed: 0, step: 0, sample: 0 }

/** Writes what the next step goes on from. Programs that do not train have nothing of the kind. */
function goOnFrom({ programs, device }: RankState, numbers: readonly number[]): void {
  const training = [...programs.values()].map(({ program }) => program).find(({ bindings }) => 'step' in bindings)
  if (!training) return
  const { arena, byteOffset } = training.tensors[training.bindings['step']!]!
  device.write(arena, byteOffset, Float64Array.from(numbers))
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
    slots: slots.map((memory) => slotArrays(batch, memory)),
    batch,
    optimizer,
    held: device.kept,
    running: 0,
    asked: groupProgress(token)[rank]!.instructions,
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
      goOnFrom(state, next)
      state.held = 0
    },

    async refresh(state, { step, state: next }) {
      await run(state, 'refresh', {})
      goOnFrom(state, next)
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
