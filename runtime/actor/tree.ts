// The guardian's records: every actor of a system, its place in the tree, its present life and who watches it.
import { type CreditTable, down } from './credits.js'
import type { Address, LifeSpec } from './envelope.js'
import { ActorError, type Cause } from './errors.js'
import type { ActorView } from './events.js'
import type { Policy, RestartBudget } from './supervision.js'
import type { Filling } from './surveys.js'

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
  /** Who ends and restarts in the present round. */
  members: readonly Entry[]
  /** A failure while the others are being started, or of one that is no member: the next round. */
  next: { readonly entry: Entry; readonly cause: Cause } | null
}

/** The children of one parent, or the actors at the top. */
export class Family {
  /** By path, in the order in which they were spawned. */
  get members(): Map<string, Entry> {
    this.children ??= new Map()
    return this.children
  }

  get units(): Map<string, Unit> {
    this.falling ??= new Map()
    return this.falling
  }

  spawned = 0
  // Made when first looked at, as everything that most actors never need.
  private children: Map<string, Entry> | null = null
  private falling: Map<string, Unit> | null = null

  /** Last spawned first. */
  reversed(): Entry[] {
    return [...this.members.values()].reverse()
  }
}

/** An actor from its spawn until it is gone for good. */
export class Entry {
  readonly family = new Family()
  /** Ids of the actors that watch this one, and of those that it watches. */
  get watchers(): Set<number> {
    this.watcherIds ??= new Set()
    return this.watcherIds
  }

  get watching(): Set<number> {
    this.watchedIds ??= new Set()
    return this.watchedIds
  }

  get gone(): Deferred<Cause> {
    this.going ??= deferred()
    return this.going
  }

  status: ActorView['status'] = 'starting'
  restarts = 0
  /** What its latest life kept for the next. */
  survived: unknown
  /** Its first `init` is done. */
  spawned = false
  life: Life | null = null
  /** Settles when the life that is being started is up, or is known not to be. */
  starting: Promise<Cause | null> | null = null
  /** Why the last life ended. */
  cause: Cause | null = null
  /** Set once it is going for good. */
  removal: Promise<void> | null = null
  /** Resolves when a life is up, true, or when none will come, false. */
  get up(): Deferred<boolean> {
    if (this.rising) return this.rising
    this.rising = deferred()
    if (this.isUp) this.rising.resolve(true)
    return this.rising
  }

  private watcherIds: Set<number> | null = null
  private watchedIds: Set<number> | null = null
  private going: Deferred<Cause> | null = null
  private rising: Deferred<boolean> | null = null
  private isUp = false

  constructor(
    readonly address: Address,
    readonly parent: Entry | null,
    /** The family that it belongs to. */
    readonly home: Family,
    readonly policy: Policy,
    readonly spec: Omit<LifeSpec, 'incarnation' | 'survived'>,
  ) {}

  markUp(): void {
    this.status = 'running'
    this.isUp = true
    this.rising?.resolve(true)
  }

  markDown(): void {
    if (this.isUp) this.rising = null
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

  /** Their views now; `activities` gets each by id, to be filled in. */
  view(family: Family, activities: Map<number, Filling>): ActorView[] {
    return [...family.members.values()].map((entry) => {
      const { slot } = entry.address
      const left = this.credits.room(slot, entry.id)
      const { capacity } = entry.policy
      const view = {
        path: entry.path,
        worker: entry.spec.worker,
        status: entry.status,
        mailbox: { depth: left === down ? 0 : capacity - left, capacity },
        restarts: entry.restarts,
        lastCause: entry.cause,
        activity: null,
        children: this.view(entry.family, activities),
      }
      activities.set(entry.id, view)
      return view
    })
  }
}
