// What the records of a ring say. A link between two threads has, each way, a ring for users' letters, one for everything else, and
// a port for what rings cannot carry: shared memory, which is then spoken of by number, and values too large for the arena.
import type { MessagePort } from 'node:worker_threads'
import {
  type Address,
  type Envelope,
  type Inbox,
  type Letter,
  letterOf,
  type UserMessage,
} from '../../runtime/actor/envelope.js'
import { ActorError } from '../../runtime/actor/errors.js'
import type { RefHost } from '../../runtime/actor/ref.js'
import { decodable, StreamDecoder, StreamEncoder } from '../codec/codec.js'
import { type FixedLayout, fixedLayout, misfit } from '../codec/fixed.js'
import { RingReader, RingWriter, ringMemory } from './ring.js'

const letterRingBytes = 1 << 20
const controlRingBytes = 1 << 16
const arenaBytes = 1 << 22
/** The largest value that goes into a ring itself. */
const inlineBytes = 1 << 13
/** The largest value that goes through the arena. */
const arenaValueBytes = arenaBytes >> 2
/** While more than this is on its way beside the rings, letters are refused. */
const besideBytes = 1 << 26

/** One direction of a link; both ends see it. */
export interface WireMemory {
  readonly letters: SharedArrayBuffer
  readonly control: SharedArrayBuffer
}

export const wireMemory = (): WireMemory => ({
  letters: ringMemory(letterRingBytes),
  control: ringMemory(controlRingBytes),
})

/** What goes over the port beside the rings; it is always posted before the record that needs it. */
export type Aside =
  | { readonly kind: 'large'; readonly lane: number; readonly bytes: Uint8Array }
  | { readonly kind: 'arena'; readonly lane: number; readonly memory: SharedArrayBuffer }
  | {
      readonly kind: 'share'
      readonly lane: number
      readonly number: number
      readonly memory: SharedArrayBuffer
      readonly keep: boolean
    }

// Kinds of records, in the low four bits; the flags say how the packed value came.
const fixedLetter = 1
const packedLetter = 2
const reply = 3
const envelope = 4
const define = 5
const unshare = 6
/** A packed letter whose ask is traced: the message, then the trace. */
const tracedLetter = 7
const kindMask = 0x0f
const plainFlag = 0x10
const arenaFlag = 0x20
const largeFlag = 0x40

const nobody = 0xffff
const none: number[] = []
const noMemories: SharedArrayBuffer[] = []
/** Bytes up to which a loop copies faster than the call that copies. */
const wordwise = 256

/** Copies `length` bytes, rounded up to whole words. */
function copyWords(from: Int32Array, first: number, to: Int32Array, at: number, length: number): void {
  for (let i = (length + 3) >> 2; i-- > 0; ) to[at + i] = from[first + i]!
}

/** Addresses that a link speaks of by number; the oldest is forgotten for a new one. */
const mostAddresses = 4096
/** Shared memories that the other end holds for a link at most. */
const mostShared = 256

/** Gives numbers to shared memory: what is sent for the second time is kept by the other end until it dies here, or is one too many. */
class SharedOut {
  private readonly known = new WeakMap<SharedArrayBuffer, { number: number }>()
  private readonly kept = new Map<number, { number: number }>()
  private readonly deaths: FinalizationRegistry<number>
  private last = 0

  constructor(
    private readonly share: (number: number, memory: SharedArrayBuffer, keep: boolean) => void,
    private readonly unshare: (number: number) => void,
  ) {
    this.deaths = new FinalizationRegistry((number) => this.forget(number))
  }

  number(memory: SharedArrayBuffer): number {
    const before = this.known.get(memory)
    if (before && before.number > 0) return before.number
    const number = ++this.last
    this.share(number, memory, before !== undefined)
    if (before) {
      before.number = number
      this.kept.set(number, before)
      this.deaths.register(memory, number)
    } else this.known.set(memory, { number: 0 })
    return number
  }

  /** Forgets what was kept the longest; between two records only. */
  trim(): void {
    while (this.kept.size > mostShared) this.forget(this.kept.keys().next().value!)
  }

