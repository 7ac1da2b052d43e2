// The reference communicator: the same protocol as communicator.h over a SharedArrayBuffer with Atomics, and the collectives in
// plain TypeScript. A rank blocks its worker while it waits; an abort changes the word that it waits on, so it always wakes.
import { type DType, statistic } from '../../kernels/ops/definition.js'
import type { ReferenceArray } from '../../kernels/reference/kernel.js'
import { numbersOf, rounding, storedAs } from '../../kernels/reference/storage.js'

/**
 * Words of the control memory, then for each rank its progress and its number of collectives, then the board. That holds two
 * announcements per rank: a rank may be one collective ahead of a slow reader.
 */
const word = { arrived: 0, phase: 1, reasonTaken: 2, reasonBytes: 3, ranks: 4 } as const
const rankWords = 2
const announcementWords = 4
const reasonLimit = 4096

/** The communicator was aborted. */
export class Aborted extends Error {}

export interface Announcement {
  readonly op: string
  readonly opcode: number
  readonly elements: number
  readonly root: number
}

export class ReferenceCommunicator {
  readonly #words: Int32Array
  readonly #reason: Uint8Array

  /** Bytes of control memory for so many ranks. */
  static bytes(ranks: number): number {
    return 4 * (word.ranks + ranks * (rankWords + 2 * announcementWords)) + reasonLimit
  }

  constructor(
    control: SharedArrayBuffer,
    readonly ranks: number,
  ) {
    const reasonAt = control.byteLength - reasonLimit
    this.#words = new Int32Array(control, 0, reasonAt / 4)
    this.#reason = new Uint8Array(control, reasonAt)
  }

