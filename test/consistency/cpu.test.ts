// Every CPU kernel against the reference, on each instruction set of this machine and in f32, bf16 and f16: odd sizes, poisoned outputs,
// in-place forms; and its bits with 1, 2 and 3 threads. Without the addon nothing is compared, and one line says so.
import test from 'ava'
import { type ReferenceTensor, referenceKernels } from '../../kernels/reference/index.js'
import { machine } from '../../native/index.js'
import { distance, floats, onDevices, type PreparedCase, pairsOf, prepareCase } from '../support/consistency.js'
import { opCases } from '../support/op-cases.js'
import { tolerances } from '../support/tolerances.js'

const { isa, reason } = machine()

const prepared = new Map<string, readonly PreparedCase[]>()

/** The cases of an op in one dtype, their reference outputs computed once for all instruction sets. */
function casesOf(op: string, float: (typeof floats)[number]): readonly PreparedCase[] {
  const key = `${op} ${float}`
  const cases =
    prepared.get(key) ?? opCases.filter((c) => c.op === op).flatMap((c) => prepareCase(c, float, 'cpu') ?? [])
  prepared.set(key, cases)
  return cases
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
    const single = new Map<PreparedCase, ReferenceTensor[]>()
    for (const threads of [1, 2, 3]) {
      await onDevices('cpu', cases, { isa: level, threads }, async (device, prepared) => {
        const { c, inputs, expected, bounds } = prepared
        const title = `${c.title}, ${threads} threads`
        const got = await device.run(c, inputs)
        const first = single.get(prepared)
        if (!first) single.set(prepared, got)
        got.forEach((tensor, o) => {
          if (first) t.is(distance(tensor, first[o]!, null).wrong, null, `${title}: output ${o} with 1 thread`)
          else t.is(distance(tensor, expected[o]!, bounds?.[o] ?? null).wrong, null, `${title}: output ${o}`)
        })
        for (const pair of pairsOf(prepared)) {
          const over = await device.run(c, inputs, pair)
          over.forEach((tensor, o) => {
            const where = `output ${o} where ${pair[1]} lies over input ${pair[0]}`
            t.is(distance(tensor, got[o]!, null).wrong, null, `${title}: ${where}`)
          })
        }
      })
    }
  })
}
