// Every collective among ranks in workers of their own, against sums and copies written out here. Ranks write and read f32: casts in the
// program lead to 16 bits and back.
import type { Backend } from '../../kernels/ops/backend.js'
import { dtypeNumbers } from '../../kernels/ops/elementwise.js'
import { rounding } from '../../kernels/reference/storage.js'
import { createGroup, type DeviceName } from '../../native/index.js'
import { noise, ProgramWriter, startRank } from './support.js'

export const floats = ['f32', 'bf16', 'f16'] as const
type Float = (typeof floats)[number]

/** x0 + x1 + ..., rounded to `dtype` after each addition. */
const sum = (sources: readonly Float32Array[], dtype: Float): Float32Array =>
  sources.slice(1).reduce((total, x) => total.map((value, i) => rounding(dtype)(value + x[i]!)), sources[0]!)

interface Case {
  readonly op: string
  /** Tensor written before the run, and the numbers of each rank. */
  readonly given: readonly { readonly tensor: number; readonly values: readonly Float32Array[] }[]
  readonly result: number
  readonly expected: (rank: number) => Float32Array
}

function cases(writer: ProgramWriter, slice: number, dtype: Float): Case[] {
  const { ranks } = writer
  const all = Array.from({ length: ranks }, (_, rank) => rank)
  const numbers = (count: number, seed: number, as = dtype): Float32Array[] =>
    all.map((rank) => noise(count, seed + rank).map(rounding(as)))
  const part = (x: Float32Array, rank: number): Float32Array => x.subarray(rank * slice, (rank + 1) * slice)
  const join = (parts: readonly Float32Array[]): Float32Array => Float32Array.from(parts.flatMap((x) => [...x]))
  const tensor = (count: number, as = dtype): number => writer.tensor([count], as)
  const cast = (from: number, to: number): void => {
    writer.add('cast', [from], [to], { dtype: dtypeNumbers.indexOf(writer.tensors[to]!.dtype) })
  }
  const length = slice * ranks
  const x = numbers(length, 1)
  const base = numbers(slice, 50)
  const wholeBase = numbers(length, 70)
  const shards = numbers(slice, 90)
  const replaced = (whole: Float32Array, rank: number, by: Float32Array): Float32Array => {
    const copy = whole.slice()
    copy.set(by, rank * slice)
    return copy
  }
  const reduced = (rank: number, base: readonly Float32Array[] = [], as = dtype): Float32Array =>
    sum([...base, ...x.map((source) => part(source, rank))], as)
  const total = (): Float32Array => sum(x, 'f32').map(rounding(dtype))

  const list: Case[] = []
  const written = new Map<number, number>()
  /** An operand with those values: written as it is, or in f32 before a cast. */
  const given = (values: readonly Float32Array[], as = dtype): Case['given'][number] => {
    const operand = { tensor: tensor(values[0]!.length, as), values }
    if (as === 'f32') return operand
    const source = tensor(values[0]!.length, 'f32')
    written.set(operand.tensor, source)
    cast(source, operand.tensor)
    return operand
  }
  const record = (
    op: string,
    inputs: number[],
    output: number,
    more: object,
    sources: Case['given'],
    expected: Case['expected'],
  ): void => {
    writer.add(op, inputs, [output], { ranks, ...more })
    const { dtype: as, shape } = writer.tensors[output]!
    const result = as === 'f32' ? output : tensor(shape[0]!, 'f32')
    if (result !== output) cast(output, result)
    const given = sources.map(({ tensor, values }) => ({ tensor: written.get(tensor) ?? tensor, values }))
    list.push({ op, given, result, expected })
  }
  {
    const a = given(x)
    record('reduce_scatter', [a.tensor], tensor(slice), { whole: 0 }, [a], (rank) => reduced(rank))
  }
  {
    const [a, b] = [given(x), given(base)]
    const expected = (rank: number): Float32Array => reduced(rank, [base[rank]!])
    record('reduce_scatter', [a.tensor, b.tensor], tensor(slice), { whole: 0 }, [a, b], expected)
  }
  {
    const [a, b] = [given(x), given(base)]
    const expected = (rank: number): Float32Array => reduced(rank, [base[rank]!])
    record('reduce_scatter', [a.tensor, b.tensor], b.tensor, { whole: 0 }, [a, b], expected)
  }
  {
    const a = given(x)
    record('reduce_scatter', [a.tensor], a.tensor, { whole: 1 }, [a], (rank) => replaced(x[rank]!, rank, reduced(rank)))
  }
  {
    const [a, b] = [given(x), given(wholeBase)]
    const expected = (rank: number): Float32Array =>
      replaced(wholeBase[rank]!, rank, reduced(rank, [part(wholeBase[rank]!, rank)]))
    record('reduce_scatter', [a.tensor, b.tensor], b.tensor, { whole: 1 }, [a, b], expected)
  }
  if (dtype !== 'f32') {
    const accumulator = numbers(slice, 110, 'f32')
    const wholeAccumulator = numbers(length, 130, 'f32')
    const wide = (rank: number): Float32Array => reduced(rank, [accumulator[rank]!], 'f32')
    const attributes = { whole: 0, wide: 1 }
    const [a, b, c] = [given(x), given(accumulator, 'f32'), given(accumulator, 'f32')]
    record('reduce_scatter', [a.tensor, b.tensor], b.tensor, attributes, [a, b], wide)
    record('reduce_scatter', [a.tensor, c.tensor], tensor(slice, 'f32'), attributes, [a, c], wide)
    record('reduce_scatter', [a.tensor], tensor(slice, 'f32'), attributes, [a], (rank) => reduced(rank, [], 'f32'))
    const d = given(wholeAccumulator, 'f32')
    record('reduce_scatter', [a.tensor, d.tensor], d.tensor, { whole: 1, wide: 1 }, [a, d], (rank) => {
      const own = wholeAccumulator[rank]!
      return replaced(own, rank, reduced(rank, [part(own, rank)], 'f32'))
    })
  }
  {
    const a = given(shards)
    record('all_gather', [a.tensor], tensor(length), { whole: 0 }, [a], () => join(shards))
  }
  {
    const a = given(x)
    record('all_gather', [a.tensor], a.tensor, { whole: 1 }, [a], () => join(x.map(part)))
  }
  {
    const a = given(x)
    record('all_reduce', [a.tensor], tensor(length), {}, [a], total)
  }
  {
    const a = given(x)
    record('all_reduce', [a.tensor], a.tensor, {}, [a], total)
  }
  {
    const a = given(x)
    const root = ranks - 1
    record('broadcast', [a.tensor], tensor(length), { root }, [a], () => x[root]!)
  }
  {
    const a = given(x)
    record('all_to_all', [a.tensor], tensor(length), {}, [a], (rank) => join(x.map((source) => part(source, rank))))
  }
  return list
}

