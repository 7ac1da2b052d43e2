// Deadlines of asks. Most asks are answered long before theirs, so an ask costs an entry in a queue and no timer of its own: asks of
// one length expire in order, and one timer for each length stands for the first of them.
import type { Clock, Timer } from './envelope.js'
import { Queue } from './queue.js'

interface Entry {
  readonly id: number
  readonly at: number
}

interface Line {
  entries: Queue<Entry>
  timer: Timer | null
}

/** More lengths than a program uses on purpose. */
const manyLines = 16

export class Deadlines {
  private readonly lines = new Map<number, Line>()
  /** Asks that wait. While there is none the timers stay, but do not keep the process. */
  private waiting = 0
  private trimming = false

  constructor(
    private readonly clock: Clock,
    private readonly open: (id: number) => boolean,
    private readonly expire: (id: number) => void,
  ) {}

  /** `expire` is called for `id`, which is open, after `ms`, if it is still open then. {@link closed} follows once it is not. */
  add(id: number, ms: number): void {
    let line = this.lines.get(ms)
    if (!line) {
      line = { entries: new Queue(), timer: null }
      this.lines.set(ms, line)
    }
    this.dropClosed(line)
    line.entries.push({ id, at: this.clock.now() + ms })
    if (this.waiting++ === 0) for (const { timer } of this.lines.values()) timer?.hold(true)
    this.arm(ms, line)
  }

  /** One of those added was closed. */
  closed(): void {
    if (--this.waiting === 0) for (const { timer } of this.lines.values()) timer?.hold(false)
    if (this.trimming || this.lines.size <= manyLines) return
    this.trimming = true
    this.clock.later(() => {
      this.trimming = false
      for (const [ms, line] of this.lines) {
        this.dropClosed(line)
        if (line.entries.size > 0) continue
        line.timer?.cancel()
        this.lines.delete(ms)
      }
    })
  }

  /** Ends all timers. */
  close(): void {
    for (const { timer } of this.lines.values()) timer?.cancel()
    this.lines.clear()
  }

  private dropClosed({ entries }: Line): void {
    while (entries.first && !this.open(entries.first.id)) entries.shift()
    if (entries.size <= 1024 || !this.sparse(entries)) return
    for (let n = entries.size; n > 0; n--) {
      const entry = entries.shift()!
      if (this.open(entry.id)) entries.push(entry)
    }
  }

  /** Whether few of what waits behind the first is open; looked at each time the queue has doubled. */
  private sparse(entries: Queue<Entry>): boolean {
    return (entries.size & (entries.size - 1)) === 0
  }

  private arm(ms: number, line: Line): void {
    const { first } = line.entries
    if (line.timer || !first) return
    line.timer = this.clock.after(Math.max(first.at - this.clock.now(), 0), () => {
      line.timer = null
      const now = this.clock.now()
      for (let { first: entry } = line.entries; entry && entry.at <= now; entry = line.entries.first) {
        line.entries.shift()
        if (this.open(entry.id)) this.expire(entry.id)
      }
      this.dropClosed(line)
      if (line.entries.size === 0) this.lines.delete(ms)
      else this.arm(ms, line)
    })
  }
}
