// Every CPU kernel against the reference, on each instruction set of this machine and in f32, bf16 and f16: odd sizes, poisoned outputs,
// in-place forms; and its bits with 1, 2 and 3 threads. Without the addon nothing is compared, and one line says so.
import test from 'ava'
import { cpuFusions } from '../../kernels/cpu/fusions.js'
import { byteLength, type DType } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import { type ReferenceTensor, referenceKernels } from '../../kernels/reference/index.js'
import { load } from '../../kernels/reference/storage.js'
import { machine } from '../../native/index.js'
import { type OpCase, opCases } from '../support/op-cases.js'
import { arenasFor, type InPlace, SingleOps } from '../support/single-op.js'
import { type FloatType, type Operand, RandomTensors, runReference, widened } from '../support/tensors.js'
import { type Bounds, tolerances } from '../support/tolerances.js'

const { isa, reason } = machine()

interface Prepared {
  readonly c: OpCase
  readonly inputs: readonly Operand[]
  readonly expected: readonly ReferenceTensor[]
  /** Null where the bits must be those of the reference. */
  readonly bounds: readonly Bounds[] | null
}

const prepared = new Map<string, readonly Prepared[]>()

const floats = ['f32', 'bf16', 'f16'] as const satisfies readonly FloatType[]
/** The largest relative error of rounding to the dtype, and half the distance of its smallest numbers. */
const units: Readonly<Partial<Record<DType, readonly [unit: number, least: number]>>> = {
  bf16: [2 ** -8, 2 ** -134],
  f16: [2 ** -11, 2 ** -25],
}

const supported = ({ needs }: OpCase): boolean => !needs || cpuFusions.includes(needs)

/** The cases of an op in one dtype, their reference outputs computed once for all instruction sets. */
function casesOf(op: string, float: FloatType): readonly Prepared[] {
  const key = `${op} ${float}`
  const cases =
    prepared.get(key) ??
    opCases
      .filter((c) => c.op === op && supported(c) && (float !== 'f32' || !c.halvesOnly))
      .flatMap((c) => prepare(c, float))
  prepared.set(key, cases)
  return cases
}

/** Nothing where the case has no float of that dtype and was compared with f32. */
function prepare(c: OpCase, float: FloatType): Prepared[] {
  const inputs = c.inputs(new RandomTensors(float))
  if (float !== 'f32' && !inputs.some((input) => input?.dtype === float)) return []
  const expected = runReference(c.op, inputs, c.attributes, c.roles, c)
  const tolerance = tolerances[c.op]!
  if (tolerance === 'bits') return [{ c, inputs, expected, bounds: null }]
  const half = units[float]?.[0] ?? 0
  const numbers = (tensor: Operand): Operand => (tensor && tensor.dtype !== 'i32' ? widened(tensor) : tensor)
  const compared = { c, half, pairs: float === 'bf16' ? half : 0, inputs: inputs.map(numbers) }
  return [{ c, inputs, expected, bounds: tolerance({ ...compared, outputs: expected.map(widened) }) }]
}

const bytesOf = ({ data }: ReferenceTensor): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
const sameBytes = (a: ReferenceTensor, b: ReferenceTensor): boolean => Buffer.compare(bytesOf(a), bytesOf(b)) === 0

/** The first element that is not what it should be, in words; null if there is none. */
function compare(got: ReferenceTensor, expected: ReferenceTensor, bound: Bounds | null): string | null {
  if (sameBytes(got, expected)) return null
  const [gotten, wanted] = [load(got), load(expected)]
  const [unit, least] = units[expected.dtype] ?? [2 ** -25, 0]
  for (let i = 0; i < wanted.length; i++) {
    const [g, e] = [gotten[i]!, wanted[i]!]
    if (Object.is(g, e)) continue
    // Both were rounded when they were stored.
    const limit = bound ? bound(i) + 2 * unit * (Math.abs(e) + bound(i)) + 2 * least : 0
    if (!bound || !(Math.abs(g - e) <= limit)) return `element ${i}, expected ${e} within ${limit}, got ${g}`
  }
  return null
}

/** The in-place pairs that this call can use. */
const pairsOf = ({ c, inputs, expected }: Prepared): readonly InPlace[] =>
  (opNamed(c.op).inPlace ?? []).filter(([input, output]) => {
    const source = inputs[input]
    return source && source.dtype === expected[output]!.dtype && byteLength(source) === byteLength(expected[output]!)
  })

/** Runs `body` with a device for each place (rank of ranks) that the cases ask for. */
async function onDevices(
  cases: readonly Prepared[],
  options: { isa: string; threads: number },
  body: (device: SingleOps, prepared: Prepared) => Promise<void>,
): Promise<void> {
  if (cases.length === 0) return
  const arenas = arenasFor(cases, options.threads)
  const places = new Map(cases.map(({ c }) => [`${c.rank} ${c.ranks}`, { rank: c.rank, ranks: c.ranks }]))
  for (const { rank, ranks } of places.values()) {
    const device = new SingleOps('cpu', arenas, { ...options, rank, ranks })
    try {
      for (const prepared of cases) {
        if (prepared.c.rank === rank && prepared.c.ranks === ranks) await body(device, prepared)
      }
    } finally {
      await device.close()
    }
  }
}

test('every op that computes has a case and a tolerance', (t) => {
  for (const op of referenceKernels.keys()) {
    t.true(
      opCases.some((c) => c.op === op),
      `${op}: case`,
    )
    t.true(op in tolerances, `${op}: tolerance`)
  }
})

if (isa.length === 0) test('cpu kernels', (t) => t.pass(`not compared: ${reason}`))

for (const [level, float, op] of isa.flatMap((level) =>
  floats.flatMap((float) => [...referenceKernels.keys()].map((op) => [level, float, op] as const)),
)) {
  test.serial(`${level} ${float} ${op}`, async (t) => {
    const cases = casesOf(op, float)
    if (cases.length === 0) return t.pass('no float of that dtype')
    const single = new Map<Prepared, ReferenceTensor[]>()
    for (const threads of [1, 2, 3]) {
      await onDevices(cases, { isa: level, threads }, async (device, prepared) => {
        const { c, inputs, expected, bounds } = prepared
        const title = `${c.title}, ${threads} threads`
        const got = await device.run(c, inputs)
        const first = single.get(prepared)
        if (!first) single.set(prepared, got)
        got.forEach((tensor, o) => {
          if (first) t.is(compare(tensor, first[o]!, null), null, `${title}: output ${o} with 1 thread`)
          else t.is(compare(tensor, expected[o]!, bounds?.[o] ?? null), null, `${title}: output ${o}`)
        })
        for (const pair of pairsOf(prepared)) {
          const over = await device.run(c, inputs, pair)
          over.forEach((tensor, o) => {
            t.is(
              compare(tensor, got[o]!, null),
              null,
              `${title}: output ${o} where ${pair[1]} lies over input ${pair[0]}`,
            )
          })
        }
      })
    }
  })
}
