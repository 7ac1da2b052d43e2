// The order of a GPU's lanes, which needs no GPU to be laid down: random programs and those of a training run, one run after another.
import test from 'ava'
import * as fc from 'fast-check'
import { cpuBackend } from '../../kernels/cpu/backend.js'
import { gpuBackend } from '../../kernels/gpu/backend.js'
import type { Backend } from '../../kernels/ops/backend.js'
import { byteLength } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import { addon } from '../../native/index.js'
import { type Compilation, type CompileOptions, compile, type Precision } from '../../runtime/graph/compile.js'
import type { ZeroStage } from '../../runtime/graph/partition/sharding.js'
import { namedParameters } from '../../runtime/nn/module.js'
import { noLossScale } from '../../runtime/optim/index.js'
import { type Lane, type Listed, lanes, type Part, type Schedule, schedulesOf, Timeline } from '../support/timeline.js'
import { smallModel } from '../support/training.js'
import { arenaSizes, ProgramWriter } from './support.js'

const arenas = arenaSizes({ activations: 1 << 16, optimizer: 1 << 16, io: 128 })
const listedOf = (writer: ProgramWriter): Listed => ({
  ranks: writer.ranks,
  tensors: writer.tensors,
  instructions: writer.instructions,
  bytes: writer.encode(),
  arenas,
})

const isCollective = (op: string): boolean => 'ranks' in opNamed(op).attributes

