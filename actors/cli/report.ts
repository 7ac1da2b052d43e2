// `deeptroupe report`: what is here, what is not, and what would bring it.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { type GpuDevice, machine } from '../../native/index.js'
import { formatBytes } from '../../runtime/observe/index.js'

interface Finding {
  readonly name: string
  readonly found: string | null
  /** What to do where nothing was found. */
  readonly remedy?: string
}

/** The first line of what a command says, or the first that has `part` in it. */
function command(name: string, argument: string, part = ''): string | null {
  const { status, stdout, stderr } = spawnSync(name, [argument], { encoding: 'utf8', timeout: 5000 })
  return status === 0
    ? ((stdout || stderr)
        .trim()
        .split('\n')
        .find((line) => line.includes(part)) ?? null)
    : null
}

const describeGpu = ({ name, memoryBytes, freeBytes, compute, multiprocessors }: GpuDevice): string =>
  `${name} (compute ${compute}, ${multiprocessors} multiprocessors, ${formatBytes(freeBytes)} of ${formatBytes(memoryBytes)} free)`

function processor(): string {
  const info = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : ''
  return /^model name\s*:\s*(.*)$/m.exec(info)?.[1] ?? 'unknown'
}

function findings(): Finding[] {
  const { isa, best, reason, gpu } = machine()
  return [
    { name: 'Node', found: process.version },
    { name: 'processor', found: `${processor()}, ${availableParallelism()} cores` },
    { name: 'memory', found: formatBytes(totalmem()) },
    { name: 'addon', found: best ? 'loads' : null, remedy: reason ?? '' },
    { name: 'instruction sets', found: isa.join(', ') || null, remedy: 'comes with the addon' },
    {
      name: 'backends',
      found: [...(gpu.devices.length > 0 ? ['cuda'] : []), ...(best ? ['cpu'] : []), 'reference'].join(', '),
    },
    { name: 'compiler', found: command('g++', '--version'), remedy: 'apt-get install g++' },
    { name: 'cmake', found: command('cmake', '--version'), remedy: 'apt-get install cmake make' },
    { name: 'GPUs', found: gpu.devices.map(describeGpu).join('; ') || null, remedy: gpu.reason ?? '' },
    { name: 'GPU driver', found: gpu.driver, remedy: 'version 580 or newer, from NVIDIA' },
    {
      name: 'cublasLt',
      found: gpu.cublasLt,
      remedy: 'libcublasLt.so.13 where the loader looks (apt-get install libcublas-13-0, or CUDA)',
    },
    {
      name: 'NCCL',
      found: gpu.nccl,
      remedy: 'libnccl.so.2 where the loader looks (apt-get install libnccl2), for several GPUs without peer access',
    },
    { name: 'nvcc', found: command('nvcc', '--version', 'release'), remedy: 'CUDA 13, to build the GPU part' },
    {
      name: 'nats-server',
      found: command('nats-server', '--version'),
      remedy: 'no transport of this version uses NATS',
    },
  ]
}

/** `deeptroupe report`. */
export async function report(flags: { readonly json?: boolean }): Promise<void> {
  const rows = findings()
  if (flags.json) {
    const entries = rows.map(({ name, found, remedy }) => [name, found === null ? { found, remedy } : { found }])
    process.stdout.write(`${JSON.stringify(Object.fromEntries(entries))}\n`)
    return
  }
  for (const { name, found, remedy } of rows) {
    process.stdout.write(`${name.padEnd(18)} ${found ?? `not found${remedy ? `: ${remedy}` : ''}`}\n`)
  }
}