  private forget(number: number): void {
    const entry = this.kept.get(number)
    if (!entry) return
    this.kept.delete(number)
    entry.number = 0
    this.unshare(number)
  }
}

/** The producer's end of one direction: letters on lane 0, the rest on lane 1. */
export class WireOut {
  readonly letters: RingWriter
  readonly control: RingWriter
  private readonly encoders: [StreamEncoder, StreamEncoder]
  private readonly arenas: (RingWriter | null)[] = [null, null]
  private readonly shared: readonly [SharedOut, SharedOut]
  private readonly numbers = new Map<number, number>()
  private readonly addresses: (Address | null)[] = []
  private nextNumber = 0
  /** Numbers that went from one address to another. */
  private passedOn = 0
  private lastTo: Address | null = null
  private lastToNumber = 0
  private lastLayout: FixedLayout | null = null
  private lastFrom: Address | null | undefined
  private lastFromNumber = nobody
  private worded: Uint8Array | null = null
  private words: Int32Array = new Int32Array(0)
  private readonly chain: number[] = []

  constructor(
    memory: WireMemory,
    private readonly port: MessagePort,
    private readonly mostBytes: number,
    private readonly host: () => RefHost,
  ) {
    this.letters = new RingWriter(memory.letters)
    this.control = new RingWriter(memory.control)
    this.encoders = [new StreamEncoder(host), new StreamEncoder(host)]
    this.shared = [this.sharedOut(0), this.sharedOut(1)]
  }

  /** Whether letters are let in. */
  get roomy(): boolean {
    return this.letters.roomy && (this.arenas[0] === null || this.letters.beside(0) < besideBytes)
  }

  /** Throws `NOT_SERIALISABLE` or `TOO_LARGE`, and then nothing is sent. */
  letter(to: Address, life: number, from: Address | null, message: UserMessage, ask: Letter['ask']): void {
    const chain = ask?.chain
    const chainLength = chain?.length ?? 0
    let passedOn: number
    do {
      passedOn = this.passedOn
      if (to !== this.lastTo) {
        this.lastToNumber = this.number(to)
        this.lastTo = to
        this.lastLayout = to.layout === undefined ? null : fixedLayout(to.layout)
      }
      if (from !== this.lastFrom) {
        this.lastFromNumber = from ? this.number(from) : nobody
        this.lastFrom = from
      }
      for (let i = 0; i < chainLength; i++) this.chain[i] = this.number(chain![i]!)
    } while (passedOn !== this.passedOn)
    const ring = this.letters
    const names = this.lastToNumber | (this.lastFromNumber << 16)
    const trace = ask?.trace
    const fixed = trace ? undefined : this.lastLayout?.byName.get(message.type as string)
    if (fixed) {
      const head = ask ? 3 + ((chainLength + 1) >> 1) : 2
      ring.begin(fixedLetter, head + fixed.units)
      const word = ring.at * 2
      const misfitting = fixed.write(message as never, ring.float64, ring.int32, ring.at + head)
      if (misfitting !== '') {
        ring.int32[word] = head + fixed.units
        throw misfit(fixed, message as never, misfitting, to.path)
      }
      ring.int32[word + 1] = names
      ring.int32[word + 2] = life | (fixed.index << 16)
      ring.int32[word + 3] = ask ? ask.id : 0
      if (ask) {
        ring.int32[word + 4] = chainLength
        for (let i = 0; i < chainLength; i++) ring.int32[word + 6 + i] = this.chain[i]!
      }
      return
    }
    const value = this.encode(0, trace ? [message, trace] : message, 'message')
    const at = this.packed(0, trace ? tracedLetter : packedLetter, value, 3 + ((chainLength + 1) >> 1))
    const { int32 } = ring
    int32[at + 1] = names
    int32[at + 2] = life
    int32[at + 3] = ask ? ask.id : 0
    int32[at + 4] = chainLength
    for (let i = 0; i < chainLength; i++) int32[at + 6 + i] = this.chain[i]!
  }

