// What a run computes on: the backend that its programs are compiled for, what their fingerprints say of the machine, and how much memory
// there is. Choosing needs no machine of that kind, so that plans can be made anywhere; `expectDevice` is for what runs.
import { createHash } from 'node:crypto'
import { availableParallelism } from 'node:os'
import type { Program } from '../../kernels/abi/program.js'
import { cpuBackend } from '../../kernels/cpu/backend.js'
import { depthBlock } from '../../kernels/cpu/blocks.js'
import { gpuBackend } from '../../kernels/gpu/backend.js'
import { productChoices } from '../../kernels/gpu/choices.js'
import type { Backend } from '../../kernels/ops/backend.js'
import { opNamed } from '../../kernels/ops/index.js'
import { referenceBackend } from '../../kernels/reference/backend.js'
import { DeviceError, type DeviceName, type GpuOptions, machine } from '../../native/index.js'
import { EngineError } from './errors.js'

export interface DeviceOptions {
  readonly device?: DeviceName | undefined
  readonly isa?: string | undefined
  readonly threads?: number | undefined
  readonly gpu?: GpuOptions | undefined
}

export interface ChosenDevice {
  readonly device: DeviceName
  /** Instruction set of the CPU's kernels. */
  readonly isa: string | null
  /** Native threads of each rank; on GPUs of what works on the host beside each. */
  readonly threads: number
  backend(logitChunks: number): Backend
  /** Whether the plan chooses the logits' chunks, or the backend itself; whose memory plans are counted in, for people. */
  readonly planned: { readonly logits: boolean; readonly where: string }
  /** What fingerprints cover beside the instructions. */
  readonly environment: Readonly<Record<string, string>>
  /** Ranks that share one memory: all of them, or on GPUs one each. */
  readonly sharers: number
  /** Bytes that the plans of those may have together on this machine; null: not known here. */
  readonly capacity: number | null
}

/** What a GPU needs beside the arenas: context, code, libraries; among several its way to the others, or NCCL's channels. */
const aside = (ranks: number): number => (ranks > 1 ? 1536 : 768) * 2 ** 20
const beside = (ranks: number, bytes: readonly number[]): number => Math.max(0, Math.min(...bytes) - aside(ranks))

/** Throws {@link EngineError} for settings that the device does not have. */
export function chooseDevice(options: DeviceOptions, ranks: number): ChosenDevice {
  const here = machine()
  const device = options.device ?? (here.best ? 'cpu' : 'reference')
  if (device === 'cuda') return chooseGpus(options, ranks)
  if (options.gpu) throw unfit('gpu', 'device cuda with it', device)
  const isa = device === 'cpu' ? (options.isa ?? here.best) : null
  const threads = options.threads ?? (device === 'cpu' ? Math.max(1, Math.floor(availableParallelism() / ranks)) : 1)
  return {
    device,
    isa,
    threads,
    backend: () => (device === 'cpu' ? cpuBackend(threads) : referenceBackend),
    planned: { logits: false, where: `on ${ranks} ranks` },
    environment: { device, ...(isa && { isa, depth_block: String(depthBlock) }) },
    sharers: ranks,
    capacity: Math.min(here.memoryBytes, process.constrainedMemory() || Number.POSITIVE_INFINITY),
  }
}

function chooseGpus(options: DeviceOptions, ranks: number): ChosenDevice {
  for (const name of ['threads', 'isa'] as const) {
    if (options[name] !== undefined) throw unfit(name, 'none with device cuda', options[name])
  }
  const { gpu } = machine()
  const { tf32 = false, geluEpilogues = false } = options.gpu ?? {}
  const used = gpu.devices.slice(0, ranks)
  return {
    device: 'cuda',
    isa: null,
    threads: Math.max(1, Math.floor(availableParallelism() / ranks)),
    backend: gpuBackend,
    planned: { logits: true, where: 'on each GPU' },
    environment: {
      device: 'cuda',
      gpu: used[0]?.name ?? 'unknown',
      compute: used[0]?.compute ?? 'unknown',
      cublasLt: gpu.cublasLt ?? 'unknown',
      products: createHash('sha256').update(productChoices).digest('hex').slice(0, 16),
      ...(tf32 && { tf32: 'on' }),
      ...(geluEpilogues && { gelu_epilogues: 'on' }),
    },
    sharers: 1,
    // Of all its memory, not of what is free now: the same machine makes the same plan.
    capacity:
      used.length > 0
        ? beside(
            ranks,
            used.map(({ memoryBytes }) => memoryBytes),
          )
        : null,
  }
}

const unfit = (name: string, expected: string, got: unknown): EngineError =>
  new EngineError('ENGINE_USAGE', `initialize: ${name}, expected ${expected}, got ${got}`, { name })

/** Bytes that the plans of the ranks that share a memory may take now. */
export function roomOf({ device, capacity }: ChosenDevice, ranks: number): number {
  if (device !== 'cuda') return capacity!
  return beside(
    ranks,
    machine()
      .gpu.devices.slice(0, ranks)
      .map(({ freeBytes }) => freeBytes),
  )
}

/** What a run needs of the machine beside memory. Throws DeviceError or {@link EngineError}, each with what is missing. */
export function expectDevice(device: DeviceName, ranks: number): void {
  if (device !== 'cuda') return
  const { devices, nccl, linked, reason } = machine().gpu
  if (reason !== undefined || devices.length === 0) {
    throw new DeviceError('DEVICE_MISSING', reason ?? 'gpu: devices, expected at least one, got none')
  }
  if (ranks > devices.length) {
    const message = `initialize: ranks, expected at most ${devices.length}, one for each GPU, got ${ranks}`
    throw new EngineError('ENGINE_USAGE', message, { ranks, devices: devices.length })
  }
  if (ranks > linked && nccl === null) {
    const message = `gpu: NCCL, which ${ranks} ranks need, expected libnccl.so.2 where the loader looks, got none`
    throw new DeviceError('DEVICE_MISSING', message)
  }
}

/** What of these programs works, but slower than it could, a line each. */
export function deviceNotices({ device, backend }: ChosenDevice, programs: readonly Program[]): string[] {
  const notices = new Set<string>()
  if (device === 'cuda') {
    const { devices, cublasLt } = machine().gpu
    if (devices.length > 0 && cublasLt === null) {
      notices.add('cublasLt is not where the loader looks: matrix products run on a plain kernel, many times slower')
    }
  }
  for (const { instructions, tensors } of programs) {
    for (const { op, inputs, attributes } of instructions) {
      const types = inputs.map((index) => (index === null ? null : tensors[index]!))
      const slow = backend(1).slowPath(opNamed(op), types, attributes)
      if (slow !== null) notices.add(slow)
    }
  }
  return [...notices]
}