/** What went wrong with the collectives of that many ranks, in place too: nothing where each gives its bits. `backend`: whose kernels run. */
export async function wrongCollectives(
  device: DeviceName,
  ranks: number,
  dtype: Float,
  backend?: Backend,
): Promise<string[]> {
  const writer = new ProgramWriter(ranks, [], backend)
  const list = [1, 7, 1000, ranks === 2 ? 70001 : 513].flatMap((slice) => cases(writer, slice, dtype))
  writer.add('barrier', [], [], { ranks })
  const program = writer.encode()
  const group = createGroup({ device, ranks, arenas: writer.arenas })
  const outcomes = await Promise.all(
    Array.from({ length: ranks }, (_, rank) => {
      const writes = list.flatMap(({ given }) =>
        given.map(({ tensor, values }) => ({ ...writer.tensors[tensor]!, data: values[rank]! })),
      )
      const reads = list.map(({ result }) => writer.tensors[result]!)
      const { token } = group
      return startRank({ token, rank, threads: 1 + (rank % 2), program, writes, reads, options: {}, times: 1 }).outcome
    }),
  )
  await group.close()
  return outcomes.flatMap((outcome, rank) => {
    if ('error' in outcome) return [outcome.error.message]
    return list.flatMap(({ op, expected }, i) => {
      const want = Buffer.from(expected(rank).slice().buffer)
      const got = Buffer.from(outcome.values[i]!.slice().buffer)
      return want.equals(got) ? [] : [`case ${i} (${op}) on rank ${rank}`]
    })
  })
}
