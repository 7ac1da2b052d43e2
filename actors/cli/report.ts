// `deeptroupe report`: what is here, what is not, and what would bring it.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { join } from 'node:path'
import { machine } from '../../native/index.js'
import { formatBytes } from '../../runtime/observe/index.js'

interface Finding {
  readonly name: string
  readonly found: string | null
  /** What to do where nothing was found. */
  readonly remedy?: string
}

const libraryFolders = ['/usr/lib/x86_64-linux-gnu', '/usr/local/cuda/lib64', '/usr/lib64', '/opt/rocm/lib', '/usr/lib']

/** The first file of the usual library folders whose name begins so. */
function library(prefix: string): string | null {
  for (const folder of [...(process.env['LD_LIBRARY_PATH'] ?? '').split(':').filter(Boolean), ...libraryFolders]) {
    const file = namesIn(folder).find((name) => name.startsWith(prefix))
    if (file) return join(folder, file)
  }
  return null
}

/** Nothing, where the folder is not there or cannot be read. */
function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

function command(name: string, ...args: readonly string[]): string | null {
  const { status, stdout, stderr } = spawnSync(name, args, { encoding: 'utf8', timeout: 5000 })
  return status === 0 ? (stdout || stderr).trim().split('\n')[0]! : null
}

function processor(): string {
  const info = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : ''
  return /^model name\s*:\s*(.*)$/m.exec(info)?.[1] ?? 'unknown'
}

function findings(): Finding[] {
  const { isa, best, reason } = machine()
  return [
    { name: 'Node', found: process.version },
    { name: 'processor', found: `${processor()}, ${availableParallelism()} cores` },
    { name: 'memory', found: formatBytes(totalmem()) },
    { name: 'addon', found: best ? 'loads' : null, remedy: reason ?? '' },
    { name: 'instruction sets', found: isa.join(', ') || null, remedy: 'comes with the addon' },
    { name: 'backends', found: best ? 'cpu, reference' : 'reference' },
    { name: 'compiler', found: command('g++', '--version'), remedy: 'apt-get install g++' },
    { name: 'cmake', found: command('cmake', '--version'), remedy: 'apt-get install cmake make' },
    { name: 'GPU driver', found: library('libcuda.so'), remedy: 'no backend of this version uses a GPU' },
    { name: 'cuBLAS', found: library('libcublasLt.so'), remedy: 'no backend of this version uses a GPU' },
    { name: 'NCCL', found: library('libnccl.so'), remedy: 'no backend of this version uses a GPU' },
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
