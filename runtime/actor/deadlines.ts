// Deadlines of asks. Most asks are answered long before theirs, so an ask costs an entry in a queue and no timer of its own: asks of
// one length expire in order, and one timer for each length stands for the first of them.
import type { Clock } from './envelope.js'
import { Queue } from './queue.js'

interface Entry {
  readonly id: number
  readonly at: number
}

interface Line {
  entries: Queue<Entry>
  cancel: (() => void) | null
}

export class Deadlines {
  private readonly lines = new Map<number, Line>()
  private trimming = false

  constructor(
    private readonly clock: Clock,
    private readonly open: (id: number) => boolean,
    private readonly expire: (id: number) => void,
  ) {}

  /** `expire` is called for `id` after `ms`, if it is still open then. */
  add(id: number, ms: number): void {
    let line = this.lines.get(ms)
    if (!line) {
      line = { entries: new Queue(), cancel: null }
      this.lines.set(ms, line)
    }
    this.dropClosed(line)
    line.entries.push({ id, at: this.clock.now() + ms })
    this.arm(ms, line)
  }

  /** Something was closed: a timer that stands for nothing goes soon, for it would keep the process. */
  closed(): void {
    if (this.trimming) return
    this.trimming = true
    this.clock.later(() => {
      this.trimming = false
      for (const [ms, line] of this.lines) {
        this.dropClosed(line)
        if (line.entries.size > 0) continue
        line.cancel?.()
        this.lines.delete(ms)
      }
    })
  }

  /** Ends all timers. */
  close(): void {
    for (const line of this.lines.values()) line.cancel?.()
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
    if (line.cancel || !first) return
    line.cancel = this.clock.after(Math.max(first.at - this.clock.now(), 0), () => {
      line.cancel = null
      const now = this.clock.now()
      for (let { first: entry } = line.entries; entry && entry.at <= now; entry = line.entries.first) {
        line.entries.shift()
        if (this.open(entry.id)) this.expire(entry.id)
      }
      this.dropClosed(line)
      this.arm(ms, line)
    })
  }
}
