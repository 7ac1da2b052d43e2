// Programs whose bytes are hostile: whatever they hold, loading answers with an error or with a program that can be run.
// The addon is asked directly, behind the fingerprint and the shape rules that the device checks first.
import { createHash } from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { arenaNames, decodeProgram, layout, ProgramError } from '../../kernels/abi/program.js'
import { addon, createGroup, openRank, type RankDevice, RunError } from '../../native/index.js'
import { arenaSizes, devices, ProgramWriter } from './support.js'

const { addon: native } = addon()

function victim(): Uint8Array {
  const writer = new ProgramWriter(1, ['a', 'b'])
  const [x, y, z] = [writer.tensor([32]), writer.tensor([32]), writer.tensor([32])]
  writer.add('add', [x, z], [y]).add('fill', [], [x], { value: 3, dtype: 0, shape: [32] })
  writer.add('scale', [y], [x], { factor: 2 }).add('copy', [x], [y])
  writer.add('reduce_scatter', [x, y], [y], { ranks: 1, whole: 1 }).add('all_gather', [x], [y], { ranks: 1, whole: 0 })
  writer.add('barrier', [], [], { ranks: 1 })
  return writer.encode()
}

/** A few writes of a few bytes, anywhere or at the numbers that lead the decoder. */
const mutations = fc.array(
  fc.record({
    at: fc.oneof(fc.nat(1100), fc.constantFrom(...Object.values(layout.header))),
    value: fc.oneof(
      fc.constantFrom(0n, 1n, 0xffn, 0xffffn, 0x7fffffffn, 0xffffffffn, 1n << 62n, (1n << 63n) - 1n, (1n << 64n) - 8n),
      fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      fc.bigInt({ min: 0n, max: 300n }),
    ),
    width: fc.constantFrom(1, 2, 4, 8),
  }),
  { minLength: 1, maxLength: 4 },
)

function mutate(bytes: Uint8Array, changes: readonly { at: number; value: bigint; width: number }[]): Uint8Array {
  const copy = bytes.slice()
  for (const { at, value, width } of changes) {
    for (let i = 0; i < width && at + i < copy.length; i++) copy[at + i] = Number((value >> BigInt(8 * i)) & 0xffn)
  }
  return copy
}

if (native) {
  test('cpu: the decoder takes mutated programs or refuses them, and never crashes', (t) => {
    const bytes = victim()
    const sizes = Float64Array.from(arenaNames, () => 4096)
    const group = native.createGroup(1, sizes, 'portable', [new Uint8Array(new SharedArrayBuffer(4096))])
    const { handle: rank } = native.openRank(group, 0, 1, new Int32Array(0))
    native.allocate(rank, arenaNames.indexOf('activations'))
    native.load(rank, bytes)
    const outcomes = { taken: 0, refused: 0 }
    fc.assert(
      fc.property(mutations, fc.nat(64), (changes, cut) => {
        const hostile = mutate(bytes, changes)
        try {
          native.load(rank, cut < 8 ? hostile.subarray(0, hostile.length - cut * 37) : hostile)
          outcomes.taken++
        } catch (error) {
          outcomes.refused++
          return (
            (error as { code?: string }).code === 'PROGRAM_FORMAT' &&
            /, expected .*, got /.test((error as Error).message)
          )
        }
        return true
      }),
      { numRuns: 4000 },
    )
    native.abortGroup(group, 'done')
    native.closeGroup(group)
    t.true(outcomes.taken > 100 && outcomes.refused > 100, JSON.stringify(outcomes))
  })
}

for (const device of devices) {
  test(`${device}: forged programs are refused with one error, or run without a crash`, async (t) => {
    const bytes = victim()
    const outcomes = { taken: 0, refused: 0 }
    const attempt = async (rank: RankDevice, forged: Uint8Array): Promise<boolean> => {
      let program: number
      try {
        program = rank.load(forged)
      } catch (error) {
        outcomes.refused++
        return error instanceof ProgramError
      }
      outcomes.taken++
      return rank.run(program, new Float64Array(2)).then(
        () => true,
        (error) => error instanceof RunError && error.code === 'kernel',
      )
    }
    await fc.assert(
      fc.asyncProperty(mutations, async (changes) => {
        const forged = mutate(bytes, changes)
        const digest = createHash('sha256').update(forged.subarray(layout.header.tensorCount)).digest()
        forged.set(digest, layout.header.fingerprint)
        const group = createGroup({ device, ranks: 1, arenas: arenaSizes({ activations: 4096 }) })
        const rank = openRank(group.token, { rank: 0, threads: 2 })
        rank.allocate('activations')
        const right = await attempt(rank, forged)
        await rank.close()
        await group.close()
        return right
      }),
      { numRuns: 1000 },
    )
    t.true(outcomes.taken > 20 && outcomes.refused > 20, JSON.stringify(outcomes))
  })
}

test('the fingerprint covers all that follows it', (t) => {
  const bytes = victim()
  fc.assert(
    fc.property(
      fc.integer({ min: layout.header.fingerprint, max: bytes.length - 1 }),
      fc.integer({ min: 1, max: 255 }),
      (at, flip) => {
        const damaged = bytes.slice()
        damaged[at] = damaged[at]! ^ flip
        t.throws(() => decodeProgram(damaged), { instanceOf: ProgramError })
      },
    ),
    { numRuns: 300 },
  )
})

for (const device of devices) {
  test(`${device}: damaged and cut bytes are refused at load`, async (t) => {
    const bytes = victim()
    const group = createGroup({ device, ranks: 1, arenas: arenaSizes({ activations: 4096 }) })
    const rank = openRank(group.token, { rank: 0, threads: 1 })
    rank.allocate('activations')
    t.is(rank.load(bytes), 0)
    for (const length of [0, 1, 64, 127, 128, 500, bytes.length - 1]) {
      t.throws(() => rank.load(bytes.subarray(0, length)), { instanceOf: ProgramError })
    }
    const other = bytes.slice()
    other[layout.header.version]!++
    t.throws(() => rank.load(other), { instanceOf: ProgramError, message: /ABI version, expected 1, got 2/ })
    await rank.close()
    await group.close()
  })
}
