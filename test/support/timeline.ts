// How a GPU would work off programs: what the native side lays down, and whether that keeps the order that bytes demand, told by playing
// runs one after another on lanes that know nothing but their waits.
import { type ArenaName, arenaNames, type Program } from '../../kernels/abi/program.js'
import { byteLength } from '../../kernels/ops/definition.js'
import { type ArenaSizes, addon, createGroup } from '../../native/index.js'

export const lanes = ['compute', 'communication', 'download', 'host', 'upload'] as const
export type Lane = (typeof lanes)[number]
/** Numbers of parts by lane; -1: none. */
type ByLane = readonly number[]

export interface Part {
  readonly begin: number
  readonly end: number
  readonly lane: Lane
  readonly afterStart: boolean
  readonly waits: ByLane
}

export interface Schedule {
  readonly parts: readonly Part[]
  readonly answer: number
  readonly answerWaits: ByLane
  readonly tail: readonly number[]
  readonly crossing: { readonly begin: ByLane; readonly parts: readonly ByLane[]; readonly answer: ByLane }
  readonly ioRead: Float64Array
  readonly ioWritten: Float64Array
}

/** A program as far as its order goes. */
export type Listed = Pick<Program, 'ranks' | 'tensors' | 'instructions'> & {
  readonly bytes: Uint8Array
  readonly arenas: ArenaSizes
}

export interface ScheduleOptions {
  /** Whether collectives have a lane of their own; default true. */
  readonly several?: boolean
  /** Arenas in the host's memory. */
  readonly onHost?: readonly ArenaName[]
}

/** What the native side makes of programs that run in turn. */
export async function schedulesOf(programs: readonly Listed[], options: ScheduleOptions = {}): Promise<Schedule[]> {
  const { several = true, onHost = [] } = options
  const sizes = (arena: ArenaName): number => Math.max(...programs.map(({ arenas }) => arenas[arena]))
  const arenas = Object.fromEntries(arenaNames.map((arena) => [arena, sizes(arena)])) as ArenaSizes
  const group = createGroup({ device: 'cpu', ranks: programs[0]!.ranks, arenas })
  const native = addon().addon!
  const { handle } = native.openRank(group.token.id, 0, 1, new Int32Array(0))
  arenaNames.forEach((arena, i) => {
    if (arena !== 'io') native.allocate(handle, i)
  })
  const bits = onHost.reduce((all, arena) => all | (1 << arenaNames.indexOf(arena)), 0)
  const loaded = programs.map(({ bytes }) => native.load(handle, bytes))
  const schedules = native.schedules(handle, loaded, several, bits)
  await native.closeRank(handle, -1)
  await group.close()
  const chunks = (numbers: Float64Array, size: number): number[][] =>
    Array.from({ length: numbers.length / size }, (_, i) => [...numbers.subarray(size * i, size * (i + 1))])
  return schedules.map(({ parts, answer, tail, crossing, ioRead, ioWritten }) => {
    const waits = chunks(crossing, lanes.length)
    return {
      parts: chunks(parts, 4 + lanes.length).map(([begin, end, lane, afterStart, ...rest]) => ({
        begin: begin!,
        end: end!,
        lane: lanes[lane!]!,
        afterStart: afterStart === 1,
        waits: rest,
      })),
      answer: answer[0]!,
      answerWaits: [...answer.subarray(1)],
      tail: [...tail],
      crossing: { begin: waits[0]!, parts: waits.slice(1, -1), answer: waits.at(-1)! },
      ioRead,
      ioWritten,
    }
  })
}

interface Bytes {
  readonly arena: string
  readonly from: number
  readonly to: number
}
interface Use {
  readonly read: readonly Bytes[]
  readonly written: readonly Bytes[]
}
const everywhere: Bytes[] = arenaNames.map((arena) => ({ arena, from: 0, to: Number.MAX_SAFE_INTEGER }))

function useOf({ tensors, instructions }: Listed, i: number): Use {
  const { op, inputs, outputs, workspace } = instructions[i]!
  if (op === 'barrier') return { read: everywhere, written: everywhere }
  const bytes = (index: number): Bytes => {
    const tensor = tensors[index]!
    return { arena: tensor.arena, from: tensor.byteOffset, to: tensor.byteOffset + byteLength(tensor) }
  }
  const there = (list: readonly (number | null)[]) => list.filter((index) => index !== null).map(bytes)
  return { read: there(inputs), written: there([...outputs, workspace]) }
}

/** Whether two uses may not change places: one writes bytes that the other touches. */
function conflict(a: Use, b: Use): boolean {
  const meet = (x: readonly Bytes[], y: readonly Bytes[]): boolean =>
    x.some((p) => y.some((q) => p.arena === q.arena && p.from < q.to && q.from < p.to))
  return meet(a.written, b.read) || meet(a.written, b.written) || meet(a.read, b.written)
}

