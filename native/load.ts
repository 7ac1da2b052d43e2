// Finds the addon, proves in a child process that loading it does not crash, types it, and reports what the machine can do.
// Without an addon everything that does not need it still works; the reason says what would bring it.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism, totalmem } from 'node:os'
import { isMainThread } from 'node:worker_threads'
import { opTableHash } from '../kernels/abi/program.js'
import { addonPath } from './paths.js'

/** What a run of the addon resolves to: integers, -1 where there is none. `status` 0: done, 1: aborted, 2: a kernel failed. */
export interface NativeReport {
  readonly status: number
  readonly message: string
  readonly instruction: number
  readonly nonFinite: number
  /** Seconds of CLOCK_MONOTONIC, empty unless profiled. */
  readonly seconds: Float64Array
  /** What the run wrote into `io`, where that is not its memory itself. */
  readonly io?: readonly { readonly offset: number; readonly bytes: Uint8Array }[]
}

/** How a GPU would work off a program (native/executor/schedule.h). Waits are numbers of parts, one for each lane; -1: none. */
export interface NativeSchedule {
  /** [begin, end, lane, after start, 5 waits] of each part. */
  readonly parts: Float64Array
  /** [part, 5 waits] */
  readonly answer: Float64Array
  /** Parts that the compute lane has not waited for in the end. */
  readonly tail: Float64Array
  /** [5 waits] in the tail of the run before: of the beginning, of each part, of the answer. */
  readonly crossing: Float64Array
  /** [offset, bytes] of each range. */
  readonly ioRead: Float64Array
  readonly ioWritten: Float64Array
}

/** The surface of native/addon. Groups, ranks and programs are numbers; arenas are positions in `arenaNames`. */
export interface Addon {
  isaLevels(): string[]
  opTableHash(): bigint
  gpuMachine(): GpuMachine
  createGroup(ranks: number, arenaBytes: Float64Array, isa: string, io: Uint8Array[]): number
  createGpuGroup(
    ranks: number,
    arenaBytes: Float64Array,
    options: { tf32: boolean; geluEpilogues: boolean; onHost: number; choices: string },
    io: Uint8Array[],
  ): number
  abortGroup(group: number, reason: string): void
  groupMemory(group: number, rank: number): Float64Array
  mappedBytes(): number
  groupProgress(group: number): Float64Array
  renewGroup(group: number): void
  groupIdle(group: number): boolean
  closeGroup(group: number): void
  openRank(group: number, rank: number, threads: number, cores: Int32Array): { handle: number; kept: number }
  allocate(handle: number, arena: number): void
  read(handle: number, arena: number, offset: number, target: Uint8Array): void
  write(handle: number, arena: number, offset: number, source: Uint8Array): void
  load(handle: number, program: Uint8Array): number
  /** Of loaded programs that run in turn, among `several` ranks, with the arenas of the bits `hostArenas` on the host. */
  schedules(handle: number, programs: readonly number[], several: boolean, hostArenas: number): NativeSchedule[]
  run(
    handle: number,
    program: number,
    scalars: Float64Array,
    check: boolean,
    profile: boolean,
    more: boolean,
  ): Promise<NativeReport>
  closeRank(handle: number, kept: number): Promise<void>
  yieldCore(): void
  ceilings(isa: string, threads: number): Float64Array
}

export type AddonResult =
  | { readonly addon: Addon; readonly reason?: never }
  | { readonly addon: null; readonly reason: string }

const remedy = 'build it with `npx deeptroupe build` (needs `apt-get install g++ make cmake`)'
let result: AddonResult | undefined

/** The addon, or null with one line that says why and what to do. Workers trust the main thread's test of it. */
export function addon(): AddonResult {
  result ??= open()
  return result
}

function open(): AddonResult {
  if (!existsSync(addonPath))
    return { addon: null, reason: `addon: ${addonPath}, expected a file, got nothing; ${remedy}` }
  if (isMainThread) {
    const child = spawnSync(process.execPath, ['-e', 'require(process.argv[1])', addonPath], { encoding: 'utf8' })
    if (child.status !== 0) {
      const got = child.signal ?? child.stderr.match(/^\w*Error: .*$/m)?.[0] ?? `exit code ${child.status}`
      return { addon: null, reason: `addon: ${addonPath}, expected it to load, got ${got}; ${remedy}` }
    }
  }
  const loaded = createRequire(import.meta.url)(addonPath) as Addon
  if (loaded.opTableHash() !== opTableHash) {
    return { addon: null, reason: `addon: op table, expected that of this build, got another; ${remedy}` }
  }
  return { addon: loaded }
}

/** One GPU; its number is its position. */
export interface GpuDevice {
  readonly name: string
  readonly memoryBytes: number
  /** Free now, of all processes; where NVML is missing, all of them. */
  readonly freeBytes: number
  /** Compute capability, e.g. `9.0`. */
  readonly compute: string
  readonly multiprocessors: number
}

/** What the `cuda` device would have to work with. */
export interface GpuMachine {
  readonly devices: readonly GpuDevice[]
  /** Versions; null where there is none, and of the libraries where there is no GPU. */
  readonly driver: string | null
  readonly cublasLt: string | null
  readonly nccl: string | null
  /** So many ranks, on the first GPUs, copy from each other's memory, as NVLink or PCIe and the environment allow; more need NCCL. */
  readonly linked: number
  /** Why no program can run on them. */
  readonly reason?: string
}

/** What the devices would have to work with. */
export interface Machine {
  /** Instruction sets whose kernels run here, best first; empty without the addon. */
  readonly isa: readonly string[]
  readonly best: string | null
  /** Threads that the process may run at once. */
  readonly cores: number
  readonly memoryBytes: number
  /** Looked for when it is read. */
  readonly gpu: GpuMachine
  /** Why there is no addon. */
  readonly reason?: string
}

export function machine(): Machine {
  const { addon: native, reason } = addon()
  const isa = native?.isaLevels() ?? []
  return {
    isa,
    best: isa[0] ?? null,
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    get gpu() {
      return (
        native?.gpuMachine() ?? {
          devices: [],
          driver: null,
          cublasLt: null,
          nccl: null,
          linked: 0,
          reason: reason!,
        }
      )
    },
    ...(reason === undefined ? {} : { reason }),
  }
}
