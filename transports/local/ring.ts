// One-way memory between two threads: records in a ring of a SharedArrayBuffer, one producer, one consumer, no locks. Positions count
// units of 8 bytes and only grow; a record lies in one piece and begins with its length in units (low 24 bits; the top 8 are the
// caller's), so a gap at the end of the ring is a record of kind 0. What finds no room waits in the producer's own memory, in order.

const tailWord = 0
const headWord = 32
/** Set by a producer that waits for room; whoever clears it wakes the producer. */
const waitingWord = 33
/** Bytes on their way beside the ring. */
const besideWord = 34
const headerUnits = 32
const lengthMask = 0xffffff

/** Memory for a ring of `bytes`, a power of two. */
export const ringMemory = (bytes: number): SharedArrayBuffer => new SharedArrayBuffer(headerUnits * 8 + bytes)

abstract class Ring {
  /** Of the whole memory; a unit's index counts from its start. */
  protected readonly words: Int32Array
  protected readonly numbers: Float64Array
  protected readonly octets: Uint8Array
  /** In units. */
  readonly capacity: number

  constructor(memory: SharedArrayBuffer) {
    this.words = new Int32Array(memory)
    this.numbers = new Float64Array(memory)
    this.octets = new Uint8Array(memory)
    this.capacity = this.numbers.length - headerUnits
  }

  /** The unit of a position. */
  protected unit(position: number): number {
    return headerUnits + (position & (this.capacity - 1))
  }

  /** Bytes on their way beside the ring, after `change` is added. */
  beside(change: number): number {
    return change === 0 ? Atomics.load(this.words, besideWord) : Atomics.add(this.words, besideWord, change) + change
  }
}

/** The producer's end. */
export class RingWriter extends Ring {
  /** The record in hand: views, and the index of its first unit in `float64`. */
  int32: Int32Array = this.words
  float64: Float64Array = this.numbers
  uint8: Uint8Array = this.octets
  at = 0
  private tail = 0
  private published = 0
  /** The consumer's position as last seen. */
  private head = 0
  private readonly spilled: Float64Array[] = []

  /** Units that are free for sure. */
  get free(): number {
    return this.capacity - ((this.tail - this.head) | 0)
  }

  /** Whether a letter of any size that goes into the ring would find room. */
  get roomy(): boolean {
    if (this.spilled.length > 0) return false
    const needed = this.capacity >> 2
    if (this.free >= needed) return true
    this.head = Atomics.load(this.words, headWord)
    return this.free >= needed
  }

  /** Where the next record goes. */
  get position(): number {
    return this.tail
  }

  /** Records that wait outside the ring. */
  get waiting(): number {
    return this.spilled.length
  }

  /** Whether a record of `units` finds room now. */
  fits(units: number): boolean {
    const untilEnd = this.capacity - (this.tail & (this.capacity - 1))
    const needed = units > untilEnd ? units + untilEnd : units
    if (this.free >= needed) return true
    this.head = Atomics.load(this.words, headWord)
    return this.free >= needed
  }

  /** Begins a record of `units`, its first word included; it is the record in hand until the next one. */
  begin(kind: number, units: number): void {
    if (this.spilled.length === 0 && this.claim(units)) {
      this.int32 = this.words
      this.float64 = this.numbers
      this.uint8 = this.octets
    } else {
      this.float64 = new Float64Array(units)
      this.int32 = new Int32Array(this.float64.buffer)
      this.uint8 = new Uint8Array(this.float64.buffer)
      this.at = 0
      this.spilled.push(this.float64)
      Atomics.store(this.words, waitingWord, 1)
    }
    this.int32[this.at * 2] = units | (kind << 24)
  }

  /** Lets the consumer see all records so far. True: there was something new. */
  publish(): boolean {
    while (this.spilled.length > 0) {
      const record = this.spilled[0]!
      if (!this.claim(record.length)) {
        Atomics.store(this.words, waitingWord, 1)
        // The consumer may have made room, and looked for the word, just before.
        if (!this.claim(record.length)) break
      }
      this.words.set(new Int32Array(record.buffer), this.at * 2)
      this.spilled.shift()
    }
    if (this.tail === this.published) return false
    this.published = this.tail
    Atomics.store(this.words, tailWord, this.tail)
    return true
  }

  /** Asks to be woken when there is room; false: there is already. */
  awaitRoom(): boolean {
    Atomics.store(this.words, waitingWord, 1)
    return !this.roomy
  }

  /** Takes `units` in one piece; false: no room. */
  private claim(units: number): boolean {
    if (!this.fits(units)) return false
    const untilEnd = this.capacity - (this.tail & (this.capacity - 1))
    if (units > untilEnd) {
      this.words[this.unit(this.tail) * 2] = untilEnd
      this.tail = (this.tail + untilEnd) | 0
    }
    this.at = this.unit(this.tail)
    this.tail = (this.tail + units) | 0
    return true
  }
}

/** The consumer's end. */
export class RingReader extends Ring {
  readonly int32: Int32Array = this.words
  readonly float64: Float64Array = this.numbers
  readonly uint8: Uint8Array = this.octets
  /** First unit of the record in hand. */
  at = 0
  private head = 0
  private released = 0
  private tail = 0

  /** Whether there is a record, looking at shared memory only where none is known. */
  get filled(): boolean {
    if (this.head !== this.tail) return true
    this.tail = Atomics.load(this.words, tailWord)
    return this.head !== this.tail
  }

  /** Whether all records before a position have been read. */
  past(position: number): boolean {
    return ((position - this.head) | 0) <= 0
  }

  /** The kind of the next record, which is then in hand; 0: there is none. */
  next(): number {
    while (this.filled) {
      this.at = this.unit(this.head)
      const first = this.words[this.at * 2]!
      this.head = (this.head + (first & lengthMask)) | 0
      if (first >>> 24 !== 0) return first >>> 24
    }
    return 0
  }

  /** Puts the record in hand back. */
  undo(): void {
    this.head = (this.head - (this.words[this.at * 2]! & lengthMask)) | 0
  }

  /** Gives back the room of all records read. True: the producer waits for room and is to be woken. */
  release(): boolean {
    if (this.released !== this.head) {
      this.released = this.head
      Atomics.store(this.words, headWord, this.head)
    }
    if (Atomics.load(this.words, waitingWord) === 0) return false
    const used = (Atomics.load(this.words, tailWord) - this.head) | 0
    return used <= this.capacity >> 2 && Atomics.compareExchange(this.words, waitingWord, 1, 0) === 1
  }
}
