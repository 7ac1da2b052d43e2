// The credits of every mailbox of a system, in shared memory: one word per actor holds the number of its life, whether it accepts
// messages, and how many more it takes, so a sender on any thread takes a credit by one compare-and-swap and the bound is exact.
// A credit belongs to one life: whoever gives it back names the life, and a credit of an earlier life is void.

const creditBits = 20
const creditMask = (1 << creditBits) - 1
const openBit = 1 << creditBits
const lifeShift = creditBits + 1
const lifeMask = (1 << (32 - lifeShift)) - 1

/** Largest capacity of a mailbox. */
export const maxCapacity: number = creditMask

/** `take` found the mailbox full. */
export const full = -1
/** `take` found the actor down or gone. */
export const down = -2

/** Two int32 words per actor: the actor's id, and life, open bit and credits. Shared by all hosts of a system. */
export class CreditTable {
  private readonly words: Int32Array
  constructor(readonly buffer: SharedArrayBuffer) {
    this.words = new Int32Array(buffer)
  }

  /** A table for `slots` actors; its pages cost nothing until used. */
  static create(slots: number): CreditTable {
    return new CreditTable(new SharedArrayBuffer(slots * 8))
  }

  get slots(): number {
    return this.words.length / 2
  }

  /** Begins a life of actor `id` in `slot` with `capacity` credits; returns the life's number. */
  open(slot: number, id: number, capacity: number): number {
    const life = ((Atomics.load(this.words, slot * 2 + 1) >>> lifeShift) + 1) & lifeMask
    Atomics.store(this.words, slot * 2, id | 0)
    Atomics.store(this.words, slot * 2 + 1, (life << lifeShift) | openBit | capacity)
    return life
  }

  /** Ends the present life, if it still accepts; returns how many credits were out, which is how many messages were not yet handled. */
  close(slot: number, capacity: number): number {
    for (;;) {
      const word = Atomics.load(this.words, slot * 2 + 1)
      if ((word & openBit) === 0) return 0
      const closed = word & ~(openBit | creditMask)
      if (Atomics.compareExchange(this.words, slot * 2 + 1, word, closed) === word)
        return capacity - (word & creditMask)
    }
  }

  /** Takes one credit: the life it belongs to, or `full` or `down`. */
  take(slot: number, id: number): number {
    for (;;) {
      if (Atomics.load(this.words, slot * 2) !== (id | 0)) return down
      const word = Atomics.load(this.words, slot * 2 + 1)
      if ((word & openBit) === 0) return down
      if ((word & creditMask) === 0) return full
      if (Atomics.compareExchange(this.words, slot * 2 + 1, word, word - 1) === word) return word >>> lifeShift
    }
  }

  /** Gives one credit back to the life that it was taken from; void if that life is over. */
  give(slot: number, life: number): void {
    for (;;) {
      const word = Atomics.load(this.words, slot * 2 + 1)
      if ((word & openBit) === 0 || word >>> lifeShift !== life) return
      if (Atomics.compareExchange(this.words, slot * 2 + 1, word, word + 1) === word) return
    }
  }

  /** Credits left, or `down`. */
  left(slot: number, id: number): number {
    const word = Atomics.load(this.words, slot * 2 + 1)
    return Atomics.load(this.words, slot * 2) !== (id | 0) || (word & openBit) === 0 ? down : word & creditMask
  }
}
