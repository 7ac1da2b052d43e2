// What a message weighs: the bytes of the typed arrays and buffers in it. A message that speaks of an arena is small and what it holds
// is not, so a mailbox may be bounded by bytes besides its capacity. Its byte credits are a second entry of the credit table, which
// lives and ends with the first; a credit stands for one byte, or for more where the bound is above what an entry can count.
import { type CreditTable, down, full, maxCapacity } from './credits.js'
import type { Address, Letter, UserMessage } from './envelope.js'
import { ActorError } from './errors.js'

/** The byte bound of a mailbox, as part of its address. */
export interface ByteBound {
  /** Its words in the credit table. */
  readonly slot: number
  readonly most: number
  /** Bytes that a credit stands for. */
  readonly unit: number
}

export const byteBound = (slot: number, most: number): ByteBound => ({
  slot,
  most,
  unit: 2 ** Math.max(Math.ceil(Math.log2(most / maxCapacity)), 0),
})

/** All credits of a bound. */
export const allUnits = ({ most, unit }: ByteBound): number => Math.floor(most / unit)

/** Bytes of all typed arrays and buffers in a value, each as often as it is there, for so often it arrives on another thread. */
export function bytesIn(value: unknown): number {
  const around = new Set<object>()
  const weigh = (part: unknown): number => {
    if (typeof part !== 'object' || part === null || around.has(part)) return 0
    if (ArrayBuffer.isView(part) || part instanceof ArrayBuffer || part instanceof SharedArrayBuffer)
      return part.byteLength
    const items =
      part instanceof Map
        ? [...part].flat()
        : part instanceof Set || Array.isArray(part)
          ? part
          : isPlain(part)
            ? Object.values(part)
            : []
    around.add(part)
    let bytes = 0
    for (const item of items) bytes += weigh(item)
    around.delete(part)
    return bytes
  }
  return weigh(value)
}

const isPlain = (value: object): boolean => {
  const prototype = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

const unitsOf = ({ unit }: ByteBound, message: UserMessage): number => Math.ceil(bytesIn(message) / unit)

/**
 * Takes the byte credits of a message that has its credit of life `life`; 0, or where they are not there, how many it needs.
 * Throws `TOO_LARGE` where there are never so many.
 */
export function takeBytes(credits: CreditTable, to: Address, life: number, message: UserMessage): number {
  const bound = to.bytes!
  const units = unitsOf(bound, message)
  if (units === 0) return 0
  if (units > allUnits(bound)) {
    const bytes = bytesIn(message)
    const text = `send: ${to.path}, expected at most the ${bound.most} bytes of its mailbox, got a message with ${bytes}`
    throw new ActorError('TOO_LARGE', text, { to: to.path, bytes, most: bound.most })
  }
  const got = credits.take(bound.slot, to.id, units)
  if (got === full) return units
  // A life ended between the two: the message is of the earlier one and goes nowhere.
  if (got !== down && got !== life) credits.give(bound.slot, got, units)
  return 0
}

/** Gives the byte credits of a message back, to the life that it was sent to. */
export function giveBytes(credits: CreditTable, { to, life, message }: Pick<Letter, 'to' | 'life' | 'message'>): void {
  if (to.bytes) credits.give(to.bytes.slot, life, unitsOf(to.bytes, message))
}

/** Byte credits that are left, or `down`. */
export const bytesLeft = (credits: CreditTable, { bytes, id }: Address): number =>
  bytes ? credits.left(bytes.slot, id) : down
