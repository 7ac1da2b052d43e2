// The timers of one life. What falls due waits in a lane of its own that needs no room in the mailbox: a timer waits there at most once,
// so a slow actor skips ticks instead of piling them up. They end with the life.
import type { Clock, UserMessage } from './envelope.js'
import { Queue } from './queue.js'

interface Timer {
  readonly message: UserMessage
  waiting: boolean
  cancelled: boolean
}

export class Timers {
  private readonly running = new Set<() => void>()
  private readonly due = new Queue<Timer>()

  /** `wake` is called when a message has fallen due. */
  constructor(
    private readonly clock: Clock,
    private readonly wake: () => void,
  ) {}

  /** Messages that are due. */
  get size(): number {
    return this.due.size
  }

  once(ms: number, message: UserMessage): () => void {
    const timer: Timer = { message, waiting: false, cancelled: false }
    const stop = this.start(ms, () => {
      this.running.delete(stop)
      this.fire(timer)
    })
    return this.cancellation(timer, stop)
  }

  /** Ticks at whole multiples of `ms` from now, without drift. */
  every(ms: number, message: UserMessage): () => void {
    const timer: Timer = { message, waiting: false, cancelled: false }
    let next = this.clock.now() + ms
    const tick = (): void => {
      const late = Math.max(this.clock.now() - next, 0)
      next += ms * (1 + Math.floor(late / ms))
      alarm = this.clock.after(next - this.clock.now(), tick)
      this.fire(timer)
    }
    let alarm = this.clock.after(ms, tick)
    const stop = (): void => alarm.cancel()
    this.running.add(stop)
    return this.cancellation(timer, stop)
  }

  /** The oldest message that is due. */
  take(): UserMessage | undefined {
    for (let timer = this.due.shift(); timer; timer = this.due.shift()) {
      timer.waiting = false
      if (!timer.cancelled) return timer.message
    }
    return undefined
  }

  clear(): void {
    for (const stop of this.running) stop()
    this.running.clear()
    while (this.due.shift());
  }

  private start(ms: number, run: () => void): () => void {
    const alarm = this.clock.after(ms, run)
    const stop = (): void => alarm.cancel()
    this.running.add(stop)
    return stop
  }

  private fire(timer: Timer): void {
    if (timer.waiting) return
    timer.waiting = true
    this.due.push(timer)
    this.wake()
  }

  private cancellation(timer: Timer, stop: () => void): () => void {
    return () => {
      timer.cancelled = true
      stop()
      this.running.delete(stop)
    }
  }
}
