// Every GPU kernel against the reference, where there is a GPU: odd sizes, poisoned outputs, in-place forms, in f32, bf16 and f16.
// `test/gpu/main.ts` does the same with fresh inputs and larger cases, and goes on where a kernel breaks the device.
import test from 'ava'
import { referenceKernels } from '../../kernels/reference/index.js'
import { machine } from '../../native/index.js'
import { distance, floats, onDevices, pairsOf, prepareCase, samePlacedBits } from '../support/consistency.js'
import { opCases } from '../support/op-cases.js'

const { devices, reason } = machine().gpu
const missing = reason ?? (devices.length === 0 ? 'no GPU' : undefined)

if (missing !== undefined) test('gpu kernels', (t) => t.pass(`not compared: ${missing}`))
else {
  for (const [float, op] of floats.flatMap((float) => [...referenceKernels.keys()].map((op) => [float, op] as const))) {
    test.serial(`${float} ${op}`, async (t) => {
      const all = opCases.filter((c) => c.op === op).flatMap((c) => prepareCase(c, float, 'cuda') ?? [])
      // One rank of several would wait for the others to come.
      const cases = all.filter(({ c }) => c.ranks === 1)
      if (cases.length === 0) return t.pass('no float of that dtype')
      await onDevices('cuda', cases, { threads: 1 }, async (device, prepared) => {
        const { c, inputs, expected, bounds } = prepared
        const got = await device.run(c, inputs)
        got.forEach((tensor, o) => {
          t.is(distance(tensor, expected[o]!, bounds?.[o] ?? null).wrong, null, `${c.title}: output ${o}`)
        })
        for (const pair of pairsOf(prepared)) {
          const over = await device.run(c, inputs, pair)
          over.forEach((tensor, o) => {
            const where = `output ${o} where ${pair[1]} lies over input ${pair[0]}`
            const away = samePlacedBits(op, 'cuda')
              ? distance(tensor, got[o]!, null)
              : distance(tensor, expected[o]!, bounds?.[o] ?? null)
            t.is(away.wrong, null, `${c.title}: ${where}`)
          })
        }
      })
    })
  }
}
