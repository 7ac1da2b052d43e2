// Dropout with the mask that the op table defines: a function of (seed, op, step, global sample, element) and of nothing else.
import { elements, int } from '../ops/definition.js'
import { arithmeticOf } from './arithmetic.js'
import type { ReferenceCall, ReferenceKernel } from './kernel.js'
import { philox, split, type Words } from './philox.js'
import { load, store } from './storage.js'

/** Whether an element of a row of the batch is kept. */
export type Mask = (row: number, element: number) => boolean

/** The mask of a call whose scalars are (seed, step, sample), with drop probability `p`. */
export function maskOf({ attributes, scalars }: ReferenceCall, p: number): Mask {
  const [seed, step, sample] = scalars as [number, number, number]
  const key = split(seed)
  const threshold = Math.floor(p * 2 ** 32)
  let drawn: { row: number; block: number; words: Words } | null = null
  return (row, element) => {
    const block = Math.floor(element / 4)
    if (drawn?.row !== row || drawn.block !== block) {
      const counter = [int(attributes, 'op_id'), step, sample + row, block].map((n) => n >>> 0) as unknown as Words
      drawn = { row, block, words: philox(counter, key) }
    }
    return drawn.words[element % 4]! >= threshold
  }
}

const dropout: ReferenceKernel = (call) => {
  const { inputs, outputs, attributes } = call
  const [x, residual] = [load(inputs[0]!), inputs[1] && load(inputs[1])]
  const p = attributes.p as number
  const keep = maskOf(call, p)
  const { round } = arithmeticOf(inputs[0]!.dtype)
  const factor = round(1 / (1 - p))
  const perRow = elements(inputs[0]!.shape.slice(1))
  store(
    outputs[0],
    x.map((value, i) => {
      const kept = keep(Math.floor(i / perRow), i % perRow) ? round(value * factor) : 0
      return residual ? round(kept + residual[i]!) : kept
    }),
  )
}

export const dropouts: Readonly<Record<string, ReferenceKernel>> = { dropout }
