// A whole system on one thread for tests: every "worker" is a host of its own behind encoded channels. Which channel delivers next
// is drawn from a seed, the order within a channel is kept, and time moves only when the test says so.
import { CreditTable } from '../../runtime/actor/credits.js'
import type { Clock, Envelope, Spawner, Transport } from '../../runtime/actor/envelope.js'
import type { Cause } from '../../runtime/actor/errors.js'
import { Host } from '../../runtime/actor/host.js'
import { Queue } from '../../runtime/actor/queue.js'
import { System } from '../../runtime/actor/system.js'
import { decode, type Encoded, encode } from '../codec/codec.js'

const slots = 4096

export interface LoopbackOptions {
  readonly workers: number
  /** Draws the interleaving of channels; default 1. */
  readonly seed?: number
}

/** Time that stands still until it is advanced. */
export class VirtualClock implements Clock {
  private time = 0
  private readonly timers = new Set<{ readonly at: number; readonly run: () => void }>()

  now(): number {
    return this.time
  }

  after(ms: number, run: () => void): () => void {
    const timer = { at: this.time + ms, run }
    this.timers.add(timer)
    return () => this.timers.delete(timer)
  }

  soon(run: () => void): void {
    queueMicrotask(run)
  }

  later(run: () => void): void {
    setImmediate(run)
  }

  /** Timers that have not fired. */
  get waiting(): number {
    return this.timers.size
  }

  /** Moves to the next timer up to `limit` and fires it; false: there was none, and time is `limit`. */
  step(limit: number): boolean {
    const [next] = [...this.timers].filter((timer) => timer.at <= limit).sort((a, b) => a.at - b.at)
    this.time = next ? next.at : limit
    if (!next) return false
    this.timers.delete(next)
    next.run()
    return true
  }
}

interface Channel {
  readonly from: number
  readonly to: number
  readonly packets: Queue<Encoded>
}

/** The hosts but the first, and all channels. */
class Network implements Spawner {
  readonly hosts = new Map<number, Host>()
  onDown: (host: number, cause: Cause) => void = () => {}
  private readonly channels = new Map<string, Channel>()
  private pumping = false
  private state: number

  constructor(
    private readonly system: string,
    readonly workers: number,
    seed: number,
    private readonly credits: CreditTable,
    private readonly clock: VirtualClock,
  ) {
    this.state = seed >>> 0
  }

  get idle(): boolean {
    return [...this.channels.values()].every((channel) => channel.packets.size === 0)
  }

  transport(from: number): Transport {
    return {
      send: (to, envelope) => {
        const sender = this.hosts.get(from)
        if (!sender || !this.hosts.has(to)) return false
        const name = `${from} to ${to}`
        let channel = this.channels.get(name)
        if (!channel) {
          channel = { from, to, packets: new Queue() }
          this.channels.set(name, channel)
        }
        channel.packets.push(encode(envelope, sender))
        this.pump()
        return true
      },
    }
  }

  async open(index: number): Promise<void> {
    const { system, credits, clock } = this
    this.hosts.set(index, new Host({ system, index, credits, transport: this.transport(index), clock }))
  }

  /** The host and all that is on its way to and from it are gone. */
  kill(index: number): void {
    const host = this.hosts.get(index)
    if (!host) return
    this.hosts.delete(index)
    for (const [name, { from, to }] of this.channels) if (from === index || to === index) this.channels.delete(name)
    host.close()
    this.onDown(index, { kind: 'exit', message: `worker ${index - 1} ended: killed` })
  }

  async close(): Promise<void> {
    for (const [index, host] of this.hosts) if (index !== 0) host.close()
    this.channels.clear()
  }

  private pump(): void {
    if (this.pumping) return
    this.pumping = true
    setImmediate(() => {
      this.pumping = false
      const full = [...this.channels.values()].filter((channel) => channel.packets.size > 0)
      const channel = full[this.draw(full.length)]
      const packet = channel?.packets.shift()
      if (!channel || !packet) return
      this.pump()
      const host = this.hosts.get(channel.to)
      host?.receive(decode(packet, host) as Envelope)
    })
  }

  /** A number below `count` (xorshift32). */
  private draw(count: number): number {
    this.state ^= this.state << 13
    this.state ^= this.state >>> 17
    this.state ^= this.state << 5
    return (this.state >>> 0) % Math.max(count, 1)
  }
}

/** A deterministic system: same seed, same interleaving. */
export class LoopbackSystem extends System {
  private constructor(
    private readonly network: Network,
    readonly clock: VirtualClock,
    credits: CreditTable,
  ) {
    super({ name: 'loopback', credits, clock, transport: network.transport(0), spawner: network })
    network.hosts.set(0, this.host)
    network.onDown = (host, cause) => this.guardian.hostDown(host, cause)
  }

  static async start(options: LoopbackOptions): Promise<LoopbackSystem> {
    const credits = CreditTable.create(slots)
    const clock = new VirtualClock()
    const network = new Network('loopback', options.workers, options.seed ?? 1, credits, clock)
    const system = new LoopbackSystem(network, clock, credits)
    for (let host = 1; host <= options.workers; host++) await network.open(host)
    return system
  }

  /** Resolves when no message is on its way and promises have run. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 4; ) {
      await new Promise(setImmediate)
      quiet = this.network.idle ? quiet + 1 : 0
    }
  }

  /** Lets `ms` of virtual time pass, firing what falls due in order. */
  async advance(ms: number): Promise<void> {
    const limit = this.clock.now() + ms
    await this.settle()
    while (this.clock.step(limit)) await this.settle()
  }

  /** Ends a worker at once, as a crash would. */
  async kill(worker: number): Promise<void> {
    this.network.kill(worker + 1)
    await this.settle()
  }
}
