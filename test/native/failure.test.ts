// Ranks that fail, are aborted or lose their worker while others wait for them: every wait ends, nothing crashes, nothing leaks.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { abortGroup, addon, createGroup, groupProgress, openRank, RunError, renewGroup } from '../../native/index.js'
import { devices, noise, ProgramWriter, startRank } from './support.js'

const none = new Float64Array(0)

/** A program that works and meets its peers, over and over. */
function busyProgram(ranks: number, rounds: number): ProgramWriter {
  const writer = new ProgramWriter(ranks)
  const [x, y] = [writer.tensor([5000]), writer.tensor([5000])]
  for (let i = 0; i < rounds; i++) {
    writer.add('scale', [x], [y], { factor: 0.5 })
    writer.add('all_reduce', [y], [x], { ranks })
  }
  return writer
}

for (const device of devices) {
  test(`${device}: an abort wakes a rank that waits for one that never comes`, async (t) => {
    const writer = busyProgram(2, 1)
    const group = createGroup({ device, ranks: 2, arenas: writer.arenas })
    const job = { threads: 2, program: writer.encode(), writes: [], reads: [], options: {}, times: 1 }
    const waiting = startRank({ ...job, token: group.token, rank: 0 })
    await waiting.running
    await new Promise((resolve) => setTimeout(resolve, 50))
    abortGroup(group.token, 'the test wants it so')
    group.abort('a second reason, which is not kept')
    t.deepEqual(await waiting.outcome, {
      error: { code: 'aborted', message: 'the test wants it so', instruction: 1 },
    })
    await group.close()
    t.is(group.memory(0).activations.live, 0)
  })

  test(`${device}: a rank that fails ends its peers with its own message`, async (t) => {
    const ranks = 3
    const writer = new ProgramWriter(ranks)
    const table = writer.tensor([4, 2])
    const index = writer.tensor([1], 'i32')
    const rows = writer.tensor([1, 2])
    writer.add('embedding', [table, index], [rows]).add('all_reduce', [rows], [rows], { ranks })
    const group = createGroup({ device, ranks, arenas: writer.arenas })
    const outcomes = await Promise.all(
      [0, 1, 2].map((rank) => {
        const wrong = new Float32Array(Int32Array.of(rank === 1 ? 77 : 0).buffer)
        const writes = [{ ...writer.tensors[index]!, data: wrong }]
        const job = {
          token: group.token,
          rank,
          threads: 1,
          program: writer.encode(),
          writes,
          reads: [],
          options: {},
          times: 1,
        }
        return startRank(job).outcome
      }),
    )
    await group.close()
    const errors = outcomes.map((outcome) => ('error' in outcome ? outcome.error : t.fail('expected an error')))
    t.deepEqual(
      errors.map((error) => error?.code),
      ['aborted', 'kernel', 'aborted'],
    )
    for (const error of errors) t.regex(error ? error.message : '', /77/)
    t.regex(errors[0] ? errors[0].message : '', /^rank 1: /)
  })

  test(`${device}: a renewed group meets anew, with the memory of ranks that kept theirs`, async (t) => {
    const writer = new ProgramWriter(2)
    const [x, y] = [writer.tensor([3]), writer.tensor([3])]
    writer.add('all_reduce', [x], [y], { ranks: 2 })
    const group = createGroup({ device, ranks: 2, arenas: writer.arenas })
    const { token } = group
    const round = (rank: number, value: number | null, kept?: number) =>
      startRank({
        ...{ token, rank, threads: 1, program: writer.encode(), options: {}, times: 1, reads: [writer.tensors[y]!] },
        writes: value === null ? [] : [{ ...writer.tensors[x]!, data: new Float32Array(3).fill(value) }],
        ...(kept !== undefined && { kept }),
      })
    const sums = async (...ranks: ReturnType<typeof round>[]) =>
      (await Promise.all(ranks.map(({ outcome }) => outcome))).map((outcome) =>
        'error' in outcome ? outcome.error : { kept: outcome.kept, sum: [...outcome.values[0]!] },
      )

    const alone = round(0, 2, 7)
    await alone.running
    while (!groupProgress(token)[0]!.meeting) await new Promise((resolve) => setTimeout(resolve, 1))
    if (device === 'cpu') await t.throwsAsync(renewGroup(token, 20), { code: 'DEVICE_USAGE', message: /rank 0.*open/ })
    group.abort('nobody comes')
    t.like((await sums(alone))[0], { code: 'aborted', message: 'nobody comes' })
    await renewGroup(token, 1000)

    t.deepEqual(await sums(round(0, null, 0), round(1, 5)), [
      { kept: 7, sum: [7, 7, 7] },
      { kept: null, sum: [7, 7, 7] },
    ])
    t.deepEqual(groupProgress(token), Array(2).fill({ instructions: 1, meeting: false }))
    await renewGroup(token, 1000)
    t.deepEqual(groupProgress(token), Array(2).fill({ instructions: 0, meeting: false }))
    t.is(group.memory(0).activations.live, writer.arenas.activations)
    t.is(group.memory(1).activations.live, 0)

    t.deepEqual(await sums(round(0, null), round(1, null)), [
      { kept: 0, sum: [2, 2, 2] },
      { kept: null, sum: [2, 2, 2] },
    ])
    await renewGroup(token, 1000)
    t.is(group.memory(0).activations.live, 0)
    await group.close()
  })

  test(`${device}: closing a group ends ranks that are still open`, async (t) => {
    const writer = busyProgram(2, 1)
    const group = createGroup({ device, ranks: 2, arenas: writer.arenas })
    const job = { threads: 1, program: writer.encode(), writes: [], reads: [], options: {}, times: 1 }
    const waiting = startRank({ ...job, token: group.token, rank: 1 })
    await waiting.running
    await group.close()
    const outcome = await waiting.outcome
    t.is('error' in outcome && outcome.error.code, 'aborted')
  })
}

