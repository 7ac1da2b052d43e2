// What can be known of GPUs on a machine without one: what the machine's report says, what the device `cuda` refuses, and the order of two
// streams that the native side derives from a program. Runs on a GPU are in test/gpu.
import { existsSync } from 'node:fs'
import test from 'ava'
import * as fc from 'fast-check'
import { arenaNames } from '../../kernels/abi/program.js'
import { byteLength } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import { addon, createGroup, DeviceError, machine } from '../../native/index.js'
import type { NativeSchedule } from '../../native/load.js'
import { arenaSizes, ProgramWriter } from './support.js'

const arenas = arenaSizes({ activations: 1 << 16, io: 128 })
const hasDriver = existsSync('/proc/driver/nvidia/version')

test('the report of GPUs names them, or says in one line why there are none', (t) => {
  const { devices, driver, reason } = machine().gpu
  if (devices.length > 0) {
    t.true(hasDriver)
    t.regex(driver!, /^\d+\./)
    for (const { name, memoryBytes, freeBytes, compute, multiprocessors } of devices) {
      t.true(name !== '' && memoryBytes > 2 ** 30 && freeBytes <= memoryBytes && multiprocessors > 0)
      t.regex(compute, /^\d+\.\d$/)
    }
    return
  }
  t.regex(reason!, /^(gpu|addon): .*, expected .*, got .*$/)
  if (!hasDriver) t.is(driver, null)
  if (!hasDriver && addon().addon)
    t.regex(reason!, /driver, expected NVIDIA's of version \d+ or newer, got none|built with nvcc/)
})

test('the device cuda says what is missing', (t) => {
  const { devices, reason } = machine().gpu
  const ranks = devices.length + 1
  const error = t.throws(() => createGroup({ device: 'cuda', ranks, arenas }), { instanceOf: DeviceError })
  t.is(error.code, 'DEVICE_MISSING')
  if (reason !== undefined) t.is(error.message, reason)
  else
    t.regex(
      error.message,
      new RegExp(`ranks, expected at most one for each of the ${devices.length} GPUs, got ${ranks}`),
    )
})

interface Part {
  readonly begin: number
  readonly end: number
  readonly collective: boolean
  readonly wait: number
  readonly record: number
}

interface Schedule {
  readonly parts: readonly Part[]
  readonly start: number
  readonly finish: number
}

/** What the native side makes of a program of two ranks. */
async function nativeSchedule(writer: ProgramWriter): Promise<NativeSchedule> {
  const group = createGroup({ device: 'cpu', ranks: 2, arenas })
  const native = addon().addon!
  const { handle } = native.openRank(group.token.id, 0, 1, new Int32Array(0))
  native.allocate(handle, arenaNames.indexOf('activations'))
  const schedule = native.schedule(handle, native.load(handle, writer.encode()))
  await native.closeRank(handle, -1)
  await group.close()
  return schedule
}

async function scheduleOf(writer: ProgramWriter): Promise<Schedule> {
  const { parts: numbers, start, finish } = await nativeSchedule(writer)
  const parts = Array.from({ length: numbers.length / 5 }, (_, i) => {
    const [begin, end, collective, wait, record] = numbers.subarray(5 * i) as unknown as [
      number,
      number,
      number,
      number,
      number,
    ]
    return { begin, end, collective: collective === 1, wait, record }
  })
  return { parts, start, finish }
}

/** Whether two instructions may not change places: one writes bytes that the other touches. */
function conflict({ tensors, instructions }: ProgramWriter, a: number, b: number): boolean {
  const spans = (i: number, of: 'inputs' | 'outputs') =>
    instructions[i]!.op === 'barrier'
      ? [{ from: 0, to: 1 << 16 }]
      : instructions[i]![of].map((index) => {
          const tensor = tensors[index!]!
          return { from: tensor.byteOffset, to: tensor.byteOffset + byteLength(tensor) }
        })
  const meet = (x: number, of: 'inputs' | 'outputs', y: number): boolean =>
    spans(x, of).some((p) =>
      [...spans(y, 'inputs'), ...spans(y, 'outputs')].some((q) => p.from < q.to && q.from < p.to),
    )
  return meet(a, 'outputs', b) || meet(b, 'outputs', a)
}

/**
 * Which points of a run come after which: the start of the run, each part, its end. Streams keep their order, and a part that waits for an
 * event comes after the part that recorded it.
 */
function order({ parts, start, finish }: Schedule): (earlier: number, later: number) => boolean {
  const [first, last] = [parts.length, parts.length + 1]
  const before: number[][] = [...parts, null, null].map(() => [])
  const recorder = (event: number): number =>
    event === start ? first : parts.findIndex((part) => part.record === event)
  const lastOn = { compute: first, communication: -1 }
  parts.forEach((part, i) => {
    const stream = part.collective ? 'communication' : 'compute'
    if (lastOn[stream] >= 0) before[i]!.push(lastOn[stream])
    if (part.wait >= 0) before[i]!.push(recorder(part.wait))
    lastOn[stream] = i
  })
  before[last]!.push(lastOn.compute)
  if (finish >= 0) before[last]!.push(recorder(finish))
  const reaches = (later: number): Set<number> => {
    const seen = new Set<number>()
    const visit = (point: number): void => {
      for (const earlier of before[point]!) {
        if (seen.has(earlier)) continue
        seen.add(earlier)
        visit(earlier)
      }
    }
    visit(later)
    return seen
  }
  const all = before.map((_, point) => reaches(point))
  return (earlier, later) => all[later]!.has(earlier)
}

const isCollective = (op: string): boolean => 'ranks' in opNamed(op).attributes

if (addon().addon) {
  const step = fc.record({
    op: fc.constantFrom('add', 'add', 'add', 'scale', 'all_reduce', 'all_gather', 'reduce_scatter', 'barrier'),
    places: fc.array(fc.nat({ max: 40 }), { minLength: 3, maxLength: 3 }),
    length: fc.integer({ min: 1, max: 8 }),
  })

  /** Operands of 64-byte steps anywhere in one arena, so that they often overlap. */
  function program(steps: readonly { op: string; places: readonly number[]; length: number }[]): ProgramWriter {
    const writer = new ProgramWriter(2)
    const tensor = (place: number, length: number): number =>
      writer.tensors.push({ arena: 'activations', byteOffset: 64 * place, dtype: 'f32', shape: [16 * length] }) - 1
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
      else writer.add(op, [], [], { ranks: 2 })
    }
    return writer
  }

  test('what touches the same bytes keeps its order on two streams, and runs keep theirs', async (t) => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
        const writer = program(steps)
        const schedule = await scheduleOf(writer)
        const { parts } = schedule
        // Every instruction once and in order, collectives alone.
        const listed = parts.flatMap(({ begin, end }) => Array.from({ length: end - begin }, (_, i) => begin + i))
        t.deepEqual(
          listed,
          steps.map((_, i) => i),
        )
        const partOf = steps.map((_, i) => parts.findIndex(({ begin, end }) => begin <= i && i < end))
        for (const [i, { op }] of steps.entries()) {
          const { begin, end, collective } = parts[partOf[i]!]!
          t.is(collective, isCollective(op))
          if (collective) t.deepEqual([begin, end], [i, i + 1])
        }
        // An event is enqueued before it is waited for.
        for (const [p, { wait }] of parts.entries()) {
          if (wait >= 0 && wait !== schedule.start) t.true(parts.slice(0, p).some(({ record }) => record === wait))
        }
        const after = order(schedule)
        const [first, last] = [parts.length, parts.length + 1]
        for (const p of parts.keys()) t.true(after(first, p) && after(p, last), `part ${p} within its run`)
        for (let j = 0; j < steps.length; j++) {
          for (let i = 0; i < j; i++) {
            if (partOf[i] === partOf[j] || !conflict(writer, i, j)) continue
            t.true(after(partOf[i]!, partOf[j]!), `instruction ${i} before ${j}`)
          }
        }
      }),
      { numRuns: 150 },
    )
  })

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
    const { parts, start, finish } = await scheduleOf(writer)
    t.deepEqual(parts, [
      { begin: 0, end: 1, collective: false, wait: -1, record: 0 },
      { begin: 1, end: 2, collective: false, wait: -1, record: -1 },
      { begin: 2, end: 3, collective: true, wait: 0, record: 1 },
      { begin: 3, end: 5, collective: false, wait: -1, record: -1 },
      { begin: 5, end: 6, collective: false, wait: 1, record: -1 },
    ])
    t.deepEqual([start, finish], [-1, -1])
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
        const { ioRead, ioWritten } = await nativeSchedule(writer)
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
}
