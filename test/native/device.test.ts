// One rank on the main thread, on every device: memory and its registry, loading, running, checking, profiling, refusals.
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { ProgramError } from '../../kernels/abi/program.js'
import {
  type ArenaSizes,
  createGroup,
  DeviceError,
  type DeviceName,
  groupProgress,
  openRank,
  type RankDevice,
  RunError,
} from '../../native/index.js'
import { arenaSizes, devices, ProgramWriter, startRank } from './support.js'

/** Gives `body` a rank of a group of one, its arenas allocated; closes both afterwards. */
async function withRank(
  device: DeviceName,
  arenas: ArenaSizes,
  body: (rank: RankDevice) => Promise<void>,
  threads = 2,
): Promise<void> {
  const group = createGroup({ device, ranks: 1, arenas })
  const rank = openRank(group.token, { rank: 0, threads })
  for (const [arena, bytes] of Object.entries(arenas))
    if (arena !== 'io' && bytes) rank.allocate(arena as keyof ArenaSizes)
  try {
    await body(rank)
  } finally {
    await rank.close()
    await group.close()
  }
}

const none = new Float64Array(0)

for (const device of devices) {
  test(`${device}: the registry counts what was allocated, keeps the peak and ends at zero`, async (t) => {
    const sizes = { parameters: 1000, optimizer: 40 << 20, io: 96 }
    const group = createGroup({ device, ranks: 2, arenas: arenaSizes(sizes) })
    const rank = openRank(group.token, { rank: 1, threads: 1 })
    t.deepEqual(group.memory(1).parameters, { live: 0, peak: 0 })
    t.deepEqual(group.memory(1).io, { live: 96, peak: 96 })
    rank.allocate('optimizer')
    t.deepEqual(group.memory(1).optimizer, { live: 40 << 20, peak: 40 << 20 })
    t.deepEqual(group.memory(0).optimizer, { live: 0, peak: 0 })
    const words = new Float32Array(4).fill(7)
    rank.read('optimizer', (40 << 20) - 16, words)
    t.deepEqual([...words], [0, 0, 0, 0])
    t.throws(() => rank.allocate('optimizer'), { instanceOf: DeviceError, message: /optimizer, expected none yet/ })
    t.throws(() => rank.read('optimizer', (40 << 20) - 15, words), { message: /expected a range inside/ })
    t.throws(() => rank.write('optimizer', -4, words), { message: /expected a range inside/ })
    t.throws(() => rank.read('parameters', 0, words), { message: /expected it to be allocated/ })
    await rank.close()
    await group.close()
    t.deepEqual(group.memory(1).optimizer, { live: 0, peak: 40 << 20 })
    t.deepEqual(group.memory(1).io, { live: 0, peak: 96 })
    t.deepEqual(group.memory(1).parameters, { live: 0, peak: 0 })
  })

  test(`${device}: attributes, lists and scalars reach the kernels`, async (t) => {
    const writer = new ProgramWriter(1, ['unused', 'seed'])
    const filled = writer.tensor([2, 3])
    const scaled = writer.tensor([2, 3])
    const unit = writer.tensor([1024])
    writer.add('fill', [], [filled], { value: 1.5, dtype: 0, shape: [2, 3] })
    writer.add('scale', [filled], [scaled], { factor: -2 })
    const normal = { start: 0, count: 1000, shards: 1, mean: 0, std: 1, key_low: 5, key_high: 6 }
    writer.add('initialize_normal', [unit], [unit], normal, [1])
    await withRank(device, writer.arenas, async (rank) => {
      const program = rank.load(writer.encode())
      const draws = async (seed: number): Promise<Float32Array> => {
        await rank.run(program, Float64Array.of(99, seed))
        const values = new Float32Array(1024)
        rank.read('activations', writer.tensors[unit]!.byteOffset, values)
        return values
      }
      const [one, two, again] = [await draws(1), await draws(2), await draws(1)]
      const values = new Float32Array(6)
      rank.read('activations', writer.tensors[scaled]!.byteOffset, values)
      t.deepEqual([...values], [-3, -3, -3, -3, -3, -3])
      t.deepEqual(one, again)
      t.notDeepEqual(one, two)
      t.is(one[1000], 0)
      t.true(Math.abs(one.reduce((sum, x) => sum + x * x, 0) / 1000 - 1) < 0.2)
    })
  })

  test(`${device}: io is one memory for JavaScript and for programs`, async (t) => {
    const writer = new ProgramWriter()
    const [x, y] = [writer.tensor([5], 'f32', 'io'), writer.tensor([5], 'f32', 'io')]
    writer.add('add', [x, x], [y])
    await withRank(device, writer.arenas, async (rank) => {
      new Float32Array(rank.io, 0, 5).set([1, 2, 3, 4, 5])
      await rank.run(rank.load(writer.encode()), none)
      t.deepEqual([...new Float32Array(rank.io, writer.tensors[y]!.byteOffset, 5)], [2, 4, 6, 8, 10])
    })
  })

  test(`${device}: check names the first instruction with a non-finite output`, async (t) => {
    const writer = new ProgramWriter(1)
    const [x, y] = [writer.tensor([100]), writer.tensor([100])]
    writer.add('add', [x, x], [y]).add('scale', [x], [y], { factor: 2 }).add('add', [y, y], [x])
    await withRank(device, writer.arenas, async (rank) => {
      const program = rank.load(writer.encode())
      t.deepEqual(await rank.run(program, none, { check: true }), {})
      rank.write('activations', 4 * 99, Float32Array.of(2e38))
      t.deepEqual(await rank.run(program, none), {})
      rank.write('activations', 4 * 99, Float32Array.of(1.2e38))
      t.deepEqual(await rank.run(program, none, { check: true }), { nonFinite: 2 })
      rank.write('activations', 4 * 99, Float32Array.of(NaN))
      t.deepEqual(await rank.run(program, none, { check: true }), { nonFinite: 0 })
    })
  })

  test(`${device}: a profile has a start and an end per instruction on this thread's clock`, async (t) => {
    const writer = new ProgramWriter()
    const [x, y] = [writer.tensor([1000]), writer.tensor([1000])]
    writer.add('add', [x, x], [y]).add('add', [y, y], [x])
    await withRank(device, writer.arenas, async (rank) => {
      const program = rank.load(writer.encode())
      const before = performance.now() / 1e3
      const { seconds } = await rank.run(program, none, { profile: true })
      const times = [before, ...seconds!, performance.now() / 1e3]
      t.is(seconds!.length, 4)
      // The two clocks are read a few microseconds apart.
      times.slice(1).forEach((time, i) => {
        t.true(time >= times[i]! - 1e-4, `${time} after ${times[i]}`)
      })
    })
  })

  test(`${device}: a kernel's complaint rejects the run with its instruction and ends the group`, async (t) => {
    const writer = new ProgramWriter()
    const table = writer.tensor([4, 2])
    const index = writer.tensor([3], 'i32')
    const rows = writer.tensor([3, 2])
    writer.add('copy', [table], [table]).add('embedding', [table, index], [rows])
    await withRank(device, writer.arenas, async (rank) => {
      const program = rank.load(writer.encode())
      await rank.run(program, none)
      rank.write('activations', writer.tensors[index]!.byteOffset, Int32Array.of(0, 4, 1))
      const error = await t.throwsAsync(rank.run(program, none), { instanceOf: RunError })
      t.is(error.code, 'kernel')
      t.is(error.instruction, 1)
      t.regex(error.message, /4/)
      const later = await t.throwsAsync(rank.run(program, none), { instanceOf: RunError })
      t.is(later.code, 'aborted')
      t.true(later.message.includes(`rank 0: ${error.message}`))
    })
  })

  test(`${device}: runs are done in order and two may be in flight`, async (t) => {
    const writer = new ProgramWriter()
    const x = writer.tensor([1])
    writer.add('add', [x, x], [x])
    await withRank(device, writer.arenas, async (rank) => {
      rank.write('activations', 0, Float32Array.of(1))
      const program = rank.load(writer.encode())
      const done: number[] = []
      await Promise.all([0, 1, 2, 3].map((i) => rank.run(program, none).then(() => done.push(i))))
      const value = new Float32Array(1)
      rank.read('activations', 0, value)
      t.is(value[0], 16)
      t.deepEqual(done, [0, 1, 2, 3])
    })
  })

  test(`${device}: runs asked for ahead read io as it stood then, and each one's results are told before the next one's`, async (t) => {
    const writer = new ProgramWriter()
    const [x, y] = [writer.tensor([1], 'f32', 'io'), writer.tensor([1], 'f32', 'io')]
    const sum = writer.tensor([1])
    writer.add('add', [sum, x], [sum]).add('copy', [sum], [y])
    await withRank(device, writer.arenas, async (rank) => {
      const program = rank.load(writer.encode())
      const io = new Float32Array(rank.io)
      const at = (tensor: number): number => writer.tensors[tensor]!.byteOffset / 4
      const told: number[] = []
      const runs = [1, 10, 100, 1000].map((value) => {
        io[at(x)] = value
        return rank.run(program, none, { more: value > 1, written: () => told.push(io[at(y)]!) })
      })
      t.deepEqual(told, [])
      // The last one says that more follow, and none do.
      await Promise.all(runs)
      t.deepEqual(told, [1, 11, 111, 1111])
    })
  })

  test(`${device}: programs that do not fit are refused in one sentence`, async (t) => {
    const arenas = arenaSizes({ activations: 1024, io: 64 })
    const refuse = async (message: RegExp, write: (writer: ProgramWriter) => void): Promise<void> => {
      await withRank(device, arenas, async (rank) => {
        const writer = new ProgramWriter()
        write(writer)
        t.throws(() => rank.load(writer.encode()), { instanceOf: ProgramError, message })
      })
    }
    await refuse(/tensor 0, expected a place inside the 1024 bytes of arena activations/, (w) => w.tensor([257]))
    await refuse(/arena parameters of tensor 0, expected it to be allocated/, (w) => w.tensor([1], 'f32', 'parameters'))
    await refuse(/offset of tensor 0, expected a multiple of the size of f32, got 2/, (w) =>
      w.tensors.push({ arena: 'activations', byteOffset: 2, dtype: 'f32', shape: [1] }),
    )
    await refuse(/instruction 0 \(add\).*shape of b/, (w) => w.add('add', [w.tensor([4]), w.tensor([3])], [0]))
    await refuse(/output sum of instruction 0 \(add\), expected f32\[4\], got f32\[3\]/, (w) =>
      w.add('add', [w.tensor([4]), w.tensor([4])], [w.tensor([3])]),
    )
    await refuse(/input a/, (w) => w.add('add', [null, w.tensor([4])], [0]))
    await refuse(/input of instruction 0 \(add\), expected a tensor of the program, got 9/, (w) =>
      w.add('add', [w.tensor([4]), 9], [0]),
    )
    await refuse(/kernel of/, (w) => w.add('reshape', [w.tensor([4])], [0], { shape: [4] }))
    await refuse(/attribute ranks of instruction 0 \(barrier\), expected 1, got 2/, (w) =>
      w.add('barrier', [], [], { ranks: 2 }),
    )
    await refuse(/memory of instruction 0 \(all_reduce\)/, (w) => {
      w.tensors.push({ arena: 'activations', byteOffset: 0, dtype: 'f32', shape: [8] })
      w.tensors.push({ arena: 'activations', byteOffset: 16, dtype: 'f32', shape: [8] })
      w.add('all_reduce', [0], [1], { ranks: 1 })
    })
  })

  test(`${device}: impossible groups, ranks and runs are refused`, async (t) => {
    const arenas = arenaSizes({ activations: 64, io: 64 })
    const refused = { instanceOf: DeviceError, code: 'DEVICE_USAGE' } as const
    t.throws(() => createGroup({ device, ranks: 0, arenas }), {
      ...refused,
      message: /ranks, expected an integer from 1/,
    })
    t.throws(() => createGroup({ device, ranks: 1, arenas: { ...arenas, io: -1 } }), {
      ...refused,
      message: /arena io/,
    })
    const group = createGroup({ device, ranks: 2, arenas })
    t.throws(() => openRank(group.token, { rank: 2, threads: 1 }), { ...refused, message: /from 0 to 1, got 2/ })
    t.throws(() => openRank(group.token, { rank: 0, threads: 0 }), { ...refused, message: /threads/ })
    const rank = openRank(group.token, { rank: 0, threads: 1 })
    // Another rank's shard would lie elsewhere, where nobody looks for it.
    const gathering = new ProgramWriter(2)
    const full = gathering.tensor([4], 'f32', 'io')
    gathering.tensors.push({ arena: 'io', byteOffset: 0, dtype: 'f32', shape: [2] })
    gathering.add('all_gather', [1], [full], { ranks: 2, whole: 0 })
    t.throws(() => rank.load(gathering.encode()), {
      instanceOf: ProgramError,
      message: /memory of instruction 0 \(all_gather\)/,
    })
    t.throws(() => openRank(group.token, { rank: 0, threads: 1 }), {
      ...refused,
      message: /expected one that is not open/,
    })
    const writer = new ProgramWriter(2, ['a'])
    await t.throwsAsync(rank.run(0, none), { ...refused, message: /expected a loaded one, got 0/ })
    const program = rank.load(writer.encode())
    await t.throwsAsync(rank.run(program, none), { ...refused, message: /scalars, expected 1, got 0/ })
    await rank.close()
    await rank.close()
    await t.throwsAsync(rank.run(program, Float64Array.of(0)), { instanceOf: DeviceError })
    await group.close()
    await group.close()
  })
}