  get aborted(): boolean {
    return (Atomics.load(this.#words, word.phase) & 1) === 1
  }

  /** Why it was aborted. */
  get reason(): string {
    return Buffer.from(this.#reason.slice(0, Atomics.load(this.#words, word.reasonBytes))).toString()
  }

  abort(reason: string): void {
    if (Atomics.compareExchange(this.#words, word.reasonTaken, 0, 1) !== 0) return
    const bytes = Buffer.from(reason).subarray(0, reasonLimit)
    this.#reason.set(bytes)
    Atomics.store(this.#words, word.reasonBytes, bytes.length)
    Atomics.or(this.#words, word.phase, 1)
    Atomics.notify(this.#words, word.phase)
  }

  /** As new, while no rank is inside. */
  renew(): void {
    this.#words.fill(0)
  }

  /** Instructions that a rank has done, modulo 2^31, and whether it is inside a collective. */
  progress(rank: number): { instructions: number; meeting: boolean } {
    const at = Atomics.load(this.#words, word.ranks + rank * rankWords)
    return { instructions: at >>> 1, meeting: (at & 1) === 1 }
  }

  /** A rank has done an instruction. */
  advance(rank: number): void {
    const at = word.ranks + rank * rankWords
    Atomics.store(this.#words, at, (Atomics.load(this.#words, at) | 1) + 1)
  }

  /** Returns when every rank has arrived. Throws {@link Aborted}. */
  barrier(): void {
    const before = Atomics.load(this.#words, word.phase)
    if (before & 1) throw new Aborted()
    if (Atomics.add(this.#words, word.arrived, 1) + 1 === this.ranks) {
      Atomics.store(this.#words, word.arrived, 0)
      Atomics.add(this.#words, word.phase, 2)
      Atomics.notify(this.#words, word.phase)
      return
    }
    while (Atomics.load(this.#words, word.phase) === before) Atomics.wait(this.#words, word.phase, before)
    if (this.aborted) throw new Aborted()
  }

  /** A barrier after which all ranks are known to be in the same collective; otherwise aborts, naming who does what. */
  agree(rank: number, mine: Announcement, nameOf: (opcode: number) => string): void {
    const own = word.ranks + rank * rankWords
    Atomics.or(this.#words, own, 1)
    const half = Atomics.add(this.#words, own + 1, 1) & 1
    const board = word.ranks + this.ranks * (rankWords + half * announcementWords)
    const low = mine.elements % 2 ** 31
    const fields = [mine.opcode, low, (mine.elements - low) / 2 ** 31, mine.root]
    fields.forEach((value, i) => {
      Atomics.store(this.#words, board + rank * announcementWords + i, value)
    })
    this.barrier()
    const of = (other: number): number[] =>
      fields.map((_, i) => Atomics.load(this.#words, board + other * announcementWords + i))
    const describe = (other: number): string => {
      const [opcode, lowPart, highPart] = of(other) as [number, number, number]
      return `rank ${other}: ${nameOf(opcode)} of ${highPart * 2 ** 31 + lowPart} elements`
    }
    const first = of(0)
    for (let other = 1; other < this.ranks; other++) {
      if (of(other).every((value, i) => value === first[i])) continue
      this.abort(`collective: operation, expected the same on every rank, got ${describe(0)}; ${describe(other)}`)
      throw new Aborted()
    }
  }
}

/** An operand of a collective: its place is the same on every rank. */
export interface ReferencePlace {
  readonly dtype: DType
  readonly elements: number
  /** `count` elements from `first` on, in the memory of `rank`. */
  view(rank: number, first: number, count: number): ReferenceArray
}

export interface ReferenceCollective extends Announcement {
  readonly input: ReferencePlace | null
  readonly base: ReferencePlace | null
  readonly output: ReferencePlace | null
  /** Operands of one slice hold all slices, of which only the rank's own is used. */
  readonly whole: boolean
}

/** Runs one collective on `rank`. Sums are rounded in rank order as the op table says. Throws {@link Aborted}. */
export function runReferenceCollective(
  call: ReferenceCollective,
  communicator: ReferenceCommunicator,
  rank: number,
  nameOf: (opcode: number) => string,
): void {
  const { ranks } = communicator
  const { input, base, output } = call
  communicator.agree(rank, call, nameOf)
  if (!input || !output) return
  const peers = Array.from({ length: ranks }, (_, i) => i)
  const slice = (call.op === 'all_gather' ? output.elements : input.elements) / ranks
  const own = (peer: number): number => (call.whole ? peer * slice : 0)
  switch (call.op) {
    case 'reduce_scatter': {
      const start = base ? [numbersOf(base.dtype, base.view(rank, own(rank), slice))] : []
      const sources = peers.map((peer) => numbersOf(input.dtype, input.view(peer, rank * slice, slice)))
      const sum = sumInOrder([...start, ...sources], output.dtype)
      output.view(rank, own(rank), slice).set(sum.map(storedAs(output.dtype)))
      break
    }
    case 'all_reduce': {
      const sources = peers.map((peer) => numbersOf(input.dtype, input.view(peer, 0, input.elements)))
      const sum = sumInOrder(sources, statistic(output.dtype))
      communicator.barrier()
      output.view(rank, 0, output.elements).set(sum.map(storedAs(output.dtype)))
      break
    }
    case 'all_gather':
      for (const peer of peers) output.view(rank, peer * slice, slice).set(input.view(peer, own(peer), slice))
      break
    case 'broadcast':
      output.view(rank, 0, output.elements).set(input.view(call.root, 0, input.elements))
      break
    case 'all_to_all':
      for (const peer of peers) output.view(rank, peer * slice, slice).set(input.view(peer, rank * slice, slice))
      break
  }
  communicator.barrier()
}

/** Left to right, each addition rounded to `dtype`. */
function sumInOrder(sources: readonly Float64Array[], dtype: DType): Float64Array {
  const round = rounding(dtype)
  const [first, ...others] = sources as [Float64Array, ...Float64Array[]]
  const sum = first.slice()
  for (const source of others) for (let i = 0; i < sum.length; i++) sum[i] = round(sum[i]! + source[i]!)
  return sum
}
