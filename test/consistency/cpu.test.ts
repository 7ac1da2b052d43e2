// Every CPU kernel against the reference, on each instruction set of this machine: odd sizes, poisoned outputs, in-place forms;
// and its bits with 1, 2 and 3 threads. Without the addon nothing is compared, and one line says so.
import test from 'ava'
import { byteLength } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import { type ReferenceTensor, referenceKernels } from '../../kernels/reference/index.js'
import { machine } from '../../native/index.js'
import { type OpCase, opCases } from '../support/op-cases.js'
import { arenasFor, type InPlace, SingleOps } from '../support/single-op.js'
import { type Operand, RandomTensors, runReference } from '../support/tensors.js'
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

/** The cases of an op, their reference outputs computed once for all instruction sets. */
function casesOf(op: string): readonly Prepared[] {
  const cases = prepared.get(op) ?? opCases.filter((c) => c.op === op).map(prepare)
  prepared.set(op, cases)
  return cases
}

function prepare(c: OpCase): Prepared {
  const inputs = c.inputs(new RandomTensors('f32'))
  const expected = runReference(c.op, inputs, c.attributes, c.roles, c)
  const tolerance = tolerances[c.op]!
  return { c, inputs, expected, bounds: tolerance === 'bits' ? null : tolerance({ c, inputs, outputs: expected }) }
}

/** The first element that is not what it should be, in words; null if there is none. */
function compare(got: ReferenceTensor, expected: ReferenceTensor, bound: Bounds | null): string | null {
  for (let i = 0; i < expected.data.length; i++) {
    const [g, e] = [got.data[i]!, expected.data[i]!]
    if (Object.is(g, e)) continue
    // A stored element cannot be nearer than its own rounding.
    const limit = bound ? bound(i) + 2 ** -24 * Math.abs(e) : 0
    if (!bound || !(Math.abs(g - e) <= limit)) return `element ${i}, expected ${e} within ${limit}, got ${g}`
  }
  return null
}

/** The in-place pairs that this call can use. */
const pairsOf = ({ c, inputs, expected }: Prepared): readonly InPlace[] =>
  (opNamed(c.op).inPlace ?? []).filter(([input, output]) => {
    const source = inputs[input]
    return source && byteLength(source) === byteLength(expected[output]!)
  })

/** Runs `body` with a device for each place (rank of ranks) that the cases ask for. */
async function onDevices(
  cases: readonly Prepared[],
  options: { isa: string; threads: number },
  body: (device: SingleOps, prepared: Prepared) => Promise<void>,
): Promise<void> {
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

for (const level of isa) {
  for (const op of referenceKernels.keys()) {
    test.serial(`${level} ${op}`, async (t) => {
      const cases = casesOf(op)
      const single = new Map<Prepared, ReferenceTensor[]>()
      for (const threads of [1, 2, 3]) {
        await onDevices(cases, { isa: level, threads }, async (device, prepared) => {
          const { c, inputs, expected, bounds } = prepared
          const title = `${c.title}, ${threads} threads`
          const got = await device.run(c, inputs)
          const first = single.get(prepared) ?? got
          single.set(prepared, first)
          expected.forEach((tensor, o) => {
            t.is(compare(got[o]!, tensor, bounds?.[o] ?? null), null, `${title}: output ${o}`)
            t.is(compare(got[o]!, first[o]!, null), null, `${title}: output ${o} with 1 thread`)
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
}
