// What the consistency suites share: a case with its inputs and the reference's outputs, how far a device may lie from them, and how far
// it does. Operands lie in memory full of NaN (single-op.ts), so that an element that a kernel forgets counts as wrong.
import { byteLength, type DType } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import type { ReferenceTensor } from '../../kernels/reference/index.js'
import { load } from '../../kernels/reference/storage.js'
import type { DeviceName } from '../../native/index.js'
import type { OpCase } from './op-cases.js'
import { backendOf, type InPlace, SingleOps } from './single-op.js'
import { type FloatType, type Operand, RandomTensors, runReference, widened } from './tensors.js'
import { type Bounds, gpuTolerances, tolerances } from './tolerances.js'

/** Whether an output over an input has the bits that it has apart. cublasLt may compute a sum over its base in another way. */
export const samePlacedBits = (op: string, device: DeviceName): boolean => device !== 'cuda' || op !== 'linear'

export const floats = ['f32', 'bf16', 'f16'] as const satisfies readonly FloatType[]

/** The largest relative error of rounding to the dtype, and half the distance of its smallest numbers. */
const units: Readonly<Partial<Record<DType, readonly [unit: number, least: number]>>> = {
  bf16: [2 ** -8, 2 ** -134],
  f16: [2 ** -11, 2 ** -25],
  f64: [2 ** -53, 0],
}

export interface PreparedCase {
  readonly c: OpCase
  readonly inputs: readonly Operand[]
  readonly expected: readonly ReferenceTensor[]
  /** Null where the bits must be those of the reference. */
  readonly bounds: readonly Bounds[] | null
}

/** The case in one dtype; null where it has no float of that dtype and was compared in f32, or the device lacks the form. */
export function prepareCase(
  c: OpCase,
  float: (typeof floats)[number],
  device: DeviceName,
  seed?: number,
): PreparedCase | null {
  if (float === 'f32' && c.halvesOnly) return null
  if (c.needs && !backendOf(device, 1).fusions.includes(c.needs)) return null
  const inputs = c.inputs(new RandomTensors(float, seed))
  if (float !== 'f32' && !inputs.some((input) => input?.dtype === float)) return null
  const expected = runReference(c.op, inputs, c.attributes, c.roles, c)
  const tolerance = (device === 'cuda' ? gpuTolerances[c.op] : undefined) ?? tolerances[c.op]!
  if (tolerance === 'bits') return { c, inputs, expected, bounds: null }
  const half = units[float]?.[0] ?? 0
  const numbers = (tensor: Operand): Operand => (tensor && tensor.dtype !== 'i32' ? widened(tensor) : tensor)
  const bounds = tolerance({
    c,
    half,
    pairs: float === 'bf16' || device === 'cuda' ? half : 0,
    stored: device === 'cuda' ? half : 0,
    inputs: inputs.map(numbers),
    outputs: expected.map(widened),
  })
  return { c, inputs, expected, bounds }
}

const bytesOf = ({ data }: ReferenceTensor): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
const sameBytes = (a: ReferenceTensor, b: ReferenceTensor): boolean => Buffer.compare(bytesOf(a), bytesOf(b)) === 0

/** How far one tensor lies from another. */
export interface Distance {
  /** Largest absolute error. */
  readonly error: number
  /** Largest error as a part of what is allowed; above 1: wrong. Without bounds any error is infinitely too large. */
  readonly share: number
  /** The first element that is not what it should be, in words. */
  readonly wrong: string | null
}

export function distance(got: ReferenceTensor, expected: ReferenceTensor, bound: Bounds | null): Distance {
  let [error, share, wrong] = [0, 0, null as string | null]
  if (sameBytes(got, expected)) return { error, share, wrong }
  const [gotten, wanted] = [load(got), load(expected)]
  const [unit, least] = units[expected.dtype] ?? [2 ** -25, 0]
  for (let i = 0; i < wanted.length; i++) {
    const [g, e] = [gotten[i]!, wanted[i]!]
    if (Object.is(g, e)) continue
    // Both were rounded when they were stored.
    const limit = bound ? bound(i) + 2 * unit * (Math.abs(e) + bound(i)) + 2 * least : 0
    const away = Math.abs(g - e)
    const part = bound && away <= limit ? away / limit : Number.isNaN(away) || !(limit > 0) ? Infinity : away / limit
    error = Math.max(error, Number.isNaN(away) ? Infinity : away)
    share = Math.max(share, part)
    if (!bound || !(away <= limit)) wrong ??= `element ${i}, expected ${e} within ${limit}, got ${g}`
  }
  return { error, share, wrong }
}

/** The in-place pairs that this call can use. */
export const pairsOf = ({ c, inputs, expected }: PreparedCase): readonly InPlace[] =>
  (opNamed(c.op).inPlace ?? []).filter(([input, output]) => {
    const source = inputs[input]
    return source && source.dtype === expected[output]!.dtype && byteLength(source) === byteLength(expected[output]!)
  })

/** Runs `body` with a device for each place (rank of ranks) that the cases ask for. */
export async function onDevices(
  device: DeviceName,
  cases: readonly PreparedCase[],
  options: { readonly isa?: string; readonly threads: number },
  body: (ops: SingleOps, prepared: PreparedCase) => Promise<void>,
): Promise<void> {
  if (cases.length === 0) return
  const places = new Map(cases.map(({ c }) => [`${c.rank} ${c.ranks}`, { rank: c.rank, ranks: c.ranks }]))
  for (const place of places.values()) {
    const ops = new SingleOps(device, cases, { ...options, ...place })
    try {
      for (const prepared of cases) {
        if (prepared.c.rank === place.rank && prepared.c.ranks === place.ranks) await body(ops, prepared)
      }
    } finally {
      await ops.close()
    }
  }
}
