// What follows a failure: who falls together ends and restarts together, in the order of spawning, after a growing delay; past its
// budget the parent fails. Sets may overlap and fail at any moment: a life is started by one of them only.
import type { Clock } from './envelope.js'
import { ActorError, type Cause } from './errors.js'
import type { SystemEvent } from './events.js'
import type { Random } from './random.js'
import { fallTogether, RestartBudget, unitName } from './supervision.js'
import type { Entry, Family, Life, Unit } from './tree.js'

/** What the recovery needs of the guardian. */
export interface Lives {
  readonly stopping: boolean
  /** Starts a life; resolves to null when its `init` is done, else to why not. */
  startLife(entry: Entry): Promise<Cause | null>
  /** Ends the present life, children first. */
  endLife(entry: Entry, reason: Cause, force: boolean): Promise<void>
  /** Takes an actor away for good. */
  remove(entry: Entry, cause: Cause, force: boolean): Promise<void>
  /** A life failed. */
  failed(entry: Entry, life: Life, cause: Cause): void
  /** The family that an actor belongs to. */
  home(entry: Entry): Family
  /** A life has ended, and another follows. */
  restarting(entry: Entry, cause: Cause): void
}

export interface RecoveryOptions {
  readonly clock: Clock
  /** Draws the jitter. */
  readonly random: Random
  publish(event: SystemEvent): void
}

export class Recovery {
  private readonly sleepers = new Set<() => void>()

  constructor(
    private readonly options: RecoveryOptions,
    private readonly lives: Lives,
  ) {}

  /** Ends all delays, for the system stops. */
  wake(): void {
    for (const wake of this.sleepers) wake()
  }

  /** A life failed after it had started. */
  fall(entry: Entry, cause: Cause): void {
    if (entry.removal) return
    if (this.goesAnyway(entry)) {
      this.options.publish({ type: 'failed', actor: entry.path, cause, outcome: 'stop' })
      return
    }
    const { units } = this.lives.home(entry)
    const name = unitName(entry)
    let unit = units.get(name)
    if (!unit) {
      unit = { budget: new RestartBudget(), phase: 'up', members: [], next: null }
      units.set(name, unit)
    }
    if (unit.phase === 'up') void this.recover(unit, entry, cause)
    else if (unit.phase === 'ending' && unit.members.includes(entry)) this.restarts(entry, cause)
    else if (!unit.next) unit.next = { entry, cause }
    else {
      // Those that were spawned later fall with the earlier.
      const [first, second] =
        entry.id < unit.next.entry.id ? [{ entry, cause }, unit.next] : [unit.next, { entry, cause }]
      unit.next = first
      this.restarts(second.entry, second.cause)
    }
  }

  private restarts(entry: Entry, cause: Cause): void {
    this.options.publish({ type: 'failed', actor: entry.path, cause, outcome: 'restart' })
  }

  /** Ends and restarts a unit until all of it is up, or its budget is spent. */
  private async recover(unit: Unit, failing: Entry, reason: Cause): Promise<void> {
    let entry = failing
    let cause = reason
    for (;;) {
      const delay = unit.budget.spend(this.options.clock.now(), entry.policy, this.options.random)
      if (delay === null) return this.escalate(unit, entry, cause)
      this.restarts(entry, cause)
      unit.phase = 'ending'
      unit.members = this.membersOf(unit, entry)
      await this.endAll(unit.members, entry, cause)
      await this.sleep(delay)
      await this.endMore(unit, entry, cause)
      unit.phase = 'starting'
      const failure = await this.startAll(unit.members)
      const next = earliest(failure, unit.next)
      unit.next = null
      if (!next) break
      entry = next.entry
      cause = next.cause
    }
    unit.phase = 'up'
    unit.members = []
  }

  /** Who ends and restarts in a round: those that fall with the failing one, and those that the round before left down. */
  private membersOf(unit: Unit, failing: Entry): Entry[] {
    const siblings = [...this.lives.home(failing).members.values()]
    const falling = new Set(fallTogether(failing, siblings))
    for (const member of unit.members) if (!member.life || member.life.cause) falling.add(member)
    return siblings.filter((member) => falling.has(member) && !member.removal)
  }

