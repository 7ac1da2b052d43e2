// Constants and initial values; a rank that holds a slice of a unit writes its part of what the whole would hold.
import { int, ints } from '../ops/definition.js'
import type { ReferenceCall, ReferenceKernel } from './kernel.js'
import { philox, split, type Words } from './philox.js'
import { store } from './storage.js'
import { eachInRanges, sliceOf } from './unit.js'

const fill: ReferenceKernel = ({ outputs, attributes }) => {
  const value = attributes.value as number
  store(outputs[0], new Float64Array(outputs[0]!.data.length).fill(value))
}

const bucket: ReferenceKernel = ({ outputs, attributes }) => {
  const gaps = ints(attributes, 'gaps')
  for (let g = 0; g < gaps.length; g += 2) outputs[0]!.data.fill(0, gaps[g]!, gaps[g]! + gaps[g + 1]!)
}

/** Sets the elements `start` to `start + count` of the unit to `value(element of the parameter)`. */
function initialize(call: ReferenceCall, value: (element: number) => number): void {
  const unit = call.outputs[0]!.data
  const start = int(call.attributes, 'start')
  const slice = sliceOf(call, unit.length * int(call.attributes, 'shards'))
  eachInRanges(slice, [start, int(call.attributes, 'count')], (i) => {
    unit[i] = value(slice.start + i - start)
  })
}

/** The four normal draws of four words, by Box and Muller. */
export function normals(words: Words): readonly [number, number, number, number] {
  const [u0, u1, u2, u3] = words.map((w) => (w + 0.5) / 2 ** 32) as [number, number, number, number]
  const [r0, r2] = [Math.sqrt(-2 * Math.log(u0)), Math.sqrt(-2 * Math.log(u2))]
  const [angle1, angle3] = [2 * Math.PI * u1, 2 * Math.PI * u3]
  return [r0 * Math.cos(angle1), r0 * Math.sin(angle1), r2 * Math.cos(angle3), r2 * Math.sin(angle3)]
}

const initializeNormal: ReferenceKernel = (call) => {
  const { attributes, scalars } = call
  const [seedLow, seedHigh] = split(scalars[0]!)
  const key = [(seedLow ^ int(attributes, 'key_low')) >>> 0, (seedHigh ^ int(attributes, 'key_high')) >>> 0] as const
  const [mean, std] = [attributes.mean as number, attributes.std as number]
  initialize(call, (element) => {
    const draws = normals(philox([...split(Math.floor(element / 4)), 0, 0x696e6974], key))
    return mean + std * draws[element % 4]!
  })
}

export const fills: Readonly<Record<string, ReferenceKernel>> = {
  fill,
  bucket,
  initialize_constant: (call) => initialize(call, () => call.attributes.value as number),
  initialize_normal: initializeNormal,
}
