// The ceilings of the machine: what no instruction of a run goes beyond, as far as it computes.
import test from 'ava'
import { DeviceError, machine, machineCeilings } from '../../native/index.js'

const { isa } = machine()

test('every instruction set has ceilings, and a set that is not there is refused', (t) => {
  if (isa.length === 0) return t.is(machineCeilings('portable', 1), null)
  for (const level of [isa[0]!, isa.at(-1)!]) {
    const { f32, bf16, bytes } = machineCeilings(level, 2)!
    t.true(
      [f32, bf16, bytes].every((rate) => Number.isFinite(rate) && rate > 1e8),
      level,
    )
  }
  t.throws(() => machineCeilings('avx1024', 1), {
    instanceOf: DeviceError,
    message: /^group: instruction set, expected one of .*, got avx1024$/,
  })
})
