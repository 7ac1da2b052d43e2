// Who has died of what, and who is told. Causes are kept for the latest deaths only, so memory is bounded.
import type { Address, Order } from './envelope.js'
import type { Cause } from './errors.js'
import type { Entry, Tree } from './tree.js'

const remembered = 1024

/** Causes of the latest ended actors, by id. */
export class Obituaries {
  private readonly causes = new Map<number, Cause>()
  /** The ids in `causes`, the oldest at `next` once there are all. */
  private readonly ids: number[] = []
  private next = 0

  record(id: number, cause: Cause): void {
    const known = this.causes.size
    this.causes.set(id, cause)
    if (this.causes.size === known) return
    const oldest = this.ids[this.next]
    if (oldest !== undefined) this.causes.delete(oldest)
    this.ids[this.next] = id
    this.next = (this.next + 1) % remembered
  }

  get(id: number): Cause | undefined {
    return this.causes.get(id)
  }
}

/** Tells watchers of the ends of lives. A watch lasts until the watcher's life or the watched actor ends for good. */
export class DeathWatch {
  constructor(
    private readonly tree: Tree,
    private readonly obituaries: Obituaries,
    private readonly send: (host: number, order: Order) => void,
  ) {}

  /** Begins or ends a watch; of an actor that is gone already, the watcher is told at once. */
  set(watcher: number, target: Address, on: boolean): void {
    const entry = this.tree.get(target.id)
    const observer = this.tree.get(watcher)
    if (!observer) return
    if (!on) {
      entry?.watchers?.delete(watcher)
      observer.watching?.delete(target.id)
    } else if (entry) {
      entry.watchers ??= new Set()
      entry.watchers.add(watcher)
      observer.watching ??= new Set()
      observer.watching.add(target.id)
    } else {
      const cause = this.obituaries.get(target.id) ?? { kind: 'stopped', message: 'it stopped earlier' }
      this.send(observer.address.host, { kind: 'terminated', watcher, ref: target, cause, restarting: false })
    }
  }

  /** A life of `entry` has ended. */
  notify(entry: Entry, cause: Cause, restarting: boolean): void {
    if (!entry.watchers) return
    for (const watcher of entry.watchers) {
      const observer = this.tree.get(watcher)
      if (!observer) continue
      this.send(observer.address.host, { kind: 'terminated', watcher, ref: entry.address, cause, restarting })
      if (!restarting) observer.watching?.delete(entry.id)
    }
  }

  /** A life of the watcher `entry` has ended, and its watches with it. */
  forget(entry: Entry): void {
    if (!entry.watching) return
    for (const id of entry.watching) this.tree.get(id)?.watchers?.delete(entry.id)
    entry.watching = null
  }
}
