// Flat units seen from a rank. An operand holds either the whole unit or this rank's one of `shards` equal slices.
import { int } from '../ops/definition.js'
import type { ReferenceArray, ReferenceCall } from './kernel.js'

/** This rank's slice of a unit of `length` elements: its first element and its length. */
export function sliceOf({ attributes, rank }: ReferenceCall, length: number): { start: number; count: number } {
  const count = length / int(attributes, 'shards')
  return { start: count === length ? 0 : rank * count, count }
}

/** The part of an operand that is this rank's slice: the operand itself, or a view into the whole. */
export function partOf<T extends ReferenceArray>(data: T, slice: { start: number; count: number }): T {
  return (data.length === slice.count ? data : data.subarray(slice.start, slice.start + slice.count)) as T
}

/** Calls `f` with each element of the slice that lies in `ranges`, (start, count) pairs in the unit's coordinates. */
export function eachInRanges(
  slice: { start: number; count: number },
  ranges: readonly number[],
  f: (elementOfSlice: number) => void,
): void {
  for (let r = 0; r < ranges.length; r += 2) {
    const begin = Math.max(0, ranges[r]! - slice.start)
    const end = Math.min(slice.count, ranges[r]! + ranges[r + 1]! - slice.start)
    for (let i = begin; i < end; i++) f(i)
  }
}