  /**
   * Each record of the control lane says how far the letters were that went before it: they are read first, so nothing overtakes,
   * though letters take no room from it. Throws `NOT_SERIALISABLE` or `TOO_LARGE`, and then nothing is sent.
   */
  other(sent: Exclude<Envelope, Letter>): void {
    const { control } = this
    if (sent.kind !== 'reply') {
      const word = this.packed(1, envelope, this.encode(1, sent), 1)
      control.int32[word + 1] = this.letters.position
      return
    }
    let word: number
    if (sent.value === undefined) {
      control.begin(reply, 2)
      word = control.at * 2
    } else word = this.packed(1, reply, this.encode(1, sent.value, 'value'), 2)
    control.int32[word + 1] = this.letters.position
    control.int32[word + 2] = sent.id
  }

  private sharedOut(lane: 0 | 1): SharedOut {
    const ring = lane === 0 ? this.letters : this.control
    return new SharedOut(
      (number, memory, keep) => this.port.postMessage({ kind: 'share', lane, number, memory, keep } satisfies Aside),
      (number) => {
        ring.begin(unshare, 1)
        ring.int32[ring.at * 2 + 1] = number
      },
    )
  }

  /** `name` is what an error calls the value. */
  private encode(lane: 0 | 1, value: unknown, name?: string): StreamEncoder {
    const encoder = this.encoders[lane]
    try {
      encoder.encode(value, name)
    } catch (error) {
      this.encoders[lane] = new StreamEncoder(this.host)
      throw error
    }
    const length = encoder.end - encoder.start
    if (length > this.mostBytes) {
      // What it defined will not arrive.
      this.encoders[lane] = new StreamEncoder(this.host)
      throw new ActorError('TOO_LARGE', `encode: a message of ${length} bytes, expected at most ${this.mostBytes}`, {
        bytes: length,
        most: this.mostBytes,
      })
    }
    return encoder
  }

  /**
   * Begins a record with `head` units of the caller's, then the length of the value, the numbers of its shared memories and, where
   * it is small, the value. Returns the record's first word.
   */
  private packed(lane: 0 | 1, kind: number, encoded: StreamEncoder, head: number): number {
    const { bytes, start, shared, plain } = encoded
    const ring = lane === 0 ? this.letters : this.control
    let numbers = none
    if (shared.length > 0) {
      numbers = []
      this.shared[lane].trim()
      for (const memory of shared) numbers.push(this.shared[lane].number(memory))
    }
    const length = encoded.end - start
    const place = length <= inlineBytes ? 0 : this.large(lane, bytes.subarray(start, encoded.end))
    const sharedUnits = (numbers.length + 1) >> 1
    const valueUnits = place === 0 ? (length + 7) >> 3 : 0
    ring.begin(kind | (plain ? plainFlag : 0) | place, head + 1 + sharedUnits + valueUnits)
    const { at, int32, uint8 } = ring
    const word = (at + head) * 2
    int32[word] = length
    int32[word + 1] = numbers.length
    for (let i = 0; i < numbers.length; i++) int32[word + 2 + i] = numbers[i]!
    if (place === 0) {
      const to = at + head + 1 + sharedUnits
      if (length <= wordwise) copyWords(this.wordsOf(bytes), start >> 2, int32, to * 2, length)
      else uint8.set(bytes.subarray(start, encoded.end), to * 8)
    }
    return at * 2
  }