  /** Ends what failed while the members ended. */
  private async endMore(unit: Unit, entry: Entry, cause: Cause): Promise<void> {
    for (;;) {
      const { next } = unit
      if (next) {
        // One that was spawned before the members: all after it fall too.
        unit.next = null
        if (next.entry.removal) continue
        this.restarts(next.entry, next.cause)
        const known = new Set(unit.members)
        unit.members = this.membersOf(unit, next.entry)
        const more = unit.members.filter((member) => !known.has(member))
        await this.endAll(more, next.entry, next.cause)
        continue
      }
      // A unit that overlaps may have restarted a member, and that life may have failed too.
      const failed = unit.members.filter((member) => !member.removal && member.life?.cause)
      if (failed.length === 0) return
      await this.endAll(failed, entry, cause)
    }
  }

  /** Ends lives that are to be followed by others; all at once, for the members may wait for each other. */
  private async endAll(members: readonly Entry[], failing: Entry, cause: Cause): Promise<void> {
    const end = async (member: Entry): Promise<void> => {
      const { life } = member
      const own = member === failing ? cause : fellWith(failing, cause)
      member.status = 'restarting'
      await this.lives.endLife(member, own, false)
      if (life && !member.removal) this.lives.restarting(member, life.cause ?? own)
    }
    await Promise.all(members.map(end))
  }

  private async startAll(members: readonly Entry[]): Promise<{ entry: Entry; cause: Cause } | null> {
    for (const member of members) {
      // A unit that overlaps may be starting it.
      while (member.starting) await member.starting
      if (member.removal || member.life || this.goesAnyway(member)) continue
      member.restarts++
      const failure = await this.lives.startLife(member)
      if (member.removal) continue
      if (failure) return { entry: member, cause: failure }
      this.options.publish({ type: 'restarted', actor: member.path, restarts: member.restarts, cause: member.cause! })
    }
    return null
  }

  /** The budget is spent: the unit goes for good, and its parent fails; at the top there is none. */
  private async escalate(unit: Unit, entry: Entry, cause: Cause): Promise<void> {
    const { parent } = entry
    const parentLife = parent?.life
    this.options.publish({ type: 'failed', actor: entry.path, cause, outcome: parent ? 'escalate' : 'stop' })
    unit.phase = 'ending'
    unit.members = this.membersOf(unit, entry)
    await Promise.all(
      unit.members.map((member) => this.lives.remove(member, member === entry ? cause : fellWith(entry, cause), false)),
    )
    unit.phase = 'up'
    unit.members = []
    const { next } = unit
    unit.next = null
    if (next) this.fall(next.entry, next.cause)
    if (!parent || parent.removal || !parentLife || parent.life !== parentLife || parentLife.cause) return
    this.options.publish({ type: 'escalated', actor: entry.path, parent: parent.path, cause })
    const { maxRestarts, withinMs } = entry.policy
    const message = `${entry.path} failed more than ${maxRestarts} times within ${withinMs} ms: ${cause.message}`
    const details = { actor: entry.path, maxRestarts, withinMs }
    const error = new ActorError('ESCALATED', `supervise: ${message}`, details, { cause: cause.error })
    const escalated: Cause = { kind: 'escalated', message, error }
    this.lives.failed(parent, parentLife, escalated)
  }

  /** Its parent's life, or the system, is ending: nothing restarts. */
  private goesAnyway(entry: Entry): boolean {
    return entry.parent ? !entry.parent.life || entry.parent.life.cause !== null : this.lives.stopping
  }

  private sleep(ms: number): Promise<void> {
    if (this.lives.stopping) return Promise.resolve()
    return new Promise((resolve) => {
      const wake = (): void => {
        timer.cancel()
        this.sleepers.delete(wake)
        resolve()
      }
      const timer = this.options.clock.after(ms, wake)
      this.sleepers.add(wake)
    })
  }
}

const earliest = (a: Unit['next'], b: Unit['next']): Unit['next'] => (!a || (b && b.entry.id < a.entry.id) ? b : a)

const fellWith = (failing: Entry, cause: Cause): Cause => ({
  kind: 'sibling',
  message: `it fell with ${failing.path} (${cause.kind}: ${cause.message})`,
})
