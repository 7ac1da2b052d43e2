// Parameter updates over flat units, and the global norm that guards them: the sequences of operations that the op table fixes.
import { int, ints, option } from '../ops/definition.js'
import { normChunk } from '../ops/optimizer.js'
import { arithmeticOf } from './arithmetic.js'
import type { ReferenceArray, ReferenceCall, ReferenceKernel, ReferenceTensor } from './kernel.js'
import { philox, split, type Words } from './philox.js'
import { load, numbersOf, storedAs } from './storage.js'
import { eachInRanges, partOf, sliceOf } from './unit.js'

/** This rank's slice of the gradient, as numbers. */
function gradientOf(call: ReferenceCall, { dtype, data }: ReferenceTensor): Float64Array {
  return numbersOf(dtype, partOf(data, sliceOf(call, int(call.attributes, 'length'))))
}

/** This rank's slices of parameters and states, in the order given. */
function slices(call: ReferenceCall, ...tensors: readonly (ReferenceTensor | null | undefined)[]): ReferenceArray[] {
  const slice = sliceOf(call, int(call.attributes, 'length'))
  return tensors.flatMap((tensor) => (tensor ? [partOf(tensor.data, slice)] : []))
}

/** The scalars of the candidate that counts. */
function candidateOf<N extends readonly number[]>(
  { scalars }: ReferenceCall,
  control: ArrayLike<number>,
  count: N['length'],
): N {
  return scalars.slice(count * control[3]!, count * (control[3]! + 1)) as readonly number[] as N
}

/** Calls `f` with each element of the slice that the ranges of the call name, unless the norm was not finite. */
function eachElement(call: ReferenceCall, control: ArrayLike<number>, f: (i: number) => void): void {
  if (control[2] === 0) return
  eachInRanges(sliceOf(call, int(call.attributes, 'length')), ints(call.attributes, 'ranges'), f)
}

const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

/** How an updated parameter is kept in bf16: element i of the unit rounded stochastically, as the op table says. */
function stochastic({ attributes, scalars }: ReferenceCall): (p: number, i: number) => number {
  const [seed, step] = scalars.slice(10) as [number, number]
  const nearest = storedAs('bf16')
  let drawn: { block: number; words: Words } | null = null
  return (p, i) => {
    if (!Number.isFinite(p)) return nearest(p)
    const n = option(attributes, 'origin') + i
    const block = Math.floor(n / 8)
    if (drawn?.block !== block) {
      const counter = [0x726f756e, Math.floor(block / 2 ** 32), step, block].map((word) => word >>> 0)
      drawn = { block, words: philox(counter as unknown as Words, split(seed)) }
    }
    const word = drawn.words[(n % 8) >> 1]!
    float[0] = p
    return (bits[0]! + (n % 2 === 0 ? word & 0xffff : word >>> 16)) >>> 16
  }
}

const adam: ReferenceKernel = (call) => {
  const { inputs, outputs, attributes } = call
  const [stored, m, v, copy] = slices(call, ...outputs) as [
    ReferenceArray,
    ReferenceArray,
    ReferenceArray,
    ReferenceArray?,
  ]
  const { dtype } = outputs[0]!
  const rounded = dtype === 'bf16' ? stochastic(call) : null
  const parameter = rounded ? numbersOf(dtype, stored) : stored
  const first = sliceOf(call, int(attributes, 'length')).start
  const gradient = gradientOf(call, inputs[1]!)
  const copied = storedAs(inputs[5]?.dtype ?? 'f32')
  const control = inputs[4]!.data
  const [learningRate, beta1, beta2, correction1, correction2] = candidateOf<[number, number, number, number, number]>(
    call,
    control,
    5,
  )
  const { round, fma } = arithmeticOf(dtype)
  const factor = round(control[1]!)
  const decay = attributes.weight_decay as number
  const epsilon = round(attributes.epsilon as number)
  const [b1, rest1] = [round(beta1), round(1 - beta1)]
  const [b2, rest2] = [round(beta2), round(1 - beta2)]
  const root2 = round(Math.sqrt(correction2))
  const shrink = round(1 - learningRate * decay)
  const step = round(-(learningRate / correction1))
  const l2 = round(decay)
  eachElement(call, control, (i) => {
    let p = parameter[i]!
    let g = round(gradient[i]! * factor)
    if (!attributes.decoupled) g = fma(l2, p, g)
    const mean = fma(b1, m[i]!, round(rest1 * g))
    const square = fma(b2, v[i]!, round(round(rest2 * g) * g))
    const denominator = round(round(round(Math.sqrt(square)) / root2) + epsilon)
    if (attributes.decoupled) p = round(p * shrink)
    parameter[i] = fma(step, round(mean / denominator), p)
    if (rounded) stored[i] = rounded(parameter[i]!, first + i)
    if (copy) copy[i] = copied(parameter[i]!)
    m[i] = mean
    v[i] = square
  })
}

const sgd: ReferenceKernel = (call) => {
  const { inputs, outputs, attributes } = call
  const [parameter, buffer] = slices(call, ...outputs) as [ReferenceArray, ReferenceArray?]
  const gradient = gradientOf(call, inputs[1]!)
  const control = inputs[3]!.data
  const [learningRate, first] = candidateOf<[number, number]>(call, control, 2)
  const { round, fma } = arithmeticOf(outputs[0]!.dtype)
  const factor = round(control[1]!)
  const decay = round(attributes.weight_decay as number)
  const momentum = round(attributes.momentum as number)
  const fresh = round(1 - (attributes.dampening as number))
  const step = round(-learningRate)
  eachElement(call, control, (i) => {
    let g = fma(decay, parameter[i]!, round(gradient[i]! * factor))
    if (buffer) {
      const average = first ? g : fma(momentum, buffer[i]!, round(fresh * g))
      buffer[i] = average
      g = attributes.nesterov ? fma(momentum, average, g) : average
    }
    parameter[i] = fma(step, g, parameter[i]!)
  })
}

const normChunks: ReferenceKernel = (call) => {
  const { inputs, outputs } = call
  const gradient = gradientOf(call, inputs[0]!)
  const sums = outputs[0]!.data
  for (let chunk = 0; chunk < sums.length; chunk++) {
    const s = new Float64Array(8)
    for (let i = chunk * normChunk; i < (chunk + 1) * normChunk; i++) s[i % 8]! += gradient[i]! * gradient[i]!
    sums[chunk] = s[0]! + s[1]! + (s[2]! + s[3]!) + (s[4]! + s[5]! + (s[6]! + s[7]!))
  }
}

const clipControl: ReferenceKernel = ({ inputs, outputs, attributes }) => {
  const sums = inputs[0]!.data
  const ranges = ints(attributes, 'ranges')
  const maxNorm = attributes.max_norm as number
  let total = 0
  for (let r = 0; r < ranges.length; r += 2) {
    for (let chunk = ranges[r]!; chunk < ranges[r]! + ranges[r + 1]!; chunk++) total += sums[chunk]!
  }
  const scale = inputs[1] ? load(inputs[1])[0]! : 1
  const norm = Math.sqrt(total) / scale
  const factor = maxNorm / (norm + 1e-6)
  const clipped = maxNorm > 0 && factor < 1 ? factor : 1
  outputs[0]!.data.set([norm, clipped / scale, Number.isFinite(norm) ? 1 : 0, 0])
}

export const optimizers: Readonly<Record<string, ReferenceKernel>> = {
  adam,
  sgd,
  norm_chunks: normChunks,
  clip_control: clipControl,
}