  /** The encoder's buffer in words; it is nearly always the same. */
  private wordsOf(bytes: Uint8Array): Int32Array {
    if (this.worded !== bytes) {
      this.worded = bytes
      this.words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2)
    }
    return this.words
  }

  /** Puts a value into the lane's arena or, where it has no room for it, on the port; returns the flag that says so. */
  private large(lane: 0 | 1, bytes: Uint8Array): number {
    let arena = this.arenas[lane]
    if (!arena) {
      const memory = ringMemory(arenaBytes)
      arena = new RingWriter(memory)
      this.arenas[lane] = arena
      this.port.postMessage({ kind: 'arena', lane, memory } satisfies Aside)
    }
    const units = 1 + ((bytes.length + 7) >> 3)
    if (bytes.length <= arenaValueBytes && arena.fits(units)) {
      arena.begin(define, units)
      arena.uint8.set(bytes, (arena.at + 1) * 8)
      arena.publish()
      return arenaFlag
    }
    const copy = Uint8Array.prototype.slice.call(bytes)
    if (lane === 0) this.letters.beside(bytes.length)
    this.port.postMessage({ kind: 'large', lane, bytes: copy } satisfies Aside, [copy.buffer as ArrayBuffer])
    return largeFlag
  }

  /** The number of an address on this link, told to the other end where it is new. */
  private number(address: Address): number {
    const known = this.numbers.get(address.id)
    if (known !== undefined) return known
    const number = this.nextNumber
    this.nextNumber = (number + 1) % mostAddresses
    const previous = this.addresses[number]
    if (previous) {
      this.numbers.delete(previous.id)
      this.passedOn++
      this.lastTo = null
      this.lastFrom = undefined
    }
    this.addresses[number] = address
    this.numbers.set(address.id, number)
    const at = this.packed(0, define, this.encode(0, address), 1)
    this.letters.int32[at + 1] = number
    return number
  }
}

type Trace = NonNullable<NonNullable<Letter['ask']>['trace']>

/** The consumer's end of one direction. */
export class WireIn {
  readonly letters: RingReader
  readonly control: RingReader
  private readonly decoders: readonly [StreamDecoder, StreamDecoder]
  private readonly arenas: (RingReader | null)[] = [null, null]
  private readonly large: [Uint8Array[], Uint8Array[]] = [[], []]
  private readonly shared = [0, 1].map(() => new Map<number, { memory: SharedArrayBuffer; keep: boolean }>())
  private readonly addresses: Address[] = []
  private readonly layouts: (FixedLayout | null)[] = []
  private readonly scratch = decodable(inlineBytes + 8)
  private readonly scratchWords = new Int32Array(this.scratch.buffer)

  constructor(
    memory: WireMemory,
    private readonly from: number,
    /** Takes one thing off the port at once; false: there is nothing. */
    private readonly pull: () => boolean,
    host: () => RefHost,
    private readonly inbox: Inbox,
  ) {
    this.letters = new RingReader(memory.letters)
    this.control = new RingReader(memory.control)
    this.decoders = [new StreamDecoder(host), new StreamDecoder(host)]
  }

  /** Takes what came over the port. */
  aside(aside: Aside): void {
    switch (aside.kind) {
      case 'large':
        this.large[aside.lane]!.push(aside.bytes)
        break
      case 'arena':
        this.arenas[aside.lane] = new RingReader(aside.memory)
        break
      case 'share':
        this.shared[aside.lane]!.set(aside.number, aside)
    }
  }

  /** Reads everything of the control lane and up to `most` records of the other; returns how many records there were. */
  drain(most: number): number {
    let count = this.drainControl()
    const { letters } = this
    if (letters.filled) {
      for (let n = 0; n < most; n++) {
        const kind = letters.next()
        if (kind === 0) break
        this.read(kind, letters)
        count++
      }
    }
    return count
  }

  /** Reads the control lane up to a record that letters went before; then those letters, so that what is idle gets its turn first. */
  drainControl(): number {
    const { control, letters } = this
    let count = 0
    if (!control.filled) return 0
    for (let kind = control.next(); kind !== 0; kind = control.next()) {
      if (kind !== unshare) {
        const position = control.int32[control.at * 2 + 1]!
        if (!letters.past(position)) {
          control.undo()
          for (; !letters.past(position); count++) this.read(letters.next(), letters)
          return count
        }
      }
      this.read(kind, control)
      count++
    }
    return count
  }

