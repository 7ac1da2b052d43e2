// What the addon and the report of the machine say of themselves.
import { readFileSync } from 'node:fs'
import test from 'ava'
import { addon, createGroup, DeviceError, machine } from '../../native/index.js'
import { arenaSizes } from './support.js'

const levels = ['avx512_bf16', 'avx512', 'avx2', 'portable']

test('the report of the machine agrees with what Linux says of the processor', (t) => {
  const report = machine()
  t.true(report.cores >= 1 && report.memoryBytes > 2 ** 28)
  if (!addon().addon) {
    t.deepEqual(report.isa, [])
    t.regex(report.reason!, /addon: .*npx deeptroupe build/)
    return
  }
  const flags = new Set(/^flags\s*: (.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' '))
  const avx512 = ['avx512f', 'avx512bw', 'avx512dq', 'avx512vl']
  const needs: Readonly<Record<string, readonly string[]>> = {
    avx512_bf16: [...avx512, 'avx512_bf16'],
    avx512,
    avx2: ['avx2', 'fma', 'f16c'],
    portable: [],
  }
  const expected = levels.filter((level) => needs[level]!.every((flag) => flags.has(flag)))
  t.deepEqual(report.isa, expected)
  t.is(report.best, expected[0]!)
})

test('a group asks for an instruction set that the machine has', async (t) => {
  const { isa } = machine()
  const arenas = arenaSizes({})
  for (const level of isa) {
    const group = createGroup({ device: 'cpu', ranks: 1, arenas, isa: level })
    t.is(group.token.isa, level)
    await group.close()
  }
  const wrong = () => createGroup({ device: 'cpu', ranks: 1, arenas, isa: 'sse9' })
  t.throws(wrong, {
    instanceOf: DeviceError,
    message: isa.length ? /instruction set, expected one of .*portable, got sse9/ : /addon/,
  })
})
