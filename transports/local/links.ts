// The links of one thread: to every other host a ring for letters, one for the rest and a port. Links are the thread's transport and
// its pump: they read what arrives in bounded batches between which the event loop turns, spin for a moment when nothing comes, then
// sleep until a bell rings. The ports also carry the few words by which threads are connected and closed.
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import { addon } from '../../native/load.js'
import type { Address, Envelope, Inbox, Transport, UserMessage } from '../../runtime/actor/envelope.js'
import type { RefHost } from '../../runtime/actor/ref.js'
import { Bells } from './bell.js'
import { type Aside, WireIn, type WireMemory, WireOut } from './wire.js'

/** The memory of a link, as one end sees it. */
export interface LinkMemory {
  readonly out: WireMemory
  readonly in: WireMemory
}

/** What the pool says to a worker's thread besides envelopes. */
export type PoolWord =
  | { readonly kind: 'connect'; readonly host: number; readonly port: MessagePort; readonly memory: LinkMemory }
  | { readonly kind: 'disconnect'; readonly host: number }
  | { readonly kind: 'close' }

/** What a worker's thread answers. */
export type ThreadWord =
  | { readonly kind: 'running'; readonly threadId: number }
  | { readonly kind: 'connected'; readonly host: number }

/** Letters read from one link before the event loop turns. */
const batch = 256
/** Letters written before the receiver is told. */
const unpublishedLetters = 64
/** Of {@link Spin}: work that comes within this many milliseconds comes fast, so long is looked for it. */
const soonMs = 0.05
const spinMs = 0.02
/** Of {@link Tries}: so many are left out at most. */
const mostSkips = 512
/** A thread looks this long for the reply to its ask; where it had to wake the other, which may wait for its core, not so long. */
const replyMs = 0.2
const wokenReplyMs = 0.05
/** A reply that took longer would have come by a bell as well. */
const lateMs = 0.5
/** Replies looked for before the event loop turns, while asks follow each other. */
const mostQuickLooks = 32
/** Looks at the rings in one turn that finds nothing, where the core is not offered to others between two. */
const looksPerTurn = 50
/** The same where it is. */
const yieldsPerTurn = 4

export interface LinksOptions<Word> {
  readonly index: number
  readonly bells: SharedArrayBuffer
  /** The largest encoded message. */
  readonly maxMessageBytes: number
  readonly refHost: () => RefHost
  readonly inbox: () => Inbox
  hear(word: Word, from: number): void
}

interface Link {
  readonly host: number
  readonly port: MessagePort
  readonly out: WireOut
  readonly in: WireIn
  /** Letters that the other end was not told of. */
  untold: number
  /** Whether to look for its replies, which may take long, and whether it is done just now. */
  readonly replies: Tries
  expected: boolean
  roomWaiters: (() => void)[]
}

const isAside = (message: { readonly kind: string }): message is Aside =>
  message.kind === 'large' || message.kind === 'arena' || message.kind === 'share'

/**
 * Whether to try what pays at times: where it was in vain, the next tries are ever further apart. What pays saves some microseconds; a try
 * in vain may cost milliseconds, where others take the core that was offered to them.
 */
class Tries {
  private skips = 0
  private backoff = 1

  worth(): boolean {
    if (this.skips === 0) return true
    this.skips--
    return false
  }

  paid(): void {
    this.backoff = Math.max(1, this.backoff / 2)
  }

  inVain(): void {
    this.skips = this.backoff
    this.backoff = Math.min(this.backoff * 2, mostSkips)
  }
}

/**
 * How long a thread looks for more work after work, in milliseconds: not at all, so that whoever shares its core can run, unless work
 * comes so fast that it is cheaper to look for it than to be woken.
 */
class Spin {
  ms = 0
  private readonly tries = new Tries()

  /** It was woken after so many milliseconds without work. */
  woken(idleMs: number): void {
    this.ms = idleMs < soonMs && this.tries.worth() ? spinMs : 0
  }

  paid(): void {
    this.tries.paid()
  }

  inVain(): void {
    if (this.ms === 0) return
    this.ms = 0
    this.tries.inVain()
  }
}

