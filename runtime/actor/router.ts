// A router is a ref over several actors that speak one protocol: each send picks a routee where it is made, so there is no actor in
// between and nothing to overload. It travels in messages like any ref; each copy counts its own turns.
import type { ActorDefinition, SpawnOptions, SpawnRest } from './definition.js'
import type { Address, UserMessage } from './envelope.js'
import { ActorError, type Cause } from './errors.js'
import type { ActorRef, AskOptions, ProtocolShape, ReplyOf, StopOptions } from './protocol.js'
import { addressOf, Ref, type RefHost } from './ref.js'

/**
 * How a router picks. `round-robin`: one after the other. `least-loaded`: the one with the most room in its mailbox and the fewest
 * asks of this router under way. `hash`: by a field of the message, so equal keys reach the same actor. `broadcast`: all.
 */
export type RouterOptions =
  | { readonly strategy: 'round-robin' | 'least-loaded' | 'broadcast' }
  | {
      readonly strategy: 'hash'
      /** The field of the messages that is the key: a string, number, bigint or boolean. */
      readonly key: string
    }

/** The protocol of a broadcast: each ask resolves with the replies of all, in the order of the routees. */
export type Gathered<P extends ProtocolShape<P>> = {
  [K in keyof P]: P[K] extends () => unknown ? () => ReplyOf<P[K]>[] : (message: Parameters<P[K]>[0]) => ReplyOf<P[K]>[]
}

/** The ref of a router over actors of protocol `P` by options `R`. */
export type RouterRef<P extends ProtocolShape<P>, R> = R extends { readonly strategy: 'broadcast' }
  ? ActorRef<Gathered<P>>
  : ActorRef<P>

export interface RouterAddress extends Address {
  readonly routees: readonly Address[]
  readonly options: RouterOptions
}

const strategies: readonly RouterOptions['strategy'][] = ['round-robin', 'least-loaded', 'hash', 'broadcast']

const isRouter = (address: Address): address is RouterAddress => 'routees' in address

/** The addresses that an address stands for: a router's routees, or itself. */
export const routeesOf = (address: Address): readonly Address[] => (isRouter(address) ? address.routees : [address])

/** A ref for an address that came from elsewhere. */
export const bindRef = (host: RefHost, address: Address): Ref =>
  isRouter(address) ? new Router(host, address) : new Ref(host, address)

/**
 * A ref that spreads messages over `refs`, by the options' strategy. `tell` is false when the picked routee has no room (a
 * broadcast: when any has none, and then none is told); `ready` resolves when one has room (a broadcast: all).
 * A routee between two lives is passed over, except by `hash`, whose keys stay where they are. `stop` stops all routees.
 * Throws `BAD_OPTION` without a routee, and at a send by `hash` of a message without the key.
 */
export function router<P extends ProtocolShape<P>, const R extends RouterOptions>(
  refs: readonly ActorRef<P>[],
  options: R,
): RouterRef<P, R> {
  const [first] = refs
  if (!first) throw new ActorError('BAD_OPTION', 'router: refs, expected at least one, got none', { option: 'refs' })
  const { strategy } = options
  if (!strategies.includes(strategy)) {
    const expected = strategies.join(', ')
    const message = `router: strategy, expected one of ${expected}, got ${String(strategy)}`
    throw new ActorError('BAD_OPTION', message, { option: 'strategy', got: strategy })
  }
  if (strategy === 'hash' && typeof options.key !== 'string') {
    throw new ActorError('BAD_OPTION', `router: key, expected the name of a field, got ${String(options.key)}`, {
      option: 'key',
      got: options.key,
    })
  }
  const routees = refs.flatMap((ref) => routeesOf(addressOf(ref)))
  const path = `${strategy}(${routees.map((routee) => routee.path).join(', ')})`
  const address: RouterAddress = { id: -first.id, path, host: -1, slot: -1, routees, options }
  return new Router((first as unknown as Ref).host, address) as unknown as RouterRef<P, R>
}

/** What can spawn: a system or a context. */
export interface Spawning {
  spawn<P extends ProtocolShape<P>, A>(
    definition: ActorDefinition<P, A>,
    ...rest: SpawnRest<A, SpawnOptions>
  ): Promise<ActorRef<P>>
}

/**
 * Spawns `size` actors of a definition, named `name-0` and on, and resolves with a router over them by `routing`. If one spawn is
 * refused, those before it are stopped again and it rejects as that spawn did.
 */
