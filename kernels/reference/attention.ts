// Scaled dot-product attention, one query row at a time. Legend: B batch, T sequence, H heads, D head size; qkv_BT3HD.
import { int } from '../ops/definition.js'
import { maskOf } from './dropout.js'
import type { ReferenceCall, ReferenceKernel } from './kernel.js'
import { logSumExp } from './softmax.js'
import { load, store } from './storage.js'

/** What one query row sees: where its vectors begin in qkv, and the factor of each key's probability under dropout. */
interface QueryRow {
  readonly q: number
  readonly k: (key: number) => number
  readonly v: (key: number) => number
  /** Where the row's output begins in o_BTHD. */
  readonly o: number
  /** The row's place in lse_BHT. */
  readonly row: number
  readonly keys: number
  /** 0 for a dropped key, 1 / (1 - p) for a kept one. */
  readonly factor: (key: number) => number
}

function eachQuery(
  call: ReferenceCall,
  shape: readonly number[],
  f: (query: QueryRow, headSize: number) => void,
): void {
  const { attributes } = call
  const [batch, sequence, width] = shape as [number, number, number]
  const heads = int(attributes, 'heads')
  const hidden = width / 3
  const headSize = hidden / heads
  const p = attributes.dropout as number
  const keep = maskOf(call, p)
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let t = 0; t < sequence; t++) {
        const at = (position: number, part: number) => (b * sequence + position) * width + part * hidden + h * headSize
        const query: QueryRow = {
          q: at(t, 0),
          k: (key) => at(key, 1),
          v: (key) => at(key, 2),
          o: (b * sequence + t) * hidden + h * headSize,
          row: (b * heads + h) * sequence + t,
          keys: int(attributes, 'causal') ? t + 1 : sequence,
          factor: (key) => (p === 0 ? 1 : keep(b, (h * sequence + t) * sequence + key) ? 1 / (1 - p) : 0),
        }
        f(query, headSize)
      }
    }
  }
}

function dot(a: Float64Array, aAt: number, b: Float64Array, bAt: number, length: number): number {
  let sum = 0
  for (let d = 0; d < length; d++) sum += a[aAt + d]! * b[bAt + d]!
  return sum
}

/** y += factor * x over `length` elements. */
function addScaled(y: Float64Array, yAt: number, factor: number, x: Float64Array, xAt: number, length: number): void {
  for (let d = 0; d < length; d++) y[yAt + d]! += factor * x[xAt + d]!
}

const attention: ReferenceKernel = (call) => {
  const { inputs, outputs, attributes } = call
  const scale = attributes.scale as number
  const qkv = load(inputs[0]!)
  const o = new Float64Array(qkv.length / 3)
  const lse = new Float64Array(inputs[0]!.shape[0]! * int(attributes, 'heads') * inputs[0]!.shape[1]!)
  eachQuery(call, inputs[0]!.shape, (query, headSize) => {
    const scores = Float64Array.from(
      { length: query.keys },
      (_, s) => scale * dot(qkv, query.q, qkv, query.k(s), headSize),
    )
    const rowLse = logSumExp(scores)
    scores.forEach((score, s) => {
      addScaled(o, query.o, Math.exp(score - rowLse) * query.factor(s), qkv, query.v(s), headSize)
    })
    lse[query.row] = rowLse
  })
  store(outputs[0], o)
  store(outputs[1], lse)
}

/** With P the probabilities and F the dropout factors: dV = (P F)^T dO, dS = P (F dO V^T - rowsum(dO O)), dQ and dK from scale dS. */
const attentionBackward: ReferenceKernel = (call) => {
  const { inputs, outputs, attributes } = call
  const scale = attributes.scale as number
  const [dO, qkv, o, lse] = inputs.map((input) => load(input!)) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ]
  const dqkv = new Float64Array(qkv.length)
  eachQuery(call, inputs[1]!.shape, (query, headSize) => {
    const delta = dot(dO, query.o, o, query.o, headSize)
    for (let s = 0; s < query.keys; s++) {
      const probability = Math.exp(scale * dot(qkv, query.q, qkv, query.k(s), headSize) - lse[query.row]!)
      const factor = query.factor(s)
      const dScore = probability * (factor * dot(dO, query.o, qkv, query.v(s), headSize) - delta) * scale
      addScaled(dqkv, query.v(s), probability * factor, dO, query.o, headSize)
      addScaled(dqkv, query.q, dScore, qkv, query.k(s), headSize)
      addScaled(dqkv, query.k(s), dScore, qkv, query.q, headSize)
    }
  })
  store(outputs[0], dqkv)
}

export const attentions: Readonly<Record<string, ReferenceKernel>> = {
  attention,
  attention_backward: attentionBackward,
}
