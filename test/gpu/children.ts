// Runs pieces of work (work.ts) in processes of their own and hands on what they find, line by line, also of one that dies.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const script = fileURLToPath(new URL('./work.js', import.meta.url))

/** How a piece of work ended: null: in order; else in words. */
export type Ending = string | null

/** Seconds without a finding after which a piece hangs. */
const patience = 300

/**
 * Runs one piece; `found` sees each finding as it comes. A piece that works off orders gets the first at once and one more for each finding,
 * a line of JSON on its stdin each, until there are none.
 */
export async function runWork(
  work: string,
  request: object,
  found: (finding: never) => void,
  order: () => unknown = () => undefined,
): Promise<Ending> {
  const child = spawn(process.execPath, [script, JSON.stringify({ work, ...request })], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  // One that has died takes no more.
  child.stdin.on('error', () => {})
  const next = (): void => {
    if (child.stdin.writableEnded) return
    const ordered = order()
    if (ordered === undefined) child.stdin.end()
    else child.stdin.write(`${JSON.stringify(ordered)}\n`)
  }
  next()
  let complaint = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-2000)
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), patience * 1000)
  const ended = new Promise<Ending>((resolve) => {
    child.on('error', (error) => resolve(error.message))
    child.on('close', (code, signal) => {
      if (code === 0) resolve(null)
      else resolve(`${signal ?? `exit code ${code}`}: ${complaint.trim().split('\n').slice(0, 6).join(' ')}`)
    })
  })
  for await (const line of createInterface({ input: child.stdout })) {
    timer.refresh()
    let finding: unknown
    try {
      finding = JSON.parse(line)
    } catch {
      // A line that was cut off by the process's end, or of a library's.
      continue
    }
    found(finding as never)
    next()
  }
  const ending = await ended
  clearTimeout(timer)
  return ending
}
