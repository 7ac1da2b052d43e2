// The credits of every mailbox of a system, in shared memory: one word per actor holds the number of its life, whether it accepts
// messages, and how many more it takes, so a sender on any thread takes a credit by one compare-and-swap and the bound is exact.
// A credit belongs to one life: whoever gives it back names the life, and a credit of an earlier life is void. A host that sends much
// to one actor takes several credits at a time on loan; the loan stands in shared memory too, so it is not lost with its host.

const creditBits = 20
const creditMask = (1 << creditBits) - 1
const openBit = 1 << creditBits
const lifeShift = creditBits + 1
const lifeMask = (1 << (32 - lifeShift)) - 1

/** Set in the life number of a letter that holds no credit, for its receiver drops the oldest. */
export const creditless: number = lifeMask + 1

/** The number of a life. */
export const lifeOf = (life: number): number => life & lifeMask

/** Largest capacity of a mailbox. */
export const maxCapacity: number = creditMask

/** `take` found the mailbox full. */
export const full = -1
/** `take` found the actor down or gone. */
export const down = -2

/** Words of a host's loan, alone in their lines of the cache: slot, life, credits left. */
const loanWords = 32
const hostsWord = 0
const headWords = 32

/** Two int32 words per actor: the actor's id, and life, open bit and credits. Shared by all hosts of a system. */
export class CreditTable {
  private readonly words: Int32Array
  private readonly loans: Int32Array
  constructor(readonly buffer: SharedArrayBuffer) {
    const head = new Int32Array(buffer, 0, headWords)
    const hosts = head[hostsWord]!
    this.loans = new Int32Array(buffer, headWords * 4, hosts * loanWords)
    this.words = new Int32Array(buffer, (headWords + hosts * loanWords) * 4)
  }

  /** A table for `slots` actors on `hosts` hosts; its pages cost nothing until used. */
  static create(slots: number, hosts = 1): CreditTable {
    const buffer = new SharedArrayBuffer((headWords + hosts * loanWords + slots * 2) * 4)
    new Int32Array(buffer)[hostsWord] = hosts
    return new CreditTable(buffer)
  }

  get slots(): number {
    return this.words.length / 2
  }

  /** The loan of a host. */
  loan(host: number): Int32Array {
    return this.loans.subarray(host * loanWords, (host + 1) * loanWords)
  }

  /** Gives back what is left of the loan of a host. */
  endLoan(loan: Int32Array): void {
    const left = loan[2]!
    if (left === 0) return
    loan[2] = 0
    this.give(loan[0]!, loan[1]!, left)
  }

  /** Lends up to `most` credits, a quarter of what there is at most; returns the life, `full` or `down`. */
  lend(loan: Int32Array, slot: number, id: number, most: number): number {
    for (;;) {
      if (Atomics.load(this.words, slot * 2) !== (id | 0)) return down
      const word = Atomics.load(this.words, slot * 2 + 1)
      if ((word & openBit) === 0) return down
      const left = word & creditMask
      if (left === 0) return full
      const count = Math.min(most, 1 + (left >> 2))
      if (Atomics.compareExchange(this.words, slot * 2 + 1, word, word - count) !== word) continue
      loan[0] = slot
      loan[1] = word >>> lifeShift
      loan[2] = count
      return word >>> lifeShift
    }
  }

  /** The number of the present life, or `down`. */
  life(slot: number, id: number): number {
    const word = Atomics.load(this.words, slot * 2 + 1)
    return Atomics.load(this.words, slot * 2) !== (id | 0) || (word & openBit) === 0 ? down : word >>> lifeShift
  }

  /**
   * Begins a life of actor `id` in `slot` with `capacity` credits; returns the life's number. `bytes` is a second entry of the same
   * life, which opens before the first.
   */
  open(slot: number, id: number, capacity: number, bytes?: { readonly slot: number; readonly units: number }): number {
    const life = ((Atomics.load(this.words, slot * 2 + 1) >>> lifeShift) + 1) & lifeMask
    if (bytes) this.openAs(life, bytes.slot, id, bytes.units)
    return this.openAs(life, slot, id, capacity)
  }

  private openAs(life: number, slot: number, id: number, capacity: number): number {
    Atomics.store(this.words, slot * 2, id | 0)
    Atomics.store(this.words, slot * 2 + 1, (life << lifeShift) | openBit | capacity)
    return life
  }

  /** Ends the present life, if it still accepts; returns how many messages hold a credit, which is how many were not yet handled. */
  close(slot: number, capacity: number): number {
    for (;;) {
      const word = Atomics.load(this.words, slot * 2 + 1)
      if ((word & openBit) === 0) return 0
      const closed = word & ~(openBit | creditMask)
      if (Atomics.compareExchange(this.words, slot * 2 + 1, word, closed) === word)
        return capacity - (word & creditMask) - this.lent(slot, word >>> lifeShift)
    }
  }

  /** Takes `count` credits: the life they belong to, or `full` or `down`. */
  take(slot: number, id: number, count = 1): number {
    for (;;) {
      if (Atomics.load(this.words, slot * 2) !== (id | 0)) return down
      const word = Atomics.load(this.words, slot * 2 + 1)
      if ((word & openBit) === 0) return down
      if ((word & creditMask) < count) return full
      if (Atomics.compareExchange(this.words, slot * 2 + 1, word, word - count) === word) return word >>> lifeShift
    }
  }

  /** Gives credits back to the life that they were taken from; void if that life is over. */
  give(slot: number, life: number, count = 1): void {
    for (;;) {
      const word = Atomics.load(this.words, slot * 2 + 1)
      if ((word & openBit) === 0 || word >>> lifeShift !== life) return
      if (Atomics.compareExchange(this.words, slot * 2 + 1, word, word + count) === word) return
    }
  }

  /** Credits left or on loan, which is the capacity but for messages that were sent and not handled; or `down`. */
  room(slot: number, id: number): number {
    const left = this.left(slot, id)
    return left === down ? down : left + this.lent(slot, this.life(slot, id))
  }

  /** Credits of a life that are on loan. */
  private lent(slot: number, life: number): number {
    let sum = 0
    for (let at = 0; at < this.loans.length; at += loanWords) {
      if (this.loans[at + 2]! > 0 && this.loans[at] === slot && this.loans[at + 1] === life) sum += this.loans[at + 2]!
    }
    return sum
  }

  /** Credits left to take, or `down`. */
  left(slot: number, id: number): number {
    const word = Atomics.load(this.words, slot * 2 + 1)
    return Atomics.load(this.words, slot * 2) !== (id | 0) || (word & openBit) === 0 ? down : word & creditMask
  }
}
