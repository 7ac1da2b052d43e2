// A training run on a terminal: the live line, and notes above it.
import { formatLoss, Progress, type TrainEvent } from '../../runtime/observe/index.js'
import type { Engine } from '../engine/engine.js'

const milliseconds = (value: number): string => `${value.toFixed(2)} ms`

const sources = {
  kept: 'kept',
  peers: 'from peers',
  checkpoint: 'from the checkpoint',
  start: 'from the start',
} as const

function noteOf(event: Exclude<TrainEvent, { type: 'step' }>): string {
  switch (event.type) {
    case 'eval':
      return `evaluation after step ${event.step}: loss ${formatLoss(event.loss)}, perplexity ${event.perplexity.toFixed(2)}`
    case 'checkpoint':
      return `checkpoint ${event.path}`
    case 'restart':
      return `restart ${event.attempt} after step ${event.step}, state ${sources[event.source]}: ${event.cause}`
    case 'notice':
      return event.message
    case 'timing': {
      const { step, forward_ms, backward_ms, communication_ms, update_ms } = event
      return `step ${step}: forward ${milliseconds(forward_ms)}, backward ${milliseconds(backward_ms)}, communication ${milliseconds(communication_ms)}, update ${milliseconds(update_ms)}`
    }
  }
}

/** Writes to stderr. A plain line comes every `steps_per_print` steps, or about twenty times in all. */
export class Screen {
  readonly #progress: Progress
  readonly #every: number

  constructor(engine: Engine, steps: number) {
    const { stepsPerPrint } = engine.prepared.config
    this.#every = stepsPerPrint ?? Math.max(1, Math.round(steps / 20))
    this.#progress = new Progress(process.stderr, { steps, ...(stepsPerPrint !== null && { every: stepsPerPrint }) })
  }

  show(event: TrainEvent): void {
    if (event.type === 'step') this.#progress.step(event)
    else if (event.type !== 'timing' || event.step % this.#every === 0) this.#progress.note(noteOf(event))
  }

  end(): void {
    this.#progress.end()
  }
}
