// What the runtime asks of a device, whichever it is. A group is made on the main thread; each rank opens its part by token in its
// own worker. `cpu` and `cuda` are the addon, `reference` runs the same programs in TypeScript.
import type { ArenaName } from '../kernels/abi/program.js'

export type DeviceName = 'cpu' | 'cuda' | 'reference'

/** Bytes of each arena of one rank. */
export type ArenaSizes = Readonly<Record<ArenaName, number>>

export interface GroupOptions {
  readonly device: DeviceName
  readonly ranks: number
  readonly arenas: ArenaSizes
  /** On `cuda`, arenas that lie in pinned memory of the host, where the CPU's kernels work on them; default: none. */
  readonly hostArenas?: readonly ArenaName[]
  /** Instruction set of the CPU kernels; default: the best that the machine has. */
  readonly isa?: string
  readonly gpu?: GpuOptions
}

/** How programs run on `cuda`; each changes the bits of results. */
export interface GpuOptions {
  /** Operands of products in f32 are rounded to 10 bits of mantissa, for speed; default false. */
  readonly tf32?: boolean
  /** GELU beside a product is left to cublasLt; default false. */
  readonly geluEpilogues?: boolean
}

/** What a worker needs to open its rank: structured-cloneable, memory by reference. */
export interface GroupToken {
  readonly device: DeviceName
  readonly ranks: number
  readonly id: number
  readonly arenas: ArenaSizes
  readonly isa?: string
  /** Shared memory that JavaScript sees: `io` of each rank; on `reference` every arena of every rank. */
  readonly memory: readonly RankBuffers[]
  /** Abort flag and barrier words of the reference device's communicator. */
  readonly control?: SharedArrayBuffer
}

export type RankBuffers = Readonly<Partial<Record<ArenaName, SharedArrayBuffer>>> & { readonly io: SharedArrayBuffer }

/** How far a rank is since it was opened. */
export interface RankProgress {
  /** Instructions done. */
  readonly instructions: number
  /** Inside a collective, where it may be waiting for others. */
  readonly meeting: boolean
}

/** Bytes reserved now and at the most. */
export type MemoryReport = Readonly<Record<ArenaName, { readonly live: number; readonly peak: number }>>

/** The ranks of one communicator with their memory, owned by the main thread. */
export interface DeviceGroup {
  readonly token: GroupToken
  /** Ends every running and later run of every rank with `reason`; the first reason stays. From other threads: `abortGroup`. */
  abort(reason: string): void
  /** Live and peak bytes of each arena of a rank, from the registry of what was really allocated. */
  memory(rank: number): MemoryReport
  /** Releases everything, after aborting ranks that are still open and joining their native threads. Peaks stay readable. */
  close(): Promise<void>
}

export interface RunOptions {
  /** Test every float output for NaN and infinity; the report names the first instruction that made one. */
  readonly check?: boolean
  /** Measure each instruction; read with `RunReport.seconds`. */
  readonly profile?: boolean
  /** Runs follow that belong to the same work: that this one is done may be told together with them. */
  readonly more?: boolean
  /** Called when what the run wrote stands in `io`, and before what a later run writes does. Not for a run that is rejected. */
  readonly written?: () => void
}

export interface RunReport {
  /** Index of the first instruction with a non-finite output, when checked. */
  readonly nonFinite?: number
  /** Start and end of each instruction in seconds on the clock of `performance.now() / 1000`, when profiled: [s0, e0, s1, e1, ...]. */
  readonly seconds?: Float64Array
}

/** One rank's arenas, programs and threads. All methods are called from the worker that opened it. */
export interface RankDevice {
  readonly rank: number
  /** What the last one to have this rank kept in its arenas, which exist then; null: nothing, no arena is allocated. */
  readonly kept: number | null
  /** Reserves an arena of the group's size, zeroed. Throws if it exists; `io` exists from the start. */
  allocate(arena: ArenaName): void
  /** Copies bytes out of an arena; not while a run is writing there. */
  read(arena: ArenaName, byteOffset: number, target: ArrayBufferView): void
  write(arena: ArenaName, byteOffset: number, source: ArrayBufferView): void
  /**
   * The `io` arena, as JavaScript sees it: a run reads what stood here when it was asked for, and what it wrote stands here when its
   * promise is resolved, unless a later run has written there too by then.
   */
  readonly io: SharedArrayBuffer
  /** Decodes and checks a program against the arenas that it names, which must exist; returns its handle. Throws ProgramError. */
  load(program: Uint8Array): number
  /**
   * Runs a program with the given scalars (copied). Runs of one rank are done in order; of those that are asked for ahead, `cuda` has two
   * on the device. Rejects with {@link RunError}.
   */
  run(program: number, scalars: Float64Array, options?: RunOptions): Promise<RunReport>
  /**
   * Waits for the runs that are enqueued (abort first to end them) and ends the rank's threads. Its memory stays until the group closes
   * or, where no `kept` (from 0) says what it holds for the next one to open the rank, is renewed.
   */
  close(kept?: number | null): Promise<void>
}

export interface RankOptions {
  readonly rank: number
  /** Threads that compute, on `cuda` those beside the GPU, the coordinator counted; the reference device computes on the worker itself. */
  readonly threads: number
  /** The CPU that each of these threads stays on, the coordinator's first; default: any. The reference device has no such threads. */
  readonly cores?: readonly number[]
}

/** A device was asked for what it cannot do: bad sizes, a second allocation, something closed, no addon. */
export class DeviceError extends Error {
  override readonly name: string = 'DeviceError'
  constructor(
    /** `DEVICE_USAGE`, `DEVICE_MEMORY` or `DEVICE_MISSING`; of a {@link RunError} see there. */
    readonly code: string,
    message: string,
    readonly details: Readonly<Record<string, unknown>> = {},
    options?: ErrorOptions,
  ) {
    super(message, options)
  }
}

/** A run ended early: aborted, or a kernel met a value it cannot take. */
export class RunError extends DeviceError {
  override readonly name = 'RunError'
  constructor(
    /** `aborted` (by this rank, a peer or the group's owner; the message is the reason) or `kernel`. */
    override readonly code: 'aborted' | 'kernel',
    message: string,
    /**
     * Index of the instruction in its program: of one that was aborted, no later one has begun. On `cuda` a run is aborted as a whole
     * once all of it was put on the device, and an error of the device names the first of a few instructions (`DEEPTROUPE_DEBUG=sync`: the one).
     */
    readonly instruction: number,
  ) {
    super(code, message, { instruction })
  }
}
