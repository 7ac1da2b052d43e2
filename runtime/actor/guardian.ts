// The guardian owns the tree of a system, on the thread that started it: it spawns, stops, watches and restarts actors on all hosts.
// A life ends children first. What fails together restarts together, in the order of spawning; past its budget the parent fails.
import type { CreditTable } from './credits.js'
import { DeathWatch, Obituaries } from './deathwatch.js'
import type { Address, Clock, Envelope, GuardianRequest, LifeSpec, Report, Spawner, Timer } from './envelope.js'
import { ActorError, asError, type Cause, deadActor } from './errors.js'
import type { SystemEvent, SystemView } from './events.js'
import type { LogLevel } from './log.js'
import type { Random } from './random.js'
import { Directory } from './receptionist.js'
import { type Lives, Recovery } from './recovery.js'
import { routeesOf } from './router.js'
import { type Policy, policyOf, samePolicy } from './supervision.js'
import { type Filling, Surveys } from './surveys.js'
import { Entry, type Family, Life, placeOf, Tree } from './tree.js'
import { type ByteBound, byteBound } from './weight.js'

/** After a forced stop goes unanswered for this long, the worker is ended. */
const killMs = 2000

interface HostState {
  /** Settles when it runs, null: it does; rejects where it will not. */
  ready: Promise<void> | null
  restarts: number
  /** Why it is taken for hung, where it is being ended for that. */
  stalled: string | null
}

export interface GuardianOptions {
  readonly system: string
  readonly credits: CreditTable
  readonly clock: Clock
  readonly spawner: Spawner
  /** Draws the jitter of restarts. */
  readonly random: Random
  readonly logLevel: LogLevel
  /** To any host, this thread's included; false: it is down. */
  send(host: number, envelope: Envelope): boolean
  publish(event: SystemEvent): void
}

export class Guardian implements Lives {
  private readonly tree: Tree
  private readonly hosts: HostState[]
  private readonly obituaries = new Obituaries()
  private readonly deathWatch: DeathWatch
  private readonly directory = new Directory()
  private readonly recovery: Recovery
  private readonly surveys: Surveys
  /** Definitions as workers name them, one object for all actors of each. */
  private readonly definitions = new Map<string, LifeSpec['definition']>()
  /** Of the latest spawn, and of all before it that asked for the same. */
  private policy: Policy | null = null
  private deadLetters = 0
  stopping = false

  constructor(private readonly options: GuardianOptions) {
    this.tree = new Tree(options.credits, options.spawner.workers + 1)
    this.deathWatch = new DeathWatch(this.tree, this.obituaries, options.send)
    this.recovery = new Recovery(options, this)
    this.surveys = new Surveys(options.clock, options.spawner.workers + 1, options.send)
    this.hosts = Array.from({ length: options.spawner.workers + 1 }, () => ({
      ready: null,
      restarts: 0,
      stalled: null,
    }))
  }

  receive(report: Report): void {
    switch (report.kind) {
      case 'request':
        void this.serve(report)
        break
      case 'watch':
        this.deathWatch.set(report.watcher, report.target, report.on)
        break
      case 'event':
        this.publish(report.event as SystemEvent)
        break
      case 'inspected':
        this.surveys.hear(report.id, report.host, report.view)
        break
      default: {
        const entry = this.tree.get(report.id)
        if (entry?.life?.incarnation !== report.incarnation) return
        if (report.kind === 'started') entry.life.started(entry.life.cause)
        else if (report.kind === 'failed') this.failed(entry, entry.life, report.cause)
        else if (report.kind === 'survive') entry.survived = report.value
        else {
          if (report.stopError)
            this.options.publish({ type: 'stop-failed', actor: entry.path, error: report.stopError })
          entry.life.end()
        }
      }
    }
  }

