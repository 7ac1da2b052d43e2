// The devices of the addon, `cpu` and `cuda`: groups and ranks behind the device contract. Memory shared with JavaScript is made here
// and held until the native side has let go of it.
import { type ArenaName, arenaNames, decodeProgram, ProgramError } from '../kernels/abi/program.js'
import { cpuBackend } from '../kernels/cpu/backend.js'
import { gpuBackend } from '../kernels/gpu/backend.js'
import { productChoices } from '../kernels/gpu/choices.js'
import type { Backend } from '../kernels/ops/backend.js'
import {
  DeviceError,
  type DeviceGroup,
  type GroupOptions,
  type GroupToken,
  type MemoryReport,
  type RankDevice,
  type RankOptions,
  type RankProgress,
  RunError,
  type RunOptions,
  type RunReport,
} from './device.js'
import { type Addon, addon } from './load.js'
import { sharedMemory } from './memory/shared.js'
import { verifyProgram } from './verify.js'

function native(): Addon {
  const { addon: loaded, reason } = addon()
  if (!loaded) throw new DeviceError('DEVICE_MISSING', reason)
  return loaded
}

/** Runs a call of the addon; its errors become this folder's. */
function guarded<T>(body: () => T): T {
  try {
    return body()
  } catch (cause) {
    const { code, message } = cause as { code?: string; message: string }
    if (code === 'PROGRAM_FORMAT') throw new ProgramError(message)
    if (code === 'DEVICE_USAGE' || code === 'DEVICE_MEMORY' || code === 'DEVICE_MISSING')
      throw new DeviceError(code, message)
    throw cause
  }
}

const bytesOf = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength)

/** Tokens of groups that are open: their shared memory must outlive the native users. */
const held = new Map<number, GroupToken>()

/** Live and peak bytes of each arena, from the addon's counts. */
function counts(id: number, rank: number): MemoryReport {
  const numbers = guarded(() => native().groupMemory(id, rank))
  const entries = arenaNames.map((name, i) => [name, { live: numbers[2 * i]!, peak: numbers[2 * i + 1]! }])
  return Object.fromEntries(entries) as MemoryReport
}

/** Throws {@link DeviceError} without an addon, for an instruction set that the machine lacks and where GPUs are missing. */
export function createCompiledGroup({ device, ranks, arenas, hostArenas = [], isa, gpu }: GroupOptions): DeviceGroup {
  const level = device === 'cpu' ? (isa ?? native().isaLevels()[0]!) : null
  const memory = Array.from({ length: ranks }, () => ({ io: sharedMemory('io', Math.max(1, arenas.io)) }))
  const sizes = Float64Array.from(arenaNames, (name) => arenas[name])
  const buffers = memory.map(({ io }) => new Uint8Array(io))
  const id = guarded(() => {
    if (level !== null) return native().createGroup(ranks, sizes, level, buffers)
    const { tf32 = false, geluEpilogues = false } = gpu ?? {}
    const onHost = hostArenas.reduce((bits, arena) => bits | (1 << arenaNames.indexOf(arena)), 0)
    return native().createGpuGroup(ranks, sizes, { tf32, geluEpilogues, onHost, choices: productChoices }, buffers)
  })
  const token: GroupToken = { device, ranks, id, arenas, ...(level !== null && { isa: level }), memory }
  held.set(id, token)
  let final: MemoryReport[] | undefined
  return {
    token,
    abort: (reason) => abortCompiledGroup(token, reason),
    memory: (rank) => final?.[rank] ?? counts(id, rank),
    async close() {
      if (final) return
      if (!native().groupIdle(id)) abortCompiledGroup(token, 'the group was closed')
      while (held.has(id) && !native().groupIdle(id)) await turn()
      if (!held.delete(id)) return
      final = token.memory.map((_, rank) => afterRelease(counts(id, rank)))
      native().closeGroup(id)
    },
  }
}

function afterRelease(memory: MemoryReport): MemoryReport {
  const entries = Object.entries(memory).map(([name, { peak }]) => [name, { live: 0, peak }])
  return Object.fromEntries(entries) as MemoryReport
}

export function abortCompiledGroup(token: GroupToken, reason: string): void {
  native().abortGroup(token.id, reason)
}

