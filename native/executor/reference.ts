// The `reference` device: the same programs in plain TypeScript over SharedArrayBuffers, one kernel call at a time. Slow and plain;
// what the CPU device is measured against, and what works where there is no compiler.
import {
  type ArenaName,
  arenaNames,
  decodeProgram,
  type Instruction,
  type Program,
  ProgramError,
  type TensorRecord,
} from '../../kernels/abi/program.js'
import { byteLength, dtypeBytes, elements, int } from '../../kernels/ops/definition.js'
import { opNamed, opOfCode } from '../../kernels/ops/index.js'
import { referenceBackend } from '../../kernels/reference/backend.js'
import { type ReferenceTensor, referenceKernels, viewOf } from '../../kernels/reference/index.js'
import { Aborted, ReferenceCommunicator, type ReferencePlace, runReferenceCollective } from '../collective/reference.js'
import {
  DeviceError,
  type DeviceGroup,
  type GroupOptions,
  type GroupToken,
  type MemoryReport,
  type RankBuffers,
  type RankDevice,
  type RankOptions,
  type RankProgress,
  RunError,
  type RunOptions,
  type RunReport,
} from '../device.js'
import { sharedMemory } from '../memory/shared.js'
import { verifyProgram } from '../verify.js'

const isOpen = 1
const arenaState = { free: 0, live: 1, released: 2 } as const
/** Bytes of state per rank, behind the communicator's words: one per arena, then whether the rank was opened. */
const stateBytes = arenaNames.length + 1
/** After the states, what each rank's memory holds plus 1, as float64; 0: nothing is known. */
const keptOffset = (ranks: number): number =>
  Math.ceil((ReferenceCommunicator.bytes(ranks) + ranks * stateBytes) / 8) * 8

function statesOf(token: GroupToken, rank: number): Uint8Array {
  return new Uint8Array(token.control!, ReferenceCommunicator.bytes(token.ranks) + rank * stateBytes, stateBytes)
}

const keptOf = (token: GroupToken): Float64Array =>
  new Float64Array(token.control!, keptOffset(token.ranks), token.ranks)

let lastGroup = 0

export function createReferenceGroup({ ranks, arenas }: GroupOptions): DeviceGroup {
  const memory = Array.from({ length: ranks }, () => {
    const buffers = arenaNames.map((name) => [name, sharedMemory(name, arenas[name])])
    return Object.fromEntries(buffers) as RankBuffers
  })
  const control = new SharedArrayBuffer(keptOffset(ranks) + 8 * ranks)
  const token: GroupToken = { device: 'reference', ranks, id: ++lastGroup, arenas, memory, control }
  const states = memory.map((_, rank) => statesOf(token, rank))
  for (const row of states) row[arenaNames.indexOf('io')] = arenaState.live
  return {
    token,
    abort: (reason) => abortReferenceGroup(token, reason),
    memory: (rank) => {
      const entries = arenaNames.map((name, i) => {
        const state = Atomics.load(states[rank]!, i)
        const live = state === arenaState.live ? arenas[name] : 0
        return [name, { live, peak: state === arenaState.free ? 0 : arenas[name] }]
      })
      return Object.fromEntries(entries) as MemoryReport
    },
    async close() {
      abortReferenceGroup(token, 'the group was closed')
      for (const row of states) {
        for (let i = 0; i < arenaNames.length; i++) {
          Atomics.compareExchange(row, i, arenaState.live, arenaState.released)
        }
      }
    },
  }
}

export function abortReferenceGroup(token: GroupToken, reason: string): void {
  new ReferenceCommunicator(token.control!, token.ranks).abort(reason)
}

/** A worker that ended computes no more, so that there is nothing to wait for. */
export async function renewReferenceGroup(token: GroupToken): Promise<void> {
  const kept = keptOf(token)
  for (let rank = 0; rank < token.ranks; rank++) {
    const states = statesOf(token, rank)
    states[arenaNames.length] = 0
    if (kept[rank]! > 0) continue
    for (const [i, name] of arenaNames.entries()) {
      if (name === 'io' || states[i] !== arenaState.live) continue
      new Uint8Array(token.memory[rank]![name]!).fill(0)
      states[i] = arenaState.free
    }
  }
  new ReferenceCommunicator(token.control!, token.ranks).renew()
}

export function referenceProgress(token: GroupToken): RankProgress[] {
  const communicator = new ReferenceCommunicator(token.control!, token.ranks)
  return Array.from({ length: token.ranks }, (_, rank) => communicator.progress(rank))
}

export function openReferenceRank(token: GroupToken, { rank }: RankOptions): RankDevice {
  if (Atomics.exchange(statesOf(token, rank), arenaNames.length, isOpen) === isOpen) {
    throw usage(`rank: number ${rank}, expected one that is not open, got one opened before`)
  }
  return new ReferenceRank(token, rank)
}