  /** A worker ended: so did every life on it. Its host comes back with no actors, and their supervisors decide. */
  hostDown(host: number, reason: Cause): void {
    const state = this.hosts[host]!
    const cause: Cause = state.stalled === null ? reason : { kind: 'stalled', message: state.stalled }
    state.stalled = null
    state.restarts++
    const lost = [...this.tree.all()].filter((entry) => entry.address.host === host && entry.life)
    for (const entry of lost) {
      const { slot, bytes } = entry.address
      const count = this.options.credits.close(slot, entry.policy.capacity)
      if (bytes) this.options.credits.close(bytes.slot, 0)
      if (count > 0) this.publish({ type: 'dead-letter', actor: entry.path, sender: null, count, cause })
    }
    this.options.publish({ type: 'worker-exit', worker: host - 1, cause })
    for (let other = 0; other < this.hosts.length; other++) {
      if (other !== host) this.options.send(other, { kind: 'host-down', host, cause })
    }
    this.surveys.hostDown(host)
    if (!this.stopping) this.open(host)
    const starting = new Set(lost.filter((entry) => entry.status === 'starting'))
    for (const entry of lost) {
      entry.life!.cause ??= cause
      entry.life!.started(cause)
      entry.life!.end()
    }
    for (const entry of lost) {
      if (!starting.has(entry) && !(entry.parent && lost.includes(entry.parent))) this.recovery.fall(entry, cause)
    }
  }

  /** Ends every actor, last spawned first; then nothing can be spawned. */
  async stop(): Promise<void> {
    this.stopping = true
    this.recovery.wake()
    const cause: Cause = { kind: 'stopped', message: `the system ${this.options.system} stops` }
    for (const entry of this.tree.top.reversed()) await this.remove(entry, cause, false)
  }

  async inspect(): Promise<SystemView> {
    const views = new Map<number, Filling>()
    const view: SystemView = {
      name: this.options.system,
      workers: this.hosts.map(({ restarts }, host) => ({
        worker: placeOf(host),
        actors: this.tree.countOn(host),
        restarts,
      })),
      actors: this.tree.view(this.tree.top, views),
      deadLetters: this.deadLetters,
    }
    if (!this.stopping) await this.surveys.ask(views)
    return view
  }

  private publish(event: SystemEvent): void {
    if (event.type === 'dead-letter') this.deadLetters += event.count
    this.options.publish(event)
  }

  private async serve({ id, host, request }: Extract<Report, { kind: 'request' }>): Promise<void> {
    let reply: Envelope
    try {
      reply = { kind: 'reply', id, value: await this.answer(request) }
    } catch (error) {
      reply = { kind: 'refusal', id, error: asError(error) }
    }
    this.options.send(host, reply)
  }

  private answer(request: GuardianRequest): unknown {
    if (request.op === 'spawn') return this.spawn(request)
    if (request.op === 'register') {
      for (const { id, path } of routeesOf(request.ref)) {
        if (request.on && !this.tree.get(id)) throw deadActor('register', path, this.obituaries.get(id))
      }
    }
    if ('service' in request) return this.directory.answer(request)
    const entry = this.tree.get(request.id)
    if (request.op === 'stop') {
      const kind = request.force ? 'killed' : 'stopped'
      return entry && this.remove(entry, { kind, message: `it was ${kind}` }, request.force)
    }
    if (request.op === 'abandon') return entry && this.abandon(entry, request.why)
    const known = this.obituaries.get(request.id)
    if (request.op === 'await-gone')
      return entry ? entry.gone : (known ?? { kind: 'stopped', message: 'it stopped earlier' })
    if (!entry) throw deadActor('ready', request.path, known)
    return this.awaitUp(entry)
  }

  private async awaitUp(entry: Entry): Promise<void> {
    if (entry.removal || !(await entry.up)) throw deadActor('ready', entry.path, await entry.gone)
  }

  home(entry: Entry): Family {
    return this.tree.home(entry)
  }

  restarting(entry: Entry, cause: Cause): void {
    this.deathWatch.notify(entry, cause, true)
  }