/** Opens one rank: its native thread starts here, and on the CPU its pool. */
export function openCompiledRank(token: GroupToken, { rank, threads, cores = [] }: RankOptions): RankDevice {
  const { handle, kept } = guarded(() => native().openRank(token.id, rank, threads, Int32Array.from(cores)))
  return new CompiledRank(token, rank, threads, handle, kept < 0 ? null : kept)
}

export async function renewCompiledGroup({ id }: GroupToken, patience: number): Promise<void> {
  const end = performance.now() + patience
  while (performance.now() < end && !guarded(() => native().groupIdle(id))) await turn()
  guarded(() => native().renewGroup(id))
}

/** Lets native threads get on. */
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1))

export function compiledProgress(token: GroupToken): RankProgress[] {
  const numbers = guarded(() => native().groupProgress(token.id))
  return Array.from(numbers, (n) => ({ instructions: Math.floor(n / 2), meeting: n % 2 === 1 }))
}

/** What a number of threads that run at once reach at most, in a second. */
export interface Ceilings {
  /** Floating-point operations of products of f32, and of bf16. */
  readonly f32: number
  readonly bf16: number
  /** Bytes through memory, two thirds read and one third written. */
  readonly bytes: number
}

/**
 * Measures for half a second or so, on `threads` threads with the kernels of `isa`, while the calling thread waits; the machine should
 * do nothing else meanwhile. Null without the addon. Throws {@link DeviceError} for an instruction set that the machine lacks.
 */
export function machineCeilings(isa: string, threads: number): Ceilings | null {
  const { addon: loaded } = addon()
  if (!loaded) return null
  const [f32, bf16, bytes] = guarded(() => loaded.ceilings(isa, threads))
  return { f32: f32!, bf16: bf16!, bytes: bytes! }
}

class CompiledRank implements RankDevice {
  readonly io: SharedArrayBuffer
  readonly #ranks: number
  readonly #backend: Backend
  readonly #handle: number
  /** Seconds of CLOCK_MONOTONIC at this thread's time origin. */
  readonly #origin = Number(process.hrtime.bigint()) / 1e9 - performance.now() / 1e3
  #closing: Promise<void> | undefined

  constructor(
    token: GroupToken,
    readonly rank: number,
    threads: number,
    handle: number,
    readonly kept: number | null,
  ) {
    this.io = token.memory[rank]!.io
    this.#ranks = token.ranks
    this.#backend = token.device === 'cuda' ? gpuBackend() : cpuBackend(threads)
    this.#handle = handle
  }

  allocate(arena: ArenaName): void {
    guarded(() => native().allocate(this.#handle, arenaNames.indexOf(arena)))
  }

  read(arena: ArenaName, byteOffset: number, target: ArrayBufferView): void {
    guarded(() => native().read(this.#handle, arenaNames.indexOf(arena), byteOffset, bytesOf(target)))
  }

  write(arena: ArenaName, byteOffset: number, source: ArrayBufferView): void {
    guarded(() => native().write(this.#handle, arenaNames.indexOf(arena), byteOffset, bytesOf(source)))
  }

  load(program: Uint8Array): number {
    verifyProgram(decodeProgram(program), { rank: this.rank, ranks: this.#ranks, backend: this.#backend })
    return guarded(() => native().load(this.#handle, program))
  }

  async run(
    program: number,
    scalars: Float64Array,
    { check = false, profile = false, more = false, written }: RunOptions = {},
  ): Promise<RunReport> {
    const report = await guarded(() => native().run(this.#handle, program, scalars, check, profile, more))
    for (const { offset, bytes } of report.io ?? []) new Uint8Array(this.io).set(bytes, offset)
    if (report.status === 1) throw new RunError('aborted', report.message, report.instruction)
    if (report.status === 2) throw new RunError('kernel', report.message, report.instruction)
    written?.()
    return {
      ...(report.nonFinite < 0 ? {} : { nonFinite: report.nonFinite }),
      ...(profile ? { seconds: report.seconds.map((time) => time - this.#origin) } : {}),
    }
  }

  close(kept: number | null = null): Promise<void> {
    this.#closing ??= guarded(() => native().closeRank(this.#handle, kept ?? -1))
    return this.#closing
  }
}