export async function spawnRouter<P extends ProtocolShape<P>, A, const R extends RouterOptions>(
  where: Spawning,
  definition: ActorDefinition<P, A>,
  args: NoInfer<A>,
  options: SpawnOptions & { readonly size: number; readonly routing: R },
): Promise<RouterRef<P, R>> {
  const { size, routing, name = definition.key.name, ...rest } = options
  const refs: ActorRef<P>[] = []
  try {
    for (let i = 0; i < size; i++) {
      const spawn = [args, { ...rest, name: `${name}-${i}` }] as unknown as SpawnRest<A, SpawnOptions>
      refs.push(await where.spawn(definition, ...spawn))
    }
  } catch (error) {
    await Promise.all(refs.map((ref) => ref.stop()))
    throw error
  }
  return router(refs, routing)
}

/** The ref of a router; see {@link router}. */
class Router extends Ref {
  private turn = 0
  /** Asks of this copy under way, by routee. */
  private readonly asks: number[]

  constructor(
    host: RefHost,
    override readonly address: RouterAddress,
  ) {
    super(host, address)
    this.asks = address.routees.map(() => 0)
  }

  override tell(message: UserMessage): boolean {
    const { routees, options } = this.address
    if (options.strategy !== 'broadcast') return this.host.tell(routees[this.pick(message)]!, message)
    if (routees.some((routee) => this.host.room(routee) === 0)) return false
    let all = true
    for (const routee of routees) all = this.host.tell(routee, message) && all
    return all
  }

  override async ask(message: UserMessage, options: AskOptions = {}): Promise<unknown> {
    const { routees, options: routing } = this.address
    if (routing.strategy === 'broadcast') {
      return Promise.all(routees.map((routee) => this.host.ask(routee, message, options)))
    }
    const at = this.pick(message)
    this.asks[at]!++
    try {
      return await this.host.ask(routees[at]!, message, options)
    } finally {
      this.asks[at]!--
    }
  }

  override async ready(): Promise<void> {
    const waits = this.address.routees.map((routee) => this.host.ready(routee))
    if (this.address.options.strategy === 'broadcast') await Promise.all(waits)
    else {
      await Promise.any(waits).catch((error: AggregateError) => {
        throw error.errors[0]
      })
    }
  }

  override async stop(options: StopOptions = {}): Promise<void> {
    await Promise.all(this.address.routees.map((routee) => this.host.stop(routee, options.force ?? false)))
  }

  /** Resolves when all routees are gone, with the first one's cause. */
  override async abandon(why: string): Promise<void> {
    await Promise.all(this.address.routees.map((routee) => this.host.abandon(routee, why)))
  }

  override async terminated(): Promise<Cause> {
    const causes = await Promise.all(this.address.routees.map((routee) => this.host.terminated(routee)))
    return causes[0]!
  }

  private pick(message: UserMessage): number {
    const { routees, options } = this.address
    if (options.strategy === 'hash') return hash(this.keyOf(message, options.key)) % routees.length
    const first = this.turn
    this.turn = (first + 1) % routees.length
    let best = first
    let most = Number.NEGATIVE_INFINITY
    for (let step = 0; step < routees.length; step++) {
      const at = (first + step) % routees.length
      const room = this.host.room(routees[at]!)
      if (room < 0) continue
      if (options.strategy === 'round-robin') {
        this.turn = (at + 1) % routees.length
        return at
      }
      const free = room - this.asks[at]!
      if (free > most) {
        most = free
        best = at
      }
    }
    return best
  }

  private keyOf(message: UserMessage, field: string): string {
    const key = (message as Readonly<Record<string, unknown>>)[field]
    if (['string', 'number', 'bigint', 'boolean'].includes(typeof key)) return `${typeof key} ${key}`
    const got = key === undefined ? 'nothing' : `a ${typeof key}`
    const text = `route: ${field} of "${String(message.type)}", expected a string, number, bigint or boolean, got ${got}`
    throw new ActorError('BAD_OPTION', text, { field, type: message.type })
  }
}

/** FNV-1a over UTF-16 units. */
function hash(key: string): number {
  let bits = 0x811c9dc5
  for (let i = 0; i < key.length; i++) bits = Math.imul(bits ^ key.charCodeAt(i), 0x01000193)
  return bits >>> 0
}
