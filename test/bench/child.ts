// Child processes of the benchmark: peers and our own command, all measured by the same protocol, a line of JSON for each result.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

export interface ChildResult {
  readonly lines: readonly Readonly<Record<string, unknown>>[]
  /** The most memory that the process held, in MiB, as of its last line. */
  readonly peakMiB: number
}

const peakOf = (pid: number): number =>
  Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024

/** Runs a command and gathers its lines of JSON. Rejects with the end of its stderr where it fails. */
export async function runChild(
  command: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<ChildResult> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...environment } })
  const lines: Record<string, unknown>[] = []
  let peakMiB = 0
  let complaint = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-4000)
  })
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on('error', reject).on('close', resolve)
  })
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(JSON.parse(line) as Record<string, unknown>)
    if (child.exitCode === null && child.pid !== undefined) peakMiB = Math.max(peakMiB, peakOf(child.pid))
  }
  const code = await ended
  if (code !== 0)
    throw new Error(`bench: ${command} ${args[0]}, expected exit code 0, got ${code}: ${complaint.trim()}`)
  return { lines, peakMiB }
}

/** The numbers of one field of all lines that have it. */
export const numbersOf = ({ lines }: ChildResult, field: string): number[] =>
  lines.map((line) => line[field]).filter((value) => typeof value === 'number')