if (addon().addon) {
  test('cpu: workers terminated at any moment of a run end their group and nothing else', async (t) => {
    const writer = busyProgram(2, 200)
    const program = writer.encode()
    const moments = noise(100, 7)
    const once = async (moment: number): Promise<void> => {
      const group = createGroup({ device: 'cpu', ranks: 2, arenas: writer.arenas })
      const survivor = openRank(group.token, { rank: 0, threads: 2 })
      survivor.allocate('activations')
      const handle = survivor.load(program)
      const job = { threads: 2, program, writes: [], reads: [], options: {}, times: 1_000_000 }
      const victim = startRank({ ...job, token: group.token, rank: 1 })
      const forever = (async () => {
        for (;;) await survivor.run(handle, none)
      })()
      const ended = t.throwsAsync(forever, { instanceOf: RunError, message: 'rank 1: its worker ended' })
      await victim.running
      await new Promise((resolve) => setTimeout(resolve, Math.abs(moment) * 12))
      await victim.worker.terminate()
      await ended
      await survivor.close()
      await group.close()
      t.deepEqual(group.memory(1).activations, { live: 0, peak: writer.arenas.activations })
    }
    for (let i = 0; i < moments.length; i += 4) await Promise.all([...moments.subarray(i, i + 4)].map(once))
  })

  const child = (name: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } =>
    spawnSync(process.execPath, [fileURLToPath(new URL(name, import.meta.url)), ...args], {
      encoding: 'utf8',
      timeout: 60_000,
    })
  const leaving = (...args: string[]) => child('./leaving.js', ...args)

  test('cpu: workers terminated in the middle of calls make no promise out of nothing', (t) => {
    const { status, stdout, stderr } = child('./terminated.js')
    t.is(stderr, '')
    t.is(stdout, 'survived\n')
    t.is(status, 0)
  })

  test('cpu: a process that leaves in the middle of runs ends at once and cleanly', (t) => {
    const { status, stderr } = leaving('exit')
    t.is(stderr, '')
    t.is(status, 7)
  })

  test('cpu: a pending run keeps the process alive, an idle rank does not', (t) => {
    const { status, stdout } = leaving()
    t.is(stdout, 'ran\n')
    t.is(status, 0)
  })
}
