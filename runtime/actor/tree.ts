// The guardian's records: every actor of a system, its place in the tree, its present life and who watches it.
import { type CreditTable, down } from './credits.js'
import type { Address, LifeSpec } from './envelope.js'
import { ActorError, type Cause } from './errors.js'
import type { ActorView } from './events.js'
import type { Policy, RestartBudget } from './supervision.js'

/** A promise with its resolution. */
export interface Deferred<T> {
  readonly promise: Promise<T>
  resolve(value: T): void
}

export function deferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void
  const promise = new Promise<T>((done) => {
    resolve = done
  })
  return { promise, resolve }
}

/** One life on a host, from the order to start until it is known to be over. */
export interface Life {
  readonly incarnation: number
  /** Null: `init` is done; else why it is not. */
  readonly started: Deferred<Cause | null>
  readonly ended: Deferred<void>
  /** Why it ended, or is to end; the first cause counts. */
  cause: Cause | null
}

/** Those that fall together, and how far their restart is. */
export interface Unit {
  readonly budget: RestartBudget
  phase: 'up' | 'ending' | 'starting'
  /** A failure while the others are being started: the next round. */
  next: { readonly entry: Entry; readonly cause: Cause } | null
}

/** The children of one parent, or the actors at the top. */
export class Family {
  /** By path, in the order in which they were spawned. */
  readonly members = new Map<string, Entry>()
  readonly units = new Map<string, Unit>()
  spawned = 0

  /** Last spawned first. */
  reversed(): Entry[] {
    return [...this.members.values()].reverse()
  }
}

/** An actor from its spawn until it is gone for good. */
export class Entry {
  readonly family = new Family()
  /** Ids of the actors that watch this one, and of those that it watches. */
  readonly watchers = new Set<number>()
  readonly watching = new Set<number>()
  readonly gone = deferred<Cause>()
  status: ActorView['status'] = 'starting'
  restarts = 0
  /** Its first `init` is done. */
  spawned = false
  life: Life | null = null
  /** Why the last life ended. */
  cause: Cause | null = null
  /** Set once it is going for good. */
  removal: Promise<void> | null = null
  /** Resolves when a life is up, true, or when none will come, false. */
  up = deferred<boolean>()
  private isUp = false

  constructor(
    readonly address: Address,
    readonly parent: Entry | null,
    /** The family that it belongs to. */
    readonly home: Family,
    readonly policy: Policy,
    readonly spec: Omit<LifeSpec, 'incarnation'>,
  ) {}

  markUp(): void {
    this.status = 'running'
    this.isUp = true
    this.up.resolve(true)
  }

  markDown(): void {
    if (this.isUp) this.up = deferred()
    this.isUp = false
  }

  get id(): number {
    return this.address.id
  }

  get path(): string {
    return this.address.path
  }
}

/** All entries by id, with the slots of the credit table that they use. */
export class Tree {
  readonly top = new Family()
  private readonly entries = new Map<number, Entry>()
  private readonly freeSlots: number[] = []
  private usedSlots = 0
  private lastId = 0

  constructor(private readonly credits: CreditTable) {}

  get(id: number): Entry | undefined {
    return this.entries.get(id)
  }

  all(): IterableIterator<Entry> {
    return this.entries.values()
  }

  /** A new id and slot. Throws `SPAWN_FAILED` where the table is full. */
  reserve(path: string): { id: number; slot: number } {
    const slot = this.usedSlots < this.credits.slots ? this.usedSlots++ : this.freeSlots.shift()
    if (slot === undefined) {
      throw new ActorError(
        'SPAWN_FAILED',
        `spawn: ${path}, expected at most ${this.credits.slots} actors, got one more`,
      )
    }
    return { id: ++this.lastId, slot }
  }

  add(entry: Entry): void {
    this.entries.set(entry.id, entry)
    entry.home.members.set(entry.path, entry)
  }

  remove(entry: Entry): void {
    this.entries.delete(entry.id)
    const { members, units } = entry.home
    members.delete(entry.path)
    units.delete(`one ${entry.id}`)
    this.freeSlots.push(entry.address.slot)
  }

  view(family: Family): ActorView[] {
    return [...family.members.values()].map((entry) => {
      const { slot } = entry.address
      const left = this.credits.left(slot, entry.id)
      const { capacity } = entry.policy
      return {
        path: entry.path,
        worker: entry.spec.worker,
        status: entry.status,
        mailbox: { depth: left === down ? 0 : capacity - left, capacity },
        restarts: entry.restarts,
        lastCause: entry.cause,
        children: this.view(entry.family),
      }
    })
  }
}