/** The links of one thread, by the index of the host at the other end. */
export class Links<Word extends { readonly kind: string }> implements Transport {
  private readonly byHost: (Link | undefined)[] = []
  private links: Link[] = []
  private readonly bells: Bells
  /** Looking for work, turn by turn. */
  private pumping = false
  private idleSince = 0
  /** It looks for work this long, in milliseconds, before it sleeps. */
  private patience = 0
  private readonly spin = new Spin()
  private readonly native = addon().addon
  /** Looks for replies since the event loop turned. */
  private quickLooks = 0
  private flushing = false
  private inbox_: Inbox | null = null
  private closed = false

  private get inbox(): Inbox {
    this.inbox_ ??= this.options.inbox()
    return this.inbox_
  }

  constructor(private readonly options: LinksOptions<Word>) {
    this.bells = new Bells(options.bells, options.index, () => this.wake())
  }

  connect(host: number, port: MessagePort, memory: LinkMemory): void {
    const { inbox, refHost, maxMessageBytes } = this.options
    const take = (message: Aside | Word): void => {
      if (isAside(message)) link.in.aside(message)
      else this.options.hear(message, host)
    }
    const pull = (): boolean => {
      const next = receiveMessageOnPort(port) as { message: Aside | Word } | undefined
      if (next) take(next.message)
      return next !== undefined
    }
    const link: Link = {
      host,
      port,
      out: new WireOut(memory.out, port, maxMessageBytes, refHost),
      in: new WireIn(memory.in, host, pull, refHost, inbox()),
      untold: 0,
      replies: new Tries(),
      expected: false,
      roomWaiters: [],
    }
    this.byHost[host] = link
    this.links = this.byHost.filter((each) => each !== undefined)
    port.on('message', take)
    this.pump()
  }

  disconnect(host: number): void {
    const link = this.byHost[host]
    if (!link) return
    if (!this.closed) link.in.drain(Number.POSITIVE_INFINITY)
    this.byHost[host] = undefined
    this.links = this.links.filter((each) => each !== link)
    link.port.close()
    for (const resolve of link.roomWaiters) resolve()
  }

  tell(to: Address, life: number, from: Address | null, message: UserMessage): boolean {
    const link = this.byHost[to.host]
    if (!link) return false
    link.out.letter(to, life, from, message, null)
    if (++link.untold >= unpublishedLetters) this.publish(link)
    else if (!this.flushing) this.flushSoon()
    return true
  }

  send(to: number, envelope: Envelope): boolean {
    const link = this.byHost[to]
    if (!link) return false
    if (envelope.kind === 'letter') {
      link.out.letter(envelope.to, envelope.life, envelope.from, envelope.message, envelope.ask)
      const woken = this.publish(link)
      if (!link.replies.worth()) return true
      link.expected = true
      this.patience = woken ? wokenReplyMs : replyMs
      this.expectReply()
    } else {
      link.out.letters.publish()
      link.untold = 0
      link.out.other(envelope)
      if (link.out.control.publish()) {
        this.bells.urge(to)
        this.bells.ring(to)
      }
    }
    return true
  }

  roomy(to: number): boolean {
    const link = this.byHost[to]
    return link === undefined || link.out.roomy
  }

  awaitRoom(to: number): Promise<void> {
    const link = this.byHost[to]
    if (!link) return Promise.resolve()
    this.publish(link)
    if (!link.out.letters.awaitRoom() && link.out.roomy) return Promise.resolve()
    return new Promise((resolve) => {
      link.roomWaiters.push(resolve)
    })
  }

  attend(): boolean {
    if (!this.bells.urged()) return false
    for (const link of this.links) {
      if (link.in.drainControl() > 0) this.release(link)
    }
    return true
  }

  /** Sends a word beside the envelopes, with the ports that it hands over. */
  say(to: number, word: PoolWord | ThreadWord, ports: readonly MessagePort[] = []): void {
    this.byHost[to]?.port.postMessage(word, [...ports])
  }

  close(): void {
    this.flush()
    this.closed = true
    for (const { host } of this.links) this.disconnect(host)
    this.bells.close()
  }

  /** True: the other end was asleep. */
  private publish(link: Link): boolean {
    link.untold = 0
    return link.out.letters.publish() && this.bells.ring(link.host)
  }

  private flushSoon(): void {
    this.flushing = true
    queueMicrotask(this.flush)
  }

