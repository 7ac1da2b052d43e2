// Collectives on real worker threads, on every device.
import test from 'ava'
import { createGroup } from '../../native/index.js'
import { floats, wrongCollectives } from './collectives.js'
import { devices, ProgramWriter, type RankOutcome, startRank } from './support.js'

for (const device of devices) {
  for (const [ranks, dtype] of [1, 2, 3, 4].flatMap((ranks) => floats.map((dtype) => [ranks, dtype] as const))) {
    test(`${device}: collectives of ${ranks} ranks in ${dtype}, in place too, are sums and copies in rank order`, async (t) => {
      t.deepEqual(await wrongCollectives(device, ranks, dtype), [])
    })
  }

  test(`${device}: sums in float64 keep their bits`, async (t) => {
    const writer = new ProgramWriter(2)
    const [x, y] = [writer.tensor([3], 'f64'), writer.tensor([3], 'f64')]
    const program = writer.add('all_reduce', [x], [y], { ranks: 2 }).encode()
    const group = createGroup({ device, ranks: 2, arenas: writer.arenas })
    const given = [Float64Array.of(1, 0.1, 1e300), Float64Array.of(2 ** -52, 0.2, 1e300)]
    const outcomes = await Promise.all(
      given.map((data, rank) => {
        const writes = [{ ...writer.tensors[x]!, data }]
        const reads = [writer.tensors[y]!]
        return startRank({ token: group.token, rank, threads: 1, program, writes, reads, options: {}, times: 1 })
          .outcome
      }),
    )
    await group.close()
    for (const outcome of outcomes) {
      t.deepEqual('values' in outcome && [...outcome.values[0]!], [1 + 2 ** -52, 0.1 + 0.2, 2e300])
    }
  })

  test(`${device}: ranks that disagree end with one error that says which rank does what`, async (t) => {
    const writers = [40, 48].map((count) => {
      const writer = new ProgramWriter(2)
      const x = writer.tensor([64])
      const part = { ...writer.tensors[x]!, shape: [count] }
      return { writer, part: writer.tensors.push(part) - 1 }
    })
    const arenas = writers[0]!.writer.arenas
    const group = createGroup({ device, ranks: 2, arenas })
    const outcomes: RankOutcome[] = await Promise.all(
      writers.map(({ writer, part }, rank) => {
        const program = writer.add('all_reduce', [part], [part], { ranks: 2 }).encode()
        return startRank({
          token: group.token,
          rank,
          threads: 1,
          program,
          writes: [],
          reads: [],
          options: {},
          times: 1,
        }).outcome
      }),
    )
    await group.close()
    for (const outcome of outcomes) {
      if (!('error' in outcome)) return t.fail('expected an error')
      t.is(outcome.error.code, 'aborted')
      t.regex(outcome.error.message, /rank 0: all_reduce of 40.*rank 1: all_reduce of 48/)
    }
  })
}
