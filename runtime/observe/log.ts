// The log for operators: JSON lines by pino on stderr, apart from results, which go to stdout.
import { type DestinationStream, type Level, type Logger, pino } from 'pino'

export type { Logger } from 'pino'

export interface LogOptions {
  /** `info` by default. */
  readonly level?: Level | 'silent'
  /** stderr by default; written at once, so that nothing is lost when the process ends. */
  readonly destination?: DestinationStream
}

/** A logger whose lines carry `component` (`cli`, `rank 1`, ...). */
export function createLogger(component: string, options: LogOptions = {}): Logger {
  const { level = 'info', destination = pino.destination({ fd: 2, sync: true }) } = options
  return pino({ level, base: { component }, timestamp: pino.stdTimeFunctions.isoTime }, destination)
}