/**
 * Runs one after another as points in time: when each part is put onto its lane, and when it is done. A point is made after those that it
 * waits for, so that runs which would wait for each other for ever have no timeline: making it throws.
 */
export class Timeline {
  readonly #before: number[][] = []
  readonly #last = new Map<Lane, number>()
  readonly #uses: { readonly at: number; readonly run: number; readonly order: number; readonly use: Use }[] = []

  constructor(runs: readonly { readonly schedule: Schedule; readonly program: Listed }[]) {
    let earlier: {
      readonly put: number[]
      readonly done: number[]
      readonly parts: readonly Part[]
      answered: number
    } | null = null
    for (const [run, { schedule, program }] of runs.entries()) {
      const { parts, answer, crossing } = schedule
      const [put, done]: [number[], number[]] = [[], []]
      let previous = earlier ? earlier.answered : this.#point([])
      /** Puts something onto a lane, and gives when that is and when it is done. */
      const add = (lane: Lane, waits: ByLane, crossings: ByLane, more: readonly number[] = []): [number, number] => {
        const wanted = [
          ...waits
            .filter((part) => part >= 0)
            .map((part) => ({ put: put[part]!, done: done[part]!, of: parts[part]! })),
          ...crossings
            .filter((part) => part >= 0)
            .map((part) => ({ put: earlier!.put[part]!, done: earlier!.done[part]!, of: earlier!.parts[part]! })),
        ]
        const fifo = (earlier?.parts ?? []).flatMap((part, i) => (part.lane === lane ? [earlier!.put[i]!] : []))
        // What concerns the host is put when what it waits for is done.
        const ready = wanted.map((part) => (lane === 'host' || part.of.lane === 'host' ? part.done : part.put))
        const at = this.#point([previous, ...ready, ...fifo, ...(lane === 'host' ? more : [])])
        const last = this.#last.get(lane)
        const end = this.#point([
          at,
          ...wanted.map((part) => part.done),
          ...more,
          ...(last === undefined ? [] : [last]),
        ])
        this.#last.set(lane, end)
        previous = at
        return [at, end]
      }
      const none = lanes.map(() => -1)
      const [, begun] = add('compute', none, earlier ? crossing.begin : none)
      const io = (ranges: Float64Array): Bytes[] =>
        Array.from({ length: ranges.length / 2 }, (_, i) => ({
          arena: 'io',
          from: ranges[2 * i]!,
          to: ranges[2 * i]! + ranges[2 * i + 1]!,
        }))
      this.#uses.push({ at: begun, run, order: -1, use: { read: [], written: io(schedule.ioRead) } })
      const giveAnswer = (): number => {
        const [at, end] = add('compute', schedule.answerWaits, earlier ? crossing.answer : none)
        this.#uses.push({
          at: end,
          run,
          order: program.instructions.length,
          use: { read: io(schedule.ioWritten), written: [] },
        })
        return at
      }
      let answered = -1
      for (const [p, part] of parts.entries()) {
        if (p === answer) answered = giveAnswer()
        const waits = earlier ? crossing.parts[p]! : none
        ;[put[p], done[p]] = add(part.lane, part.waits, waits, part.afterStart ? [begun] : [])
        for (let i = part.begin; i < part.end; i++)
          this.#uses.push({ at: done[p]!, run, order: i, use: useOf(program, i) })
      }
      if (answered < 0) answered = giveAnswer()
      earlier = { put, done, parts, answered }
    }
  }

  #point(before: readonly number[]): number {
    for (const point of before) if (point === undefined) throw new Error('waits for what comes later')
    return this.#before.push([...before]) - 1
  }

  /** Of each point those that come before it. */
  #closure(): Set<number>[] {
    const all: Set<number>[] = []
    for (const before of this.#before) {
      const set = new Set<number>()
      for (const point of before) {
        set.add(point)
        for (const earlier of all[point]!) set.add(earlier)
      }
      all.push(set)
    }
    return all
  }

  /** Pairs of uses that conflict and are not known to keep their order, in words. */
  disorder(): string[] {
    const before = this.#closure()
    const found: string[] = []
    const name = ({ run, order }: { readonly run: number; readonly order: number }) => `run ${run} instruction ${order}`
    const uses = this.#uses.toSorted((x, y) => x.run - y.run || x.order - y.order)
    for (const [j, later] of uses.entries()) {
      for (const earlier of uses.slice(0, j)) {
        if (earlier.at === later.at || !conflict(earlier.use, later.use) || before[later.at]!.has(earlier.at)) continue
        found.push(`${name(earlier)} before ${name(later)}`)
      }
    }
    return found
  }
}