  private readonly flush = (): void => {
    this.flushing = false
    for (const link of this.links) if (link.untold > 0) this.publish(link)
  }

  /** Looks for work from the next turn of the event loop on. */
  private pump(): void {
    this.idleSince = 0
    if (this.pumping || this.closed) return
    this.pumping = true
    this.bells.rise()
    setImmediate(this.later)
  }

  /** Looks for a reply as soon as the running handler pauses, now and then after a turn of the event loop. */
  private expectReply(): void {
    if (this.quickLooks === mostQuickLooks || this.pumping || this.closed) {
      this.pump()
      return
    }
    this.quickLooks++
    this.idleSince = 0
    this.pumping = true
    this.bells.rise()
    queueMicrotask(this.turn)
  }

  /** A bell rang: what came is served in this very turn of the event loop. */
  private wake(): void {
    if (this.pumping || this.closed) return
    this.spin.woken(performance.now() - this.idleSince)
    this.idleSince = 0
    this.pumping = true
    this.bells.rise()
    this.turn()
  }

  private readonly turn = (): void => {
    if (this.closed) return
    const worked = this.serveAll()
    if (worked) {
      if (this.idleSince !== 0 && this.patience === this.spin.ms) this.spin.paid()
      this.idleSince = 0
      this.patience = this.spin.ms
    }
    if (!worked || this.patience === 0) {
      const now = performance.now()
      if (this.idleSince === 0) this.idleSince = now
      if (now - this.idleSince >= this.patience && this.sleep()) return
      this.look()
    }
    setImmediate(this.later)
  }

  /** Looks for work for a moment; who waits for this core gets it, for the work may be theirs to send. */
  private look(): void {
    if (!this.native) for (let looks = 0; looks < looksPerTurn && !this.filled(); looks++);
    else for (let looks = 0; looks < yieldsPerTurn && !this.filled(); looks++) this.native.yieldCore()
  }

  private readonly later = (): void => {
    this.quickLooks = 0
    this.turn()
  }

  /** Serves each link once. True: there was something. */
  private serveAll(): boolean {
    const { inbox } = this
    let worked = false
    inbox.begin()
    try {
      for (const link of this.links) if (this.serve(link)) worked = true
    } finally {
      inbox.end()
    }
    return worked
  }

  /** Reads a batch and moves what waits to go out. True: there was something. */
  private serve(link: Link): boolean {
    const read = link.in.drain(batch)
    if (read > 0) {
      this.release(link)
      if (link.expected) this.judge(link)
    }
    const { letters, control } = link.out
    if (letters.waiting > 0) this.publish(link)
    if (control.waiting > 0 && control.publish()) this.bells.ring(link.host)
    if (link.roomWaiters.length > 0 && (link.out.roomy || (!letters.awaitRoom() && link.out.roomy))) {
      const waiters = link.roomWaiters
      link.roomWaiters = []
      for (const resolve of waiters) resolve()
    }
    return read > 0
  }

  /** Whether looking for a link's reply was worth it: not so where others had this core meanwhile. */
  private judge(link: Link): void {
    link.expected = false
    if (this.pumping && (this.idleSince === 0 || performance.now() - this.idleSince < lateMs)) link.replies.paid()
    else link.replies.inVain()
  }

  /** Gives the room of what was read back. */
  private release({ in: { letters, control }, host }: Link): void {
    const wanted = letters.release()
    if (control.release() || wanted) this.bells.ring(host)
  }

  private filled(): boolean {
    for (const link of this.links) if (link.in.control.filled || link.in.letters.filled) return true
    return false
  }

  /** Whether anything waits to go out. */
  private waiting(): boolean {
    for (const { out, roomWaiters } of this.links) {
      if (out.letters.waiting > 0 || out.control.waiting > 0 || roomWaiters.length > 0) return true
    }
    return false
  }

  /** True: asleep, and the next ring begins again. */
  private sleep(): boolean {
    this.bells.lieDown()
    // Room or records may have come before others knew that they are to ring.
    if ((this.filled() || this.waiting()) && this.serveAll()) {
      this.bells.rise()
      return false
    }
    this.pumping = false
    if (this.patience === this.spin.ms) this.spin.inVain()
    for (const link of this.links) if (link.expected) this.judge(link)
    this.bells.sleep()
    return true
  }
}
