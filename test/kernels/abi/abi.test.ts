// The program format and its C header: round trip, stable bytes, and a header that is current.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { abiHeader } from '../../../kernels/abi/generate.js'
import {
  arenaNames,
  decodeProgram,
  dtypes,
  encodeProgram,
  type Program,
  programHash,
} from '../../../kernels/abi/program.js'
import type { AttributeValue } from '../../../kernels/ops/definition.js'
import { ops } from '../../../kernels/ops/index.js'
import { projectRoot } from '../../../native/paths.js'

const int = fc.maxSafeInteger()
const debug = fc.record({ phase: fc.constant('forward'), flops: fc.nat(), bytes: fc.nat() })
const tensor = fc.record({
  arena: fc.constantFrom(...arenaNames),
  dtype: fc.constantFrom(...dtypes),
  byteOffset: fc.nat(),
  shape: fc.array(fc.nat(1000), { maxLength: 6 }),
})
const operand = fc.option(fc.nat(20))

const instruction = fc.constantFrom(...ops).chain((op) => {
  const values = Object.entries(op.attributes).map(([name, kind]) => {
    const value: fc.Arbitrary<AttributeValue> =
      kind === 'ints' ? fc.array(int, { maxLength: 5 }) : kind === 'float' ? fc.double() : int
    return [name, value] as const
  })
  return fc.record({
    op: fc.constant(op.name),
    inputs: fc.array(operand, { maxLength: 6 }),
    outputs: fc.array(operand, { maxLength: 3 }),
    scalars: fc.array(fc.nat(3), { maxLength: 5 }),
    attributes: fc.record(Object.fromEntries(values)),
    workspace: operand,
    debug,
  })
})

const programs: fc.Arbitrary<Program> = fc.record({
  name: fc.string(),
  ranks: fc.integer({ min: 1, max: 64 }),
  scalars: fc.array(fc.string(), { maxLength: 4 }),
  tensors: fc.array(tensor, { maxLength: 10 }),
  instructions: fc.array(instruction, { maxLength: 10 }),
  bindings: fc.constant({ loss: 3 }),
  arenas: fc.constant(Object.fromEntries(arenaNames.map((name) => [name, 64])) as Program['arenas']),
  environment: fc.constant({ isa: 'avx2' }),
})

test('a program comes back from its bytes as it went in', (t) => {
  fc.assert(
    fc.property(programs, (program) => {
      t.deepEqual(JSON.stringify(plain(decodeProgram(encodeProgram(program)))), JSON.stringify(plain(program)))
    }),
    { numRuns: 200 },
  )
})

/** The program in one order of keys, floats by their bits. */
function plain(value: unknown): unknown {
  if (typeof value === 'number') return Object.is(value, -0) ? '-0' : String(value)
  if (Array.isArray(value)) return value.map(plain)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, v]) => [key, plain(v)]),
  )
}

test('equal programs have equal bytes and hashes, others do not', (t) => {
  const program: Program = {
    name: 'p',
    ranks: 2,
    scalars: [],
    tensors: [{ arena: 'io', byteOffset: 0, dtype: 'f32', shape: [2] }],
    instructions: [],
    bindings: {},
    arenas: Object.fromEntries(arenaNames.map((name) => [name, 0])) as Program['arenas'],
  }
  const bytes = encodeProgram(program)
  t.deepEqual(encodeProgram({ ...program }), bytes)
  t.not(programHash(encodeProgram({ ...program, ranks: 3 })), programHash(bytes))
  t.is(Buffer.from(bytes.subarray(0, 4)).toString(), 'DTPG')
})

test('abi.h is what the op table generates', (t) => {
  t.is(readFileSync(join(projectRoot, 'kernels/abi/abi.h'), 'utf8'), abiHeader())
})

test('abi.h knows every op and attribute', (t) => {
  const header = abiHeader()
  for (const op of ops) {
    t.true(header.includes(`  ${op.name} = ${op.opcode},`))
    for (const name of Object.keys(op.attributes)) t.regex(header, new RegExp(`(int64_t|double) ${name}(_count)?;`))
  }
  t.is(new Set(ops.map((op) => op.opcode)).size, ops.length)
})