  private read(kind: number, ring: RingReader): void {
    const { int32, at } = ring
    const word = at * 2
    switch (kind & kindMask) {
      case fixedLetter: {
        const names = int32[word + 1]!
        const to = names & 0xffff
        const rest = int32[word + 2]!
        const ask = int32[word + 3]!
        const type = this.layouts[to]!.types[rest >>> 16]!
        const chain = ask === 0 ? 0 : int32[word + 4]!
        const head = ask === 0 ? 2 : 3 + ((chain + 1) >> 1)
        const message = type.read(ring.float64, int32, at + head)
        this.receive(names, rest & 0xffff, ask, chain, word, int32, message)
        break
      }
      case packedLetter:
      case tracedLetter: {
        const names = int32[word + 1]!
        const life = int32[word + 2]!
        const ask = int32[word + 3]!
        const chain = int32[word + 4]!
        const value = this.value(kind, ring, 0, 3 + ((chain + 1) >> 1))
        if ((kind & kindMask) === tracedLetter) {
          const [message, trace] = value as [Letter['message'], Trace]
          this.receive(names, life, ask, chain, word, int32, message, trace)
        } else this.receive(names, life, ask, chain, word, int32, value as Letter['message'])
        break
      }
      case reply: {
        const id = int32[word + 2]!
        const value = (int32[word]! & 0xffffff) === 2 ? undefined : this.value(kind, ring, 1, 2)
        this.inbox.receive({ kind: 'reply', id, value })
        break
      }
      case envelope: {
        this.inbox.receive(this.value(kind, ring, 1, 1) as Exclude<Envelope, Letter>)
        break
      }
      case unshare:
        this.shared[ring === this.letters ? 0 : 1]!.delete(int32[word + 1]!)
        break
      default: {
        const number = int32[word + 1]!
        const address = this.value(kind, ring, 0, 1) as Address
        this.addresses[number] = address
        this.layouts[number] = address.layout === undefined ? null : fixedLayout(address.layout)
      }
    }
  }

  private receive(
    names: number,
    life: number,
    ask: number,
    chainLength: number,
    word: number,
    int32: Int32Array,
    message: Letter['message'],
    trace?: Trace,
  ): void {
    const to = this.addresses[names & 0xffff]!
    const sender = names >>> 16
    const from = sender === nobody ? null : this.addresses[sender]!
    if (ask === 0) {
      this.inbox.arrive(to, life, from, message)
      return
    }
    const chain: Address[] = []
    for (let i = 0; i < chainLength; i++) chain.push(this.addresses[int32[word + 6 + i]!]!)
    const asked = { id: ask, host: this.from, chain, ...(trace && { trace }) }
    this.inbox.receive(letterOf(to, life, from, message, asked))
  }

  /** The packed value of a record, `head` units from its start. */
  private value(kind: number, ring: RingReader, lane: 0 | 1, head: number): unknown {
    const { int32, uint8, at } = ring
    const word = (at + head) * 2
    const length = int32[word]!
    const count = int32[word + 1]!
    const memories = count === 0 ? noMemories : new Array<SharedArrayBuffer>(count)
    for (let i = 0; i < count; i++) memories[i] = this.memory(lane, int32[word + 2 + i]!)
    const plain = (kind & plainFlag) !== 0
    const decoder = this.decoders[lane]
    if ((kind & arenaFlag) !== 0) {
      while (!this.arenas[lane]) this.expectAside()
      const arena = this.arenas[lane]!
      arena.next()
      const start = (arena.at + 1) * 8
      const bytes = Buffer.from(arena.uint8.subarray(start, start + length))
      arena.release()
      return decoder.decode(bytes, length, memories, plain)
    }
    if ((kind & largeFlag) !== 0) {
      while (this.large[lane].length === 0) this.expectAside()
      if (lane === 0) this.letters.beside(-length)
      return decoder.decode(this.large[lane].shift()!, length, memories, plain)
    }
    const from = at + head + 1 + ((count + 1) >> 1)
    if (length <= wordwise) copyWords(int32, from * 2, this.scratchWords, 0, length)
    else this.scratch.set(uint8.subarray(from * 8, from * 8 + length))
    return decoder.decode(this.scratch, length, memories, plain)
  }

  private memory(lane: 0 | 1, number: number): SharedArrayBuffer {
    for (;;) {
      const shared = this.shared[lane]!.get(number)
      if (shared) {
        if (!shared.keep) this.shared[lane]!.delete(number)
        return shared.memory
      }
      this.expectAside()
    }
  }

  private expectAside(): void {
    if (!this.pull()) throw new Error('link: a record, expected what it needs on the port before it, got nothing')
  }
}
