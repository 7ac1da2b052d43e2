// Time for tests: it stands still until it is moved, and then everything falls due in its order.
import type { Clock, Timer } from '../../runtime/actor/envelope.js'

interface Alarm {
  at: number
  readonly runs: () => boolean
  readonly run: () => void
}

/** Time that stands still until it is advanced. */
export class VirtualClock implements Clock {
  private time = 0
  private readonly timers = new Set<Alarm>()

  now(): number {
    return this.time
  }

  after(ms: number, run: () => void): Timer {
    return this.start(ms, run, () => true)
  }

  soon(run: () => void): void {
    queueMicrotask(run)
  }

  later(run: () => void): void {
    setImmediate(run)
  }

  /** The same time for a host, whose timers wait while it does not run. */
  of(runs: () => boolean): Clock {
    return {
      now: () => this.time,
      after: (ms, run) => this.start(ms, run, runs),
      soon: (run) => this.soon(run),
      later: (run) => this.later(run),
    }
  }

  /** Timers that have not fired. */
  get waiting(): number {
    return this.timers.size
  }

  /** Moves to the next timer up to `limit` and fires it; false: there was none, and time is `limit`. */
  step(limit: number): boolean {
    let next: Alarm | null = null
    for (const timer of this.timers) {
      if (timer.at <= limit && timer.runs() && (!next || timer.at < next.at)) next = timer
    }
    this.time = next ? next.at : limit
    if (!next) return false
    this.timers.delete(next)
    next.run()
    return true
  }

  /** What fell due while its host did not run is due now. */
  release(): void {
    for (const timer of this.timers) if (timer.runs()) timer.at = Math.max(timer.at, this.time)
  }

  private start(ms: number, run: () => void, runs: () => boolean): Timer {
    const timer: Alarm = { at: this.time + ms, runs, run }
    this.timers.add(timer)
    return {
      cancel: () => void this.timers.delete(timer),
      // What need not happen is left out of time.
      hold: (holds) => {
        timer.at = Math.max(timer.at, this.time)
        if (holds) this.timers.add(timer)
        else this.timers.delete(timer)
      },
    }
  }
}
