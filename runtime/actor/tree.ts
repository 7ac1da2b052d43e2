// The guardian's records: every actor of a system, its place in the tree, its present life and who watches it.
import { type CreditTable, down } from './credits.js'
import type { Place } from './definition.js'
import type { Address, LifeSpec } from './envelope.js'
import { ActorError, type Cause } from './errors.js'
import type { ActorView } from './events.js'
import { Queue } from './queue.js'
import type { Policy, RestartBudget } from './supervision.js'
import type { Filling } from './surveys.js'
import { allUnits, bytesLeft } from './weight.js'

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
export class Life {
  /** Why it ended, or is to end; the first cause counts. */
  cause: Cause | null = null
  over = false
  private starting: ((failure: Cause | null) => void) | null = null
  private ending: Deferred<void> | null = null

  constructor(readonly incarnation: number) {}

  /** Resolves to null when `init` is done, else to why it is not. For one to await. */
  begun(): Promise<Cause | null> {
    return new Promise((resolve) => {
      this.starting = resolve
    })
  }

  /** `init` is done, null, or will not be. The first word counts. */
  started(failure: Cause | null): void {
    const { starting } = this
    this.starting = null
    starting?.(failure)
  }

  /** Resolves when it is over. */
  ended(): Promise<void> {
    if (this.over) return Promise.resolve()
    this.ending ??= deferred()
    return this.ending.promise
  }

  end(): void {
    this.over = true
    this.ending?.resolve()
  }
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
  readonly members = new Map<string, Entry>()
  /** Sets that have failed, by name. */
  readonly units = new Map<string, Unit>()
  spawned = 0

  /** Last spawned first. */
  reversed(): Entry[] {
    return [...this.members.values()].reverse()
  }
}

/** An actor from its spawn until it is gone for good. What most actors never need is made when first asked for. */
export class Entry {
  status: ActorView['status'] = 'starting'
  restarts = 0
  /** What its latest life kept for the next. */
  survived: unknown = undefined
  /** Its first `init` is done. */
  spawned = false
  life: Life | null = null
  /** Settles when the life that is being started is up, or is known not to be. */
  starting: Promise<Cause | null> | null = null
  /** Why the last life ended. */
  cause: Cause | null = null
  /** Set once it is going for good. */
  removal: Promise<void> | null = null
  /** Its children. */
  family: Family | null = null
  /** Ids of the actors that watch this one, and of those that it watches. */
  watchers: Set<number> | null = null
  watching: Set<number> | null = null
  private going: Deferred<Cause> | null = null
  private rising: Deferred<boolean> | null = null
  private isUp = false

  constructor(
    readonly address: Address,
    readonly parent: Entry | null,
    readonly policy: Policy,
    readonly definition: LifeSpec['definition'],
    readonly args: unknown,
  ) {}

  get id(): number {
    return this.address.id
  }

  get path(): string {
    return this.address.path
  }

  get worker(): Place {
    return placeOf(this.address.host)
  }

  /** Resolves with why it is gone for good. */
  get gone(): Promise<Cause> {
    this.going ??= deferred()
    return this.going.promise
  }

  /** Resolves when a life is up, true, or when none will come, false. */
  get up(): Promise<boolean> {
    if (!this.rising) {
      this.rising = deferred()
      if (this.isUp) this.rising.resolve(true)
    }
    return this.rising.promise
  }

  markUp(): void {
    this.status = 'running'
    this.isUp = true
    this.rising?.resolve(true)
  }

  markDown(): void {
    if (this.isUp) this.rising = null
    this.isUp = false
  }

  markGone(cause: Cause): void {
    this.rising?.resolve(false)
    this.going?.resolve(cause)
  }

  /** What its next life is made of. */
  spec(): LifeSpec {
    const { address, parent, definition, args, policy, restarts, survived, worker } = this
    const { capacity, logLevel } = policy
    return {
      address,
      parent: parent?.address ?? null,
      definition,
      args,
      capacity,
      worker,
      incarnation: restarts,
      survived,
      logLevel,
    }
  }
}

/** The place of a host. */
export const placeOf = (host: number): Place => (host === 0 ? 'main' : host - 1)

/** All entries by id, with the slots of the credit table that they use. */
export class Tree {
  readonly top = new Family()
  private readonly entries = new Map<number, Entry>()
  private readonly freeSlots = new Queue<number>()
  /** Actors by host. */
  private readonly counts: number[]
  private usedSlots = 0
  private lastId = 0

  constructor(
    private readonly credits: CreditTable,
    hosts: number,
  ) {
    this.counts = Array<number>(hosts).fill(0)
  }

  get(id: number): Entry | undefined {
    return this.entries.get(id)
  }

  all(): IterableIterator<Entry> {
    return this.entries.values()
  }

  /** How many actors a host has. */
  countOn(host: number): number {
    return this.counts[host]!
  }

  /** The family that an actor belongs to. */
  home(entry: Entry): Family {
    return this.familyOf(entry.parent)
  }

  /** The children of an actor; null: the actors at the top. */
  familyOf(parent: Entry | null): Family {
    if (!parent) return this.top
    parent.family ??= new Family()
    return parent.family
  }

  /** A new id and slot. Throws `SPAWN_FAILED` where the table is full. */
  reserve(path: string): { id: number; slot: number } {
    const slot = this.reserveSlot(path)
    return { id: ++this.lastId, slot }
  }

  reserveSlot(path: string): number {
    const slot = this.usedSlots < this.credits.slots ? this.usedSlots++ : this.freeSlots.shift()
    if (slot !== undefined) return slot
    const message = `spawn: ${path}, expected at most ${this.credits.slots} mailboxes, got one more`
    throw new ActorError('SPAWN_FAILED', message)
  }

  add(entry: Entry): void {
    this.entries.set(entry.id, entry)
    this.home(entry).members.set(entry.path, entry)
    this.counts[entry.address.host]!++
  }

  remove(entry: Entry): void {
    this.entries.delete(entry.id)
    this.counts[entry.address.host]!--
    const { members, units } = this.home(entry)
    members.delete(entry.path)
    if (units.size > 0) units.delete(`one ${entry.id}`)
    const { slot, bytes } = entry.address
    this.freeSlots.push(slot)
    if (bytes) this.freeSlots.push(bytes.slot)
  }

  /** Their views now; `activities` gets each by id, to be filled in. */
  view(family: Family, activities: Map<number, Filling>): ActorView[] {
    return [...family.members.values()].map((entry) => {
      const { slot } = entry.address
      const left = this.credits.room(slot, entry.id)
      const { capacity } = entry.policy
      const view = {
        path: entry.path,
        worker: entry.worker,
        status: entry.status,
        mailbox: { depth: left === down ? 0 : capacity - left, capacity, ...this.bytesOf(entry) },
        restarts: entry.restarts,
        lastCause: entry.cause,
        activity: null,
        children: entry.family ? this.view(entry.family, activities) : [],
      }
      activities.set(entry.id, view)
      return view
    })
  }

  private bytesOf({ address }: Entry): { bytes?: { waiting: number; most: number } } {
    const { bytes } = address
    if (!bytes) return {}
    const left = bytesLeft(this.credits, address)
    return { bytes: { waiting: left === down ? 0 : (allUnits(bytes) - left) * bytes.unit, most: bytes.most } }
  }
}