  private async spawn(request: Extract<GuardianRequest, { op: 'spawn' }>): Promise<Address> {
    const { definition, args, parent: parentId } = request
    if (this.stopping) throw new ActorError('SYSTEM_STOPPED', `spawn: the system ${this.options.system} stops`)
    const { options } = request
    const policy = this.shared(policyOf(options, this.options.spawner.workers, this.options.logLevel))
    const parent = parentId === null ? null : (this.tree.get(parentId) ?? null)
    if (parentId !== null && (!parent?.life || parent.removal || parent.status === 'restarting')) {
      throw deadActor('spawn', `the parent of ${definition.name}`, parent?.cause ?? this.obituaries.get(parentId))
    }
    const home = this.tree.familyOf(parent)
    const name = options.name ?? `${definition.name}-${home.spawned}`
    const path = parent ? `${parent.path}/${name}` : name
    if (home.members.has(path)) {
      throw new ActorError('BAD_OPTION', `spawn: name, expected one that no sibling has, got ${path} again`, {
        option: 'name',
        got: path,
      })
    }
    const { worker } = options
    const host = worker === undefined ? this.leastLoaded() : worker === 'main' ? 0 : worker + 1
    const place = this.tree.reserve(path)
    const bytes = policy.bytes === null ? null : byteBound(this.tree.reserveSlot(path), policy.bytes)
    const address = addressAt(place, path, host, definition.layout, policy, bytes)
    const entry = new Entry(address, parent, policy, this.definitionOn(host, definition), args)
    home.spawned++
    this.tree.add(entry)
    const failure = await this.startLife(entry)
    if (failure) {
      await this.remove(entry, failure, false)
      const { error } = failure
      if (error instanceof ActorError && (error.code === 'NOT_IMPORTABLE' || error.code === 'NOT_SERIALISABLE'))
        throw error
      const message = `spawn: ${path}, expected init to succeed, got ${failure.kind}: ${failure.message}`
      throw new ActorError('SPAWN_FAILED', message, { actor: path, kind: failure.kind }, { cause: error })
    }
    entry.spawned = true
    this.options.publish({ type: 'spawned', actor: path, worker: placeOf(host) })
    return address
  }

  /** Starts a life; resolves to null when its `init` is done, else to why not. */
  startLife(entry: Entry): Promise<Cause | null> {
    entry.starting = this.start(entry)
    return entry.starting
  }

  private async start(entry: Entry): Promise<Cause | null> {
    entry.status = 'starting'
    const failure = await this.started(entry)
    entry.starting = null
    if (failure) return failure
    if (entry.removal) return { kind: 'stopped', message: 'it was stopped while it started' }
    entry.markUp()
    return null
  }

  private async started(entry: Entry): Promise<Cause | null> {
    try {
      const { ready } = this.hosts[entry.address.host]!
      if (ready) await ready
      if (entry.removal) return entry.cause ?? { kind: 'stopped', message: 'it was stopped before it started' }
      const life = new Life(entry.restarts)
      entry.life = life
      const begun = life.begun()
      if (!this.options.send(entry.address.host, { kind: 'start', spec: entry.spec() })) {
        const message = `spawn: ${entry.path}, expected worker ${entry.worker} to run, got none`
        throw new ActorError('WORKER_EXIT', message)
      }
      return await begun
    } catch (error) {
      entry.life = null
      return { kind: 'exception', message: asError(error).message, error: asError(error) }
    }
  }

  /** Ends the present life: children first, then `stop` on its host, forced when past its grace time. */
  async endLife(entry: Entry, reason: Cause, force: boolean): Promise<void> {
    const { life } = entry
    if (life) life.cause ??= reason
    const cause = life?.cause ?? reason
    entry.markDown()
    if (entry.family) await this.removeChildren(entry, entry.family, cause, force)
    if (!life || entry.life !== life) return
    this.options.send(entry.address.host, { kind: 'stop', id: entry.id, cause, force })
    if (!life.over) await this.ended(entry, life, cause, force)
    life.started(cause)
    if (entry.life !== life) return
    entry.cause = cause
    entry.life = null
    this.deathWatch.forget(entry)
  }

  private async removeChildren(parent: Entry, family: Family, cause: Cause, force: boolean): Promise<void> {
    const message = `its parent ${parent.path} ended (${cause.kind}: ${cause.message})`
    for (const child of family.reversed()) await this.remove(child, { kind: 'parent', message }, force)
  }