// By itself: what one rank of a worker tells takes along what others have to tell.
test.serial(
  'cpu: that a run is done is told with the next one where it says that more follow, and the next may fail',
  async (t) => {
    const writer = new ProgramWriter(2)
    const x = writer.tensor([4])
    const group = createGroup({ device: 'cpu', ranks: 2, arenas: writer.arenas })
    const rank = openRank(group.token, { rank: 0, threads: 1 })
    rank.allocate('activations')
    const meeting = new ProgramWriter(2).add('barrier', [], [], { ranks: 2 }).encode()
    const [meet, add] = [rank.load(meeting), rank.load(writer.add('add', [x, x], [x]).encode())]
    const told: string[] = []
    const run = async (name: string, program: number, more: boolean): Promise<void> => {
      const end = await rank.run(program, none, { more }).catch((error: RunError) => error.code)
      told.push(typeof end === 'string' ? `${name} ${end}` : name)
    }
    // The other rank comes once, and no run is done before: each one's successor is asked for in time.
    const runs = [run('first', meet, false), run('second', add, true), run('third', meet, true)]
    const job = { threads: 1, program: meeting, writes: [], reads: [], options: {}, times: 1 }
    await startRank({ ...job, token: group.token, rank: 1 }).outcome
    await runs[0]
    while (groupProgress(group.token)[0]!.instructions < 2) await sleep(1)
    await sleep(20)
    t.deepEqual(told, ['first'])
    group.abort('enough')
    await Promise.all(runs)
    t.deepEqual(told, ['first', 'second', 'third aborted'])
    await rank.close()
    await group.close()
  },
)
