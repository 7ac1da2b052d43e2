// The network of a system on one thread: a channel from every host to every other, each keeping its order, and which delivers next is
// drawn from a seed. Faults hold packets back, lose them, or end a host; but for `drop`, what is sent to a host that lives arrives.
import type { CreditTable } from '../../runtime/actor/credits.js'
import { type Envelope, type Letter, letterOf, type Spawner, type Transport } from '../../runtime/actor/envelope.js'
import { ActorError, type Cause } from '../../runtime/actor/errors.js'
import { Host } from '../../runtime/actor/host.js'
import { Queue } from '../../runtime/actor/queue.js'
import type { Random } from '../../runtime/actor/random.js'
import { giveBytes } from '../../runtime/actor/weight.js'
import { decode, type Encoded, encode } from '../codec/codec.js'
import type { VirtualClock } from './clock.js'

const mostRespawnMs = 5

interface Channel {
  readonly from: number
  readonly to: number
  readonly packets: Queue<{ readonly encoded: Encoded; readonly sent: number; readonly due: number }>
  delay: number
}

/** A message of a user on its way, as {@link Network.drop} sees it. */
export interface Passing {
  /** Hosts: 0 is the main thread, then the workers from 1. */
  readonly from: number
  readonly to: number
  readonly actor: string
  readonly type: PropertyKey
}

export class Network implements Spawner {
  readonly hosts = new Map<number, Host>()
  onDown: (host: number, cause: Cause) => void = () => {}
  private readonly channels = new Map<number, Channel>()
  private readonly frozen = new Set<number>()
  private readonly cuts = new Set<number>()
  private readonly drops = new Set<(message: Passing) => boolean>()
  private readonly opened = new Set<number>()
  private readonly pauses = new Set<() => void>()
  private pumping = false
  private closed = false
  /** What was sent by then is due. */
  private calmAt = Number.NEGATIVE_INFINITY

  constructor(
    private readonly system: string,
    readonly workers: number,
    private readonly random: Random,
    private readonly credits: CreditTable,
    private readonly clock: VirtualClock,
  ) {}

  /** Whether nothing can be delivered now. */
  get idle(): boolean {
    return this.deliverable().length === 0
  }

  transport(from: number): Transport {
    const transport: Transport = {
      tell: (to, life, from, message) => transport.send(to.host, letterOf(to, life, from, message)),
      send: (to, envelope) => {
        const sender = this.hosts.get(from)
        if (!sender || !this.hosts.has(to)) return false
        const encoded = encode(envelope, sender)
        if (envelope.kind === 'letter' && this.loses(from, to, envelope)) return true
        const channel = this.channel(from, to)
        const sent = this.clock.now()
        channel.packets.push({ encoded, sent, due: sent + channel.delay })
        if (channel.delay > 0) this.clock.after(channel.delay, () => this.pump())
        this.pump()
        return true
      },
      roomy: () => true,
      awaitRoom: async () => {},
      attend: () => false,
    }
    return transport
  }

  /** The first start of a host takes no time, later ones a few milliseconds that the seed draws. */
  async open(index: number): Promise<void> {
    const { system, credits } = this
    if (this.opened.has(index)) await this.pause(this.random.below(mostRespawnMs + 1))
    if (this.closed) throw new ActorError('SYSTEM_STOPPED', `spawn: the system ${system} stops`)
    this.opened.add(index)
    const clock = this.clock.of(() => !this.frozen.has(index))
    this.hosts.set(index, new Host({ system, index, credits, transport: this.transport(index), clock }))
  }

  /** The host and all that is on its way to it are gone; what it had sent arrives. */
  kill(index: number): void {
    const host = this.hosts.get(index)
    if (!host) return
    this.hosts.delete(index)
    this.frozen.delete(index)
    host.close()
    for (const [key, channel] of this.channels) {
      if (channel.to === index) this.channels.delete(key)
      else if (channel.from === index && !this.frozen.has(channel.to)) {
        while (channel.packets.size > 0) this.deliver(channel)
      }
    }
    this.onDown(index, { kind: 'exit', message: `worker ${index - 1} ended: killed` })
  }

  async close(): Promise<void> {
    this.closed = true
    for (const wake of this.pauses) wake()
    for (const [index, host] of this.hosts) if (index !== 0) host.close()
    this.channels.clear()
  }

  /** Holds back all that goes to and comes from a host, and its timers. */
  freeze(index: number, on: boolean): void {
    if (on) this.frozen.add(index)
    else this.frozen.delete(index)
    this.clock.release()
    this.pump()
  }

  /** Holds back all that goes between two hosts. */
  cut(a: number, b: number, on: boolean): void {
    for (const key of [keyOf(a, b), keyOf(b, a)]) {
      if (on) this.cuts.add(key)
      else this.cuts.delete(key)
    }
    this.pump()
  }

  /** Has what goes from one host to another arrive `ms` later from now on. */
  delay(from: number, to: number, ms: number): void {
    this.channel(from, to).delay = ms
  }

  /** Loses messages of users that match, until the returned function is called. */
  drop(matches: (message: Passing) => boolean): () => void {
    this.drops.add(matches)
    return () => this.drops.delete(matches)
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        timer.cancel()
        this.pauses.delete(wake)
        resolve()
      }
      const timer = this.clock.after(ms, wake)
      this.pauses.add(wake)
    })
  }

  /** Ends every fault; what was held back arrives. */
  calm(): void {
    this.calmAt = this.clock.now()
    this.cuts.clear()
    this.drops.clear()
    this.frozen.clear()
    for (const channel of this.channels.values()) channel.delay = 0
    this.clock.release()
    this.pump()
  }

  /** A lost letter gives its room in the mailbox back. */
  private loses(from: number, to: number, letter: Letter): boolean {
    const passing = { from, to, actor: letter.to.path, type: letter.message.type }
    if (![...this.drops].some((matches) => matches(passing))) return false
    this.credits.give(letter.to.slot, letter.life)
    giveBytes(this.credits, letter)
    return true
  }

  private channel(from: number, to: number): Channel {
    const key = keyOf(from, to)
    let channel = this.channels.get(key)
    if (!channel) {
      channel = { from, to, packets: new Queue(), delay: 0 }
      this.channels.set(key, channel)
    }
    return channel
  }

  private deliverable(): Channel[] {
    const now = this.clock.now()
    return [...this.channels.values()].filter(({ from, to, packets }) => {
      const { first } = packets
      if (!first || (first.due > now && first.sent > this.calmAt)) return false
      if (this.frozen.has(from) || this.frozen.has(to)) return false
      return !this.cuts.has(keyOf(from, to))
    })
  }

  private pump(): void {
    if (this.pumping) return
    this.pumping = true
    setImmediate(() => {
      this.pumping = false
      const channels = this.deliverable()
      const channel = channels[this.random.below(channels.length)]
      if (!channel) return
      this.pump()
      this.deliver(channel)
    })
  }

  private deliver(channel: Channel): void {
    const packet = channel.packets.shift()
    const host = this.hosts.get(channel.to)
    if (packet && host) host.receive(decode(packet.encoded, host) as Envelope)
  }
}

const keyOf = (from: number, to: number): number => from * 65_536 + to