const usage = (message: string): DeviceError => new DeviceError('DEVICE_USAGE', message)

/** An instruction with its operands resolved to memory of this rank. */
interface Step {
  readonly instruction: Instruction
  readonly inputs: readonly (ReferenceTensor | null)[]
  readonly outputs: readonly (ReferenceTensor | null)[]
  /** Runs the instruction with the program's scalars. */
  readonly execute: (scalars: Float64Array) => void
}

interface LoadedProgram {
  readonly scalarCount: number
  readonly steps: readonly Step[]
}

class ReferenceRank implements RankDevice {
  readonly io: SharedArrayBuffer
  readonly kept: number | null
  readonly #token: GroupToken
  readonly #communicator: ReferenceCommunicator
  readonly #states: Uint8Array
  readonly #programs: LoadedProgram[] = []
  #queue: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(
    token: GroupToken,
    readonly rank: number,
  ) {
    this.#token = token
    this.#communicator = new ReferenceCommunicator(token.control!, token.ranks)
    this.#states = statesOf(token, rank)
    this.io = token.memory[rank]!.io
    const kept = keptOf(token)
    this.kept = kept[rank]! > 0 ? kept[rank]! - 1 : null
    kept[rank] = 0
  }

  allocate(arena: ArenaName): void {
    const was = Atomics.compareExchange(this.#states, arenaNames.indexOf(arena), arenaState.free, arenaState.live)
    if (was !== arenaState.free) throw usage(`allocate: arena ${arena}, expected none yet, got one`)
  }

  read(arena: ArenaName, byteOffset: number, target: ArrayBufferView): void {
    bytesOf(target).set(this.#bytes('read', arena, byteOffset, target.byteLength))
  }

  write(arena: ArenaName, byteOffset: number, source: ArrayBufferView): void {
    this.#bytes('write', arena, byteOffset, source.byteLength).set(bytesOf(source))
  }

  load(bytes: Uint8Array): number {
    const program = decodeProgram(bytes)
    verifyProgram(program, { rank: this.rank, ranks: this.#token.ranks, backend: referenceBackend })
    program.tensors.forEach((tensor, i) => {
      this.#checkTensor(tensor, i)
    })
    const steps = program.instructions.map((instruction) => this.#step(program, instruction))
    return this.#programs.push({ scalarCount: program.scalars.length, steps }) - 1
  }

  run(number: number, scalars: Float64Array, options: RunOptions = {}): Promise<RunReport> {
    const program = this.#programs[number]
    if (!program) return Promise.reject(usage(`run: program, expected a loaded one, got ${number}`))
    if (this.#closed) return Promise.reject(usage(`run: rank ${this.rank}, expected an open one, got a closed one`))
    if (scalars.length !== program.scalarCount) {
      return Promise.reject(usage(`run: scalars, expected ${program.scalarCount}, got ${scalars.length}`))
    }
    const values = scalars.slice()
    const io = new Uint8Array(this.io).slice()
    const turn = this.#queue.then(() => new Promise((resolve) => setImmediate(resolve)))
    const report = turn.then(() => {
      new Uint8Array(this.io).set(io)
      const done = this.#run(program, values, options)
      options.written?.()
      return done
    })
    this.#queue = report.catch(() => undefined)
    return report
  }

  async close(kept: number | null = null): Promise<void> {
    if (!this.#closed) keptOf(this.#token)[this.rank] = kept === null ? 0 : kept + 1
    this.#closed = true
    await this.#queue
  }

  #bytes(operation: string, arena: ArenaName, byteOffset: number, length: number): Uint8Array {
    if (Atomics.load(this.#states, arenaNames.indexOf(arena)) !== arenaState.live) {
      throw usage(`${operation}: arena ${arena}, expected it to be allocated, got nothing`)
    }
    const buffer = this.#token.memory[this.rank]![arena]!
    if (!(byteOffset >= 0 && byteOffset + length <= buffer.byteLength)) {
      const range = `${length} at ${byteOffset}`
      throw usage(`${operation}: arena ${arena}, expected a range inside its ${buffer.byteLength} bytes, got ${range}`)
    }
    return new Uint8Array(buffer, byteOffset, length)
  }

  #checkTensor(tensor: TensorRecord, index: number): void {
    const fail = (what: string, expected: string, got: unknown): never => {
      throw new ProgramError(`program: ${what}, expected ${expected}, got ${got}`)
    }
    if (Atomics.load(this.#states, arenaNames.indexOf(tensor.arena)) !== arenaState.live) {
      fail(`arena ${tensor.arena} of tensor ${index}`, `it to be allocated on rank ${this.rank}`, 'nothing')
    }
    const size = this.#token.arenas[tensor.arena]
    if (tensor.byteOffset + byteLength(tensor) > size) {
      const place = `${byteLength(tensor)} bytes at ${tensor.byteOffset}`
      fail(`tensor ${index}`, `a place inside the ${size} bytes of arena ${tensor.arena}`, place)
    }
    if (tensor.byteOffset % dtypeBytes[tensor.dtype]) {
      fail(`offset of tensor ${index}`, `a multiple of the size of ${tensor.dtype}`, tensor.byteOffset)
    }
  }

  #step(program: Program, instruction: Instruction): Step {
    const { rank, ranks } = { rank: this.rank, ranks: this.#token.ranks }
    const tensorAt = (index: number | null): ReferenceTensor | null => {
      if (index === null) return null
      const tensor = program.tensors[index]!
      return {
        shape: tensor.shape,
        dtype: tensor.dtype,
        data: this.#place(tensor).view(rank, 0, elements(tensor.shape)),
      }
    }
    const inputs = instruction.inputs.map(tensorAt)
    const outputs = instruction.outputs.map(tensorAt)
    const kernel = referenceKernels.get(instruction.op)
    if (kernel) {
      const { attributes } = instruction
      const execute = (values: Float64Array): void => {
        const scalars = instruction.scalars.map((slot) => values[slot]!)
        kernel({ inputs, outputs, attributes, scalars, rank, ranks })
      }
      return { instruction, inputs, outputs, execute }
    }
    if (!('ranks' in opNamed(instruction.op).attributes)) {
      throw new ProgramError(`program: kernel of ${instruction.op}, expected one for reference, got none`)
    }
    return { instruction, inputs, outputs, execute: this.#collective(program, instruction) }
  }

  #collective(program: Program, instruction: Instruction): () => void {
    const placeAt = (index: number | null | undefined): ReferencePlace | null =>
      index === null || index === undefined ? null : this.#place(program.tensors[index]!)
    const { op, attributes } = instruction
    const input = placeAt(instruction.inputs[0])
    const call = {
      op,
      opcode: opNamed(op).opcode,
      input,
      base: placeAt(instruction.inputs[1]),
      output: placeAt(instruction.outputs[0]),
      elements: input?.elements ?? 0,
      root: 'root' in attributes ? int(attributes, 'root') : 0,
      whole: 'whole' in attributes && int(attributes, 'whole') !== 0,
    }
    return () => runReferenceCollective(call, this.#communicator, this.rank, (opcode) => opOfCode(opcode)!.name)
  }

  #place({ arena, byteOffset, dtype, shape }: TensorRecord): ReferencePlace {
    const { memory } = this.#token
    return {
      dtype,
      elements: elements(shape),
      view: (rank, first, count) => viewOf(dtype, memory[rank]![arena]!, byteOffset + first * dtypeBytes[dtype], count),
    }
  }

  #run({ steps }: LoadedProgram, scalars: Float64Array, { check, profile }: RunOptions): RunReport {
    const seconds: number[] = []
    const now = (): number => performance.now() / 1e3
    let nonFinite: number | undefined
    for (const [i, step] of steps.entries()) {
      const start = now()
      this.#execute(step, scalars, i)
      this.#communicator.advance(this.rank)
      if (profile) seconds.push(start, now())
      if (check && nonFinite === undefined && !step.outputs.every(isFiniteTensor)) nonFinite = i
    }
    if (steps.length === 0) this.#expectRunning(0)
    return {
      ...(nonFinite === undefined ? {} : { nonFinite }),
      ...(profile ? { seconds: Float64Array.from(seconds) } : {}),
    }
  }

  #execute(step: Step, scalars: Float64Array, index: number): void {
    this.#expectRunning(index)
    try {
      step.execute(scalars)
    } catch (error) {
      if (error instanceof Aborted) throw new RunError('aborted', this.#communicator.reason, index)
      const message = error instanceof Error ? error.message : String(error)
      this.#communicator.abort(`rank ${this.rank}: ${message}`)
      throw new RunError('kernel', message, index)
    }
  }

  #expectRunning(index: number): void {
    if (this.#communicator.aborted) throw new RunError('aborted', this.#communicator.reason, index)
  }
}

const bytesOf = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength)

/** False where a float is infinite or not a number. */
function isFiniteTensor(tensor: ReferenceTensor | null): boolean {
  if (!tensor) return true
  if (tensor.dtype === 'f32' || tensor.dtype === 'f64') return (tensor.data as Float64Array).every(Number.isFinite)
  if (tensor.dtype !== 'bf16' && tensor.dtype !== 'f16') return true
  const exponent = tensor.dtype === 'bf16' ? 0x7f80 : 0x7c00
  return (tensor.data as Uint16Array).every((bits) => (bits & exponent) !== exponent)
}
