// The live line of a training run: step, loss, tokens per second, time to go. On a terminal it redraws in place; elsewhere a plain
// line comes every so many steps, so that a log file stays readable.
import type { StepEvent } from './events.js'
import { formatCount, formatDuration, formatLoss } from './format.js'

/** What the line shows. */
export interface ProgressState {
  readonly step: number
  readonly steps: number
  readonly loss: number
  readonly tokensPerSecond: number
  readonly secondsLeft: number
}

const barWidth = 20

/** The line for a terminal of `width` columns, cut to fit. */
export function progressLine(state: ProgressState, width = Number.POSITIVE_INFINITY): string {
  const filled = Math.min(barWidth, Math.floor((barWidth * state.step) / Math.max(1, state.steps)))
  const bar = '█'.repeat(filled) + '░'.repeat(barWidth - filled)
  const parts = [
    `step ${String(state.step).padStart(String(state.steps).length)}/${state.steps}`,
    `loss ${formatLoss(state.loss)}`,
    `${formatCount(Math.round(state.tokensPerSecond))} tokens/s`,
    `${formatDuration(state.secondsLeft)} to go`,
  ]
  const line = `${bar} ${parts.join('  ')}`
  if (line.length <= width) return line
  return parts.join('  ').slice(0, width)
}

/** Where the line goes: stdout, stderr, or anything that takes text. */
export interface ProgressStream {
  write(text: string): unknown
  readonly isTTY?: boolean
  readonly columns?: number
}

export interface ProgressOptions {
  /** The last step. */
  readonly steps: number
  /** A line that stays, every so many steps; by default none on a terminal, about twenty in all elsewhere. */
  readonly every?: number
}

/** Weight of the newest step in the running means. */
const newest = 0.1

export class Progress {
  readonly #stream: ProgressStream
  readonly #steps: number
  readonly #every: number
  readonly #standing: boolean
  #seconds = 0
  #tokensPerSecond = 0
  #seen = 0
  #drawn = false

  constructor(stream: ProgressStream, options: ProgressOptions) {
    this.#stream = stream
    this.#steps = options.steps
    this.#standing = options.every !== undefined
    this.#every = options.every ?? Math.max(1, Math.round(options.steps / 20))
  }

  step(event: StepEvent): void {
    const weight = Math.max(newest, 1 / ++this.#seen)
    this.#seconds += weight * (event.seconds - this.#seconds)
    this.#tokensPerSecond += weight * (event.tokens_per_second - this.#tokensPerSecond)
    const state: ProgressState = {
      step: event.step,
      steps: this.#steps,
      loss: event.loss,
      tokensPerSecond: this.#tokensPerSecond,
      secondsLeft: Math.max(0, this.#steps - event.step) * this.#seconds,
    }
    if (this.#stream.isTTY) {
      this.#stream.write(`\r\u001b[2K${progressLine(state, (this.#stream.columns ?? 80) - 1)}`)
      this.#drawn = true
      if (this.#standing && event.step % this.#every === 0) this.end()
    } else if (event.step % this.#every === 0 || event.step === this.#steps || this.#seen === 1) {
      this.#stream.write(`${progressLine(state)}\n`)
    }
  }

  /** Writes a line of its own above the live one. */
  note(text: string): void {
    this.end(false)
    this.#stream.write(`${text}\n`)
  }

  /** Leaves the last line standing (or wipes it) and goes to the next. */
  end(keep = true): void {
    if (this.#drawn) this.#stream.write(keep ? '\n' : '\r\u001b[2K')
    this.#drawn = false
  }
}
