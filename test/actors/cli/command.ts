// The command as users run it: child processes, with folders that vanish with the test.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'

const main = fileURLToPath(new URL('../../../actors/cli/main.js', import.meta.url))

export interface Outcome {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface Running {
  readonly child: ChildProcess
  readonly outcome: Promise<Outcome>
  /** Resolves once a stream has shown the pattern; rejects if the process ends before. */
  shows(pattern: RegExp): Promise<void>
}

/** Most milliseconds that a command of these tests may take: past it, it hangs. */
const patience = 60_000

export function start(
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv; main?: string } = {},
): Running {
  const child = spawn(process.execPath, [options.main ?? main, ...args], {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    timeout: patience,
    killSignal: 'SIGKILL',
  })
  const text = { stdout: '', stderr: '' }
  const waiting = new Set<() => void>()
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (part: string) => {
      text[name] += part
      for (const check of waiting) check()
    })
  }
  const outcome = new Promise<Outcome>((resolve, reject) => {
    child.on('error', reject).on('close', (code, signal) => resolve({ code, signal, ...text }))
  })
  const shows = (pattern: RegExp): Promise<void> =>
    new Promise((resolve, reject) => {
      const check = (): void => {
        if (!pattern.test(text.stdout) && !pattern.test(text.stderr)) return
        waiting.delete(check)
        resolve()
      }
      waiting.add(check)
      outcome.then(() => reject(new Error(`expected ${pattern}, got ${text.stdout}${text.stderr}`)), reject)
      check()
    })
  return { child, outcome, shows }
}

/** Commands that only run and end, two at a time, so that tests may all start at once. */
const lanes: Promise<unknown>[] = [Promise.resolve(), Promise.resolve()]
let turn = 0

export function inFolder(cwd: string | undefined, args: readonly string[]): Promise<Outcome> {
  const lane = turn++ % lanes.length
  const outcome = lanes[lane]!.then(() => start(args, cwd === undefined ? {} : { cwd }).outcome)
  lanes[lane] = outcome.catch(() => {})
  return outcome
}

export const run = (...args: readonly string[]): Promise<Outcome> => inFolder(undefined, args)

/** A model that trains in milliseconds, without data. */
export const tiny = ['--layers', '1', '--hidden', '16', '--heads', '2', '--seq', '16', '--threads', '1']

export interface Line {
  readonly type: string
  readonly [field: string]: unknown
}

/** Every line of stdout, which must be JSON, each an object with a type. */
export const linesOf = (outcome: Outcome): Line[] =>
  outcome.stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line))

/** Loss and norm of each step's last occurrence, without times. */
export function curve(lines: readonly Line[]): [unknown, unknown, unknown][] {
  const steps = new Map(lines.filter(({ type }) => type === 'step').map((line) => [line['step'], line]))
  return [...steps.values()].map(({ step, loss, grad_norm }) => [step, loss, grad_norm])
}

/** A folder with a text of `bytes` bytes that repeats no line. */
export function workshop(
  t: ExecutionContext,
  bytes = 4000,
): { folder: string; data: string; at(...names: string[]): string } {
  const folder = mkdtempSync(join(tmpdir(), 'deeptroupe-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const data = join(folder, 'text.txt')
  const lines = Array.from({ length: Math.ceil(bytes / 10) }, (_, i) => `line ${i} of ${(i * i * 7919) % 9973}\n`)
  writeFileSync(data, lines.join('').slice(0, bytes))
  return { folder, data, at: (...names) => join(folder, ...names) }
}

/** One line on stderr that begins with `error: `, nothing of a stack, exit code 1. */
export function failsWith(t: ExecutionContext, outcome: Outcome, ...patterns: readonly RegExp[]): void {
  const { code, stderr } = outcome
  const errors = stderr.split('\n').filter((line) => line.startsWith('error: '))
  t.is(code, 1, stderr)
  t.is(errors.length, 1, stderr)
  t.notRegex(stderr, /\n\s+at |node:internal|file:\/\/\/.*:\d+:\d+/)
  for (const pattern of patterns) t.regex(errors[0]!, pattern)
}

export const filesOf = (folder: string): string[] => readdirSync(folder, { recursive: true }).map(String).sort()

export const readJson = (path: string): unknown => JSON.parse(readFileSync(path, 'utf8'))
