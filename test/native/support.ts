// Small programs written by hand, and ranks on real worker threads to run them.
import { Worker } from 'node:worker_threads'
import {
  type ArenaName,
  arenaNames,
  encodeProgram,
  type Instruction,
  type TensorRecord,
} from '../../kernels/abi/program.js'
import type { Backend } from '../../kernels/ops/backend.js'
import { type Attributes, byteLength, type DType } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import {
  type ArenaSizes,
  addon,
  type DeviceName,
  type GroupToken,
  type RunOptions,
  type RunReport,
} from '../../native/index.js'

/** The devices that this machine has. */
export const devices: readonly DeviceName[] = addon().addon ? ['cpu', 'reference'] : ['reference']

export const arenaSizes = (sizes: Partial<ArenaSizes>): ArenaSizes =>
  Object.fromEntries(arenaNames.map((name) => [name, sizes[name] ?? 0])) as ArenaSizes

/** Lays out tensors one after another and records instructions, with the scratch memory that `backend` asks for. */
export class ProgramWriter {
  readonly tensors: TensorRecord[] = []
  readonly instructions: Instruction[] = []
  readonly #used = new Map<ArenaName, number>()

  constructor(
    readonly ranks = 1,
    readonly scalars: readonly string[] = [],
    readonly backend?: Backend,
  ) {}

  tensor(shape: readonly number[], dtype: DType = 'f32', arena: ArenaName = 'activations'): number {
    const byteOffset = this.#used.get(arena) ?? 0
    const record = { arena, byteOffset, dtype, shape }
    this.#used.set(arena, byteOffset + Math.ceil(byteLength(record) / 256) * 256)
    return this.tensors.push(record) - 1
  }

  add(
    op: string,
    inputs: (number | null)[],
    outputs: (number | null)[],
    attributes: Attributes = {},
    scalars: number[] = [],
  ): this {
    const debug = { phase: 'forward', flops: 0, bytes: 0 }
    const workspace = this.#scratch(op, inputs, outputs, attributes)
    this.instructions.push({ op, inputs, outputs, scalars, attributes, workspace, debug })
    return this
  }

  #scratch(op: string, inputs: (number | null)[], outputs: (number | null)[], attributes: Attributes): number | null {
    const types = (operands: (number | null)[]) => operands.map((i) => (i === null ? null : this.tensors[i]!))
    const made = types(outputs).filter((type) => type !== null)
    const bytes = this.backend?.workspace(opNamed(op), types(inputs), made, attributes) ?? 0
    return bytes > 0 ? this.tensor([bytes], 'u8', 'workspace') : null
  }

  get arenas(): ArenaSizes {
    return arenaSizes(Object.fromEntries(this.#used))
  }

  encode(): Uint8Array {
    const { ranks, scalars, tensors, instructions, arenas } = this
    return encodeProgram({ name: 'test', ranks, scalars, tensors, instructions, bindings: {}, arenas })
  }
}

/** What one rank is to do in its worker. */
export interface RankJob {
  readonly token: GroupToken
  readonly rank: number
  readonly threads: number
  readonly program: Uint8Array
  readonly writes: readonly {
    readonly arena: ArenaName
    readonly byteOffset: number
    readonly data: Float32Array | Float64Array
  }[]
  readonly reads: readonly TensorRecord[]
  readonly options: RunOptions
  /** Runs of the program, one after another, until one is rejected. */
  readonly times: number
  /** What to close the rank with. */
  readonly kept?: number
}

export type RankOutcome =
  | {
      readonly report: RunReport
      readonly values: readonly (Float32Array | Float64Array)[]
      /** What the rank found in its memory. */
      readonly kept: number | null
    }
  | { readonly error: { readonly code: string; readonly message: string; readonly instruction: number } }

/** Starts a rank in a worker; the worker says `running` when its first run is enqueued. */
export function startRank(job: RankJob): { worker: Worker; running: Promise<void>; outcome: Promise<RankOutcome> } {
  const worker = new Worker(new URL('./rank-worker.js', import.meta.url), { workerData: job })
  let started: () => void
  const running = new Promise<void>((resolve) => {
    started = resolve
  })
  const outcome = new Promise<RankOutcome>((resolve, reject) => {
    worker.on('message', (message: 'running' | RankOutcome) => {
      if (message === 'running') started()
      else resolve(message)
    })
    worker.on('error', reject)
    worker.on('exit', (code) => reject(new Error(`worker ended with ${code} before its outcome`)))
  })
  outcome.catch(() => undefined)
  return { worker, running, outcome }
}

/** Numbers in (-1, 1) that look random and are the same every time. */
export function noise(count: number, seed: number): Float32Array {
  let state = seed * 2654435761 + 12345
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  })
}