  /** Waits for a life that was told to end: after its grace time it is forced, and where that goes unanswered its worker is ended. */
  private async ended(entry: Entry, life: Life, cause: Cause, force: boolean): Promise<void> {
    const { clock, send } = this.options
    const { host } = entry.address
    const kill = (): Timer =>
      clock.after(killMs, () =>
        this.killHost(host, `worker ${host - 1} did not answer a forced stop of ${entry.path} for ${killMs} ms`),
      )
    let timer = force
      ? kill()
      : clock.after(entry.policy.graceMs, () => {
          send(host, { kind: 'stop', id: entry.id, cause, force: true })
          timer = kill()
        })
    await life.ended()
    timer.cancel()
  }

  /** Ends the worker of an actor that is taken for hung. */
  private async abandon(entry: Entry, why: string): Promise<void> {
    const { host, path } = entry.address
    if (host === 0) {
      const message = `abandon: ${path}, expected an actor on a worker, got one on the main thread`
      throw new ActorError('BAD_OPTION', message, { actor: path })
    }
    const { life } = entry
    if (!life) return
    this.killHost(host, why)
    await life.ended()
  }

  private killHost(host: number, why: string): void {
    this.hosts[host]!.stalled ??= why
    this.options.spawner.kill(host)
  }

  /** Takes an actor away for good. */
  remove(entry: Entry, cause: Cause, force: boolean): Promise<void> {
    if (entry.removal) {
      if (force) void this.endLife(entry, cause, true)
      return entry.removal
    }
    entry.status = 'stopping'
    entry.removal = this.removed(entry, cause, force)
    return entry.removal
  }

  private async removed(entry: Entry, cause: Cause, force: boolean): Promise<void> {
    const { life } = entry
    await this.endLife(entry, cause, force)
    const last = life?.cause ?? cause
    entry.cause = last
    this.obituaries.record(entry.id, last)
    this.options.send(entry.address.host, { kind: 'bury', id: entry.id, cause: last })
    this.deathWatch.notify(entry, last, false)
    this.directory.forget(entry.address)
    this.tree.remove(entry)
    entry.markGone(last)
    if (entry.spawned) this.options.publish({ type: 'stopped', actor: entry.path, cause: last })
  }

  failed(entry: Entry, life: Life, cause: Cause): void {
    life.cause ??= cause
    if (entry.status === 'starting') life.started(cause)
    else this.recovery.fall(entry, cause)
  }

  private open(host: number): void {
    const state = this.hosts[host]!
    const ready = this.options.spawner.open(host)
    state.ready = ready
    ready.then(
      () => {
        if (state.ready === ready) state.ready = null
      },
      (error) => {
        const cause: Cause = { kind: 'exit', message: asError(error).message, error: asError(error) }
        if (!this.stopping) this.options.publish({ type: 'worker-exit', worker: host - 1, cause })
      },
    )
  }

  private leastLoaded(): number {
    let least = this.hosts.length === 1 ? 0 : 1
    for (let host = 2; host < this.hosts.length; host++) {
      if (this.tree.countOn(host) < this.tree.countOn(least)) least = host
    }
    return least
  }

  /** One policy for all spawns in a row that ask for the same. */
  private shared(policy: Policy): Policy {
    if (!this.policy || !samePolicy(this.policy, policy)) this.policy = policy
    return this.policy
  }

  /** A definition as a host is to be told of it: only this thread can be given the object itself. */
  private definitionOn(host: number, definition: LifeSpec['definition']): LifeSpec['definition'] {
    const { local, url, name, fingerprint } = definition
    if (local) return host === 0 ? definition : local.key
    const key = `${url} ${name} ${fingerprint}`
    const known = this.definitions.get(key) ?? definition
    this.definitions.set(key, known)
    return known
  }
}

/** Written out, for actors are many: objects of one shape share what the engine knows of it. */
function addressAt(
  { id, slot }: { id: number; slot: number },
  path: string,
  host: number,
  layout: string | undefined,
  { overflow }: Policy,
  bytes: ByteBound | null,
): Address {
  if (layout === undefined && overflow === 'refuse' && !bytes) return { id, path, host, slot }
  return {
    id,
    path,
    host,
    slot,
    ...(layout !== undefined && { layout }),
    ...(overflow !== 'refuse' && { overflow }),
    ...(bytes && { bytes }),
  }
}
