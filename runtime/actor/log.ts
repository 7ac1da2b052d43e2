// Logging by pino: every record carries system, worker and the actor's path, and travels to the thread that started the system, so
// one destination writes them all in order.
import { createRequire } from 'node:module'
import type { Level, Logger, LevelWithSilent as LogLevel } from 'pino'
import type { Place } from './definition.js'

export type { Logger, LogLevel }

export const logLevels: readonly LogLevel[] = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']

// Loaded at the first use, so that threads whose actors do not log start without it.
let pino: typeof import('pino').pino | null = null

/** What a log is of. */
export interface LogSource {
  readonly system: string
  readonly worker: Place
  readonly actor: string
}

/** A logger whose records, lines of JSON, go to `write`. */
export function createLogger(source: LogSource, level: LogLevel, write: (level: Level, line: string) => void): Logger {
  pino ??= createRequire(import.meta.url)('pino') as typeof import('pino').pino
  const destination = {
    lastLevel: 30,
    write(line: string): void {
      write((pino!.levels.labels[this.lastLevel] ?? 'info') as Level, line)
    },
    [Symbol.for('pino.metadata')]: true,
  }
  return pino({ level, base: source }, destination)
}
