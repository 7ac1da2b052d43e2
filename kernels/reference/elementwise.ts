// Element by element arithmetic and copies. A second operand with fewer dims is repeated.
import { int } from '../ops/definition.js'
import type { ReferenceKernel } from './kernel.js'
import { sumOfRows } from './matrix.js'
import { load, store } from './storage.js'

const binary =
  (f: (a: number, b: number) => number): ReferenceKernel =>
  ({ inputs, outputs }) => {
    const [a, b] = [load(inputs[0]!), load(inputs[1]!)]
    store(
      outputs[0],
      a.map((value, i) => f(value, b[i % b.length]!)),
    )
  }

const scale: ReferenceKernel = ({ inputs, outputs, attributes }) => {
  const factor = attributes.factor as number
  store(
    outputs[0],
    load(inputs[0]!).map((x) => factor * x),
  )
}

const cast: ReferenceKernel = ({ inputs, outputs }) => store(outputs[0], load(inputs[0]!))

/** Copies memory as it is. */
const copy: ReferenceKernel = ({ inputs, outputs }) => outputs[0]!.data.set(inputs[0]!.data)

const sumLeading: ReferenceKernel = ({ inputs, outputs, attributes }) => {
  const { shape } = inputs[0]!
  const width = shape.slice(shape.length - int(attributes, 'rank')).reduce((product, dim) => product * dim, 1)
  store(outputs[0], sumOfRows(load(inputs[0]!), width))
}

export const elementwise: Readonly<Record<string, ReferenceKernel>> = {
  add: binary((a, b) => a + b),
  multiply: binary((a, b) => a * b),
  scale,
  cast,
  copy,
  sum_leading: sumLeading,
}