if (addon().addon) {
  const step = fc.record({
    op: fc.constantFrom(
      ...(['add', 'add', 'add', 'scale', 'all_reduce', 'all_gather', 'reduce_scatter', 'barrier'] as const),
      ...(['download', 'upload', 'host', 'io', 'io_reduce', 'io_download'] as const),
    ),
    places: fc.array(fc.nat({ max: 40 }), { minLength: 3, maxLength: 3 }),
    length: fc.integer({ min: 1, max: 8 }),
  })
  type Step = { readonly op: string; readonly places: readonly number[]; readonly length: number }

  /** Operands of 64-byte steps anywhere in an arena, so that they often overlap. */
  function program(steps: readonly Step[]): ProgramWriter {
    const writer = new ProgramWriter(2)
    const tensor = (place: number, length: number, arena: 'activations' | 'optimizer' = 'activations'): number =>
      writer.tensors.push({ arena, byteOffset: 64 * place, dtype: 'f32', shape: [16 * length] }) - 1
    const io = (place: number): number =>
      writer.tensors.push({ arena: 'io', byteOffset: 4 * place, dtype: 'f32', shape: [4] }) - 1
    for (const { op, places, length } of steps) {
      const [a, b, c] = places as [number, number, number]
      // What a collective reads lies apart from what it writes.
      const apart = c + 100
      if (op === 'add') writer.add(op, [tensor(a, length), tensor(b, length)], [tensor(c, length)])
      else if (op === 'scale') writer.add(op, [tensor(a, length)], [tensor(c, length)], { factor: 2 })
      else if (op === 'all_reduce') writer.add(op, [tensor(a, length)], [tensor(apart, length)], { ranks: 2 })
      else if (op === 'all_gather')
        writer.add(op, [tensor(apart, length)], [tensor(a, 2 * length)], { ranks: 2, whole: 0 })
      else if (op === 'reduce_scatter')
        writer.add(op, [tensor(a, 2 * length)], [tensor(apart, length)], { ranks: 2, whole: 0 })
      else if (op === 'download') writer.add('copy', [tensor(a, length)], [tensor(b, length, 'optimizer')])
      else if (op === 'io_download')
        writer.add(
          'copy',
          [io(a % 12)],
          [writer.tensors.push({ arena: 'optimizer', byteOffset: 64 * b, dtype: 'f32', shape: [4] }) - 1],
        )
      else if (op === 'upload') writer.add('copy', [tensor(a, length, 'optimizer')], [tensor(b, length)])
      else if (op === 'host')
        writer.add(
          'add',
          [tensor(a, length, 'optimizer'), tensor(b, length, 'optimizer')],
          [tensor(c, length, 'optimizer')],
        )
      else if (op === 'io') writer.add('add', [io(a % 12), io(b % 12)], [io(c % 12)])
      else if (op === 'io_reduce') writer.add('all_reduce', [io(a % 12)], [io(16 + (c % 8))], { ranks: 2 })
      else writer.add(op, [], [], { ranks: 2 })
    }
    return writer
  }

  const laneOf = ({ op }: Step, several: boolean): Lane => {
    if (op === 'download' || op === 'upload' || op === 'host') return op
    if (op === 'io_download') return 'download'
    const collective = op === 'io_reduce' || op === 'barrier' || (op !== 'io' && isCollective(op))
    return collective && several ? 'communication' : 'compute'
  }

  test('what touches the same bytes keeps its order on all lanes, within a run and from run to run', async (t) => {
    const programs = fc.array(fc.array(step, { minLength: 1, maxLength: 25 }), { minLength: 1, maxLength: 3 })
    await fc.assert(
      fc.asyncProperty(programs, fc.boolean(), async (lists, several) => {
        const listed = lists.map((steps) => listedOf(program(steps)))
        const schedules = await schedulesOf(listed, { several, onHost: ['optimizer'] })
        for (const [n, { parts, answer }] of schedules.entries()) {
          // Every instruction once and in order, on its lane; only what computes on the device is put together.
          const numbers = parts.flatMap(({ begin, end }) => Array.from({ length: end - begin }, (_, i) => begin + i))
          t.deepEqual(
            numbers,
            lists[n]!.map((_, i) => i),
          )
          for (const [p, { begin, end, lane }] of parts.entries()) {
            for (let i = begin; i < end; i++) t.is(lane, laneOf(lists[n]![i]!, several))
            if (lane !== 'compute') t.is(end, begin + 1)
            else t.true(p < answer)
          }
        }
        // Each program twice, so that each follows each that it may follow.
        const runs = [0, 1].flatMap(() => schedules.map((schedule, n) => ({ schedule, program: listed[n]! })))
        t.deepEqual(new Timeline(runs).disorder(), [])
      }),
      { numRuns: 150 },
    )
  })

  const none = [-1, -1, -1, -1, -1]
  const waiting = (waits: Partial<Record<Lane, number>>): number[] => lanes.map((lane) => waits[lane] ?? -1)

  test('a collective waits for what makes its operand and holds up nothing but what needs its result', async (t) => {
    const writer = new ProgramWriter(2)
    const [x, y, z, sum] = [writer.tensor([64]), writer.tensor([64]), writer.tensor([64]), writer.tensor([64])]
    writer
      .add('scale', [x], [y], { factor: 2 })
      .add('scale', [x], [z], { factor: 3 })
      .add('all_reduce', [y], [sum], { ranks: 2 })
      .add('add', [z, z], [z])
      .add('add', [z, x], [z])
      .add('add', [sum, z], [z])
    const [{ parts, answer, tail }] = (await schedulesOf([listedOf(writer)])) as [Schedule]
    const compute = { lane: 'compute' as const, afterStart: false }
    t.deepEqual(parts, [
      { ...compute, begin: 0, end: 1, waits: none },
      { ...compute, begin: 1, end: 2, waits: none },
      { begin: 2, end: 3, lane: 'communication', afterStart: false, waits: waiting({ compute: 0 }) },
      { ...compute, begin: 3, end: 5, waits: none },
      { ...compute, begin: 5, end: 6, waits: waiting({ communication: 2 }) },
    ])
    t.deepEqual([answer, tail], [5, []])
  })

  test('collectives that stand together wait together, and an old one is waited for from the beginning of a part', async (t) => {
    const writer = new ProgramWriter(2)
    const tensor = (): number => writer.tensor([64])
    const [x, y, z, w, u, v] = [tensor(), tensor(), tensor(), tensor(), tensor(), tensor()]
    writer
      .add('scale', [x], [y], { factor: 2 })
      .add('scale', [x], [z], { factor: 3 })
      .add('all_reduce', [y], [y], { ranks: 2 })
      .add('all_reduce', [z], [z], { ranks: 2 })
      .add('scale', [x], [w], { factor: 4 })
      .add('all_reduce', [w], [w], { ranks: 2 })
      .add('scale', [x], [u], { factor: 5 })
      .add('add', [u, z], [u])
      .add('add', [u, w], [v])
    const [{ parts }] = (await schedulesOf([listedOf(writer)])) as [Schedule]
    const of = (lane: Part['lane'], begin: number, end: number, waits = none): Part => ({
      begin,
      end,
      lane,
      afterStart: false,
      waits,
    })
    t.deepEqual(parts, [
      of('compute', 0, 2),
      of('communication', 2, 3, waiting({ compute: 0 })),
      of('communication', 3, 4),
      of('compute', 4, 5),
      of('communication', 5, 6, waiting({ compute: 3 })),
      of('compute', 6, 8, waiting({ communication: 2 })),
      of('compute', 8, 9, waiting({ communication: 4 })),
    ])
  })

  test('a run is answered before its last gathers, and the next waits in few places for what it reads', async (t) => {
    const writer = new ProgramWriter(2)
    const layers = Array.from({ length: 7 }, () => ({ weight: writer.tensor([64]), shard: writer.tensor([32]) }))
    const [x, gradient] = [writer.tensor([64]), writer.tensor([32])]
    for (const { weight } of layers) writer.add('add', [x, weight], [x]).add('scale', [x], [x], { factor: 2 })
    for (const { shard } of layers) writer.add('add', [shard, gradient], [shard])
    for (const { weight, shard } of layers) writer.add('all_gather', [shard], [weight], { ranks: 2, whole: 0 })
    const [schedule] = (await schedulesOf([listedOf(writer)])) as [Schedule]
    const { parts, answer, tail, crossing } = schedule
    const gathers = parts.flatMap(({ lane }, p) => (lane === 'communication' ? [p] : []))
    t.is(answer, gathers[0]!)
    t.deepEqual(tail, gathers)
    // Parts of 2, 4 and the rest of the layers, each of which waits for the last of its gathers.
    t.deepEqual(
      parts.slice(0, 3).map(({ begin, end }) => [begin, end]),
      [
        [0, 4],
        [4, 12],
        [12, 21],
      ],
    )
    t.deepEqual(
      crossing.parts.slice(0, 3),
      [1, 5, 6].map((n) => waiting({ communication: gathers[n]! })),
    )
    t.deepEqual([crossing.begin, crossing.answer], [none, none])
  })

  test('a run takes of io what it reads before it writes it, and brings back what it writes', async (t) => {
    const ioStep = fc.record({
      a: fc.nat({ max: 15 }),
      b: fc.nat({ max: 15 }),
      length: fc.integer({ min: 1, max: 4 }),
      op: fc.constantFrom('add', 'scale', 'reduce_scatter'),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(ioStep, { minLength: 1, maxLength: 12 }), async (steps) => {
        const writer = new ProgramWriter(2)
        const [read, written] = [new Set<number>(), new Set<number>()]
        const words = (place: number, length: number) => Array.from({ length }, (_, i) => place + i)
        const reads = (place: number, length: number): void => {
          for (const word of words(place, length)) if (!written.has(word)) read.add(word)
        }
        const tensor = (place: number, length: number): number =>
          writer.tensors.push({ arena: 'io', byteOffset: 4 * place, dtype: 'f32', shape: [length] }) - 1
        for (const { op, a, b, length } of steps) {
          reads(a, length)
          if (op === 'add') {
            reads(b, length)
            writer.add('add', [tensor(a, length), tensor(b, length)], [tensor(b, length)])
          } else if (op === 'scale') {
            writer.add('scale', [tensor(a, length)], [tensor(b, length)], { factor: 2 })
          } else {
            // Writes this rank's half of what lies there; the other half stays as it was.
            const even = 2 * Math.ceil(length / 2)
            reads(a, even)
            reads(b, even)
            writer.add('reduce_scatter', [tensor(a, even)], [tensor(b, even)], { ranks: 2, whole: 1 })
            for (const word of words(b, even)) written.add(word)
          }
          for (const word of words(b, length)) written.add(word)
        }
        const [{ ioRead, ioWritten }] = (await schedulesOf([listedOf(writer)])) as [Schedule]
        const listed = (ranges: Float64Array): number[] =>
          Array.from({ length: ranges.length / 2 }, (_, i) => words(ranges[2 * i]! / 4, ranges[2 * i + 1]! / 4)).flat()
        const [taken, brought] = [listed(ioRead), listed(ioWritten)]
        t.deepEqual(
          brought,
          [...written].sort((x, y) => x - y),
        )
        t.is(new Set(taken).size, taken.length)
        t.deepEqual(
          [...read].filter((word) => !taken.includes(word)),
          [],
        )
      }),
      { numRuns: 150 },
    )
  })

  const blocks = 6
  const overlapping: Backend = { ...cpuBackend(1), overlaps: true }
  const precision: Precision = { dtype: 'bf16', gradients: 'bf16', accumulation: 'f32', keeps: () => false }
  const training = (stage: ZeroStage, accumulation: number, more: Partial<CompileOptions> = {}): Compilation => {
    const model = more.model ?? smallModel({ layers: blocks, hidden: 96 })
    return compile({
      model,
      ranks: 2,
      stage,
      microBatch: 2,
      sequence: 16,
      gathers: { maxReuseDistance: 0, maxLiveParameters: 1e9, prefetchBucketSize: 0 },
      persistenceThreshold: 200,
      persistenceLimit: 1e9,
      precision,
      backend: overlapping,
      training: {
        optimizer: {
          kind: 'adam',
          attributes: { decoupled: 1, epsilon: 1e-8 },
          groups: [{ names: namedParameters(model).map(({ name }) => name), weightDecay: 0.1 }],
        },
        accumulation,
        clipping: 1,
        reduceBucketSize: 40_000,
        allgatherBucketSize: 40_000,
        recompute: { cheap: [], blocks: 0 },
        overflow: { skips: true, scales: false, lossScale: noLossScale },
      },
      environment: {},
      ...more,
    })
  }
  const listedOfRun = ({ programs, plan: { arenas } }: Compilation): Record<string, Listed> =>
    Object.fromEntries(
      Object.entries(programs).map(([name, { program, bytes }]) => [name, { ...program, bytes, arenas }]),
    )

  for (const stage of [0, 1, 3] as const) {
    test(`two ranks, ZeRO ${stage}: steps and evaluations keep their order`, async (t) => {
      for (const [accumulation, names] of [
        [1, ['only', 'only', 'evaluate', 'refresh']],
        [3, ['first', 'middle', 'middle', 'last', 'forward']],
      ] as const) {
        const programs = listedOfRun(training(stage, accumulation))
        const listed = names.map((name) => programs[name]!)
        const schedules = await schedulesOf(listed)
        const runs = [0, 1].flatMap(() => schedules.map((schedule, n) => ({ schedule, program: listed[n]! })))
        t.deepEqual(new Timeline(runs).disorder(), [])
      }
    })
  }

  test('the forward goes on as the weights of the step before arrive', async (t) => {
    const program = listedOfRun(training(1, 1))['only']!
    const [{ parts, answer, tail, crossing }] = (await schedulesOf([program])) as [Schedule]
    const gathers = tail.filter((part) => program.instructions[parts[part]!.begin]!.op === 'all_gather')
    // Only the last gathers are enqueued behind the answer, but none is waited for.
    t.true(gathers.length > blocks && gathers.at(-1)! >= answer)
    const communication = lanes.indexOf('communication')
    const waited = crossing.parts.flatMap((waits) => (waits[communication]! >= 0 ? [waits[communication]!] : []))
    // With the embeddings, with four more blocks, with the rest.
    t.deepEqual(waited, [gathers[1]!, gathers[5]!, gathers.at(-1)!])
  })

  test('what is left of a block is sent together with it, and the next bucket has other memory', (t) => {
    const options: Partial<CompileOptions> = {
      model: smallModel({ layers: blocks, hidden: 192 }),
      backend: gpuBackend(),
      persistenceThreshold: 0,
      // Of each block, its norms are left.
      precision: { ...precision, keeps: (module) => /ln_[12]$/.test(module) },
    }
    const { instructions, tensors } = training(3, 1, options).programs['only']!.program
    const sent = (block: number, rest = ''): number =>
      instructions.findIndex(
        ({ op, debug }) => op === 'reduce_scatter' && debug.module === `transformer.h.${block}${rest}`,
      )
    const source = (block: number, rest?: string): readonly [number, number] => {
      const { byteOffset, dtype, shape } = tensors[instructions[sent(block, rest)]!.inputs[0]!]!
      return [byteOffset, byteOffset + byteLength({ dtype, shape })]
    }
    const apart = ([from, to]: readonly [number, number], [begin, end]: readonly [number, number]): boolean =>
      to <= begin || end <= from
    for (let block = 1; block < blocks; block++) {
      t.is(sent(block), sent(block, ' (fp32)') + 1)
      t.true(apart(source(block), source(block - 1)))
      t.true(apart(source(block, ' (fp32)'), source(block - 1, ' (fp32)')))
    }
  })
}
