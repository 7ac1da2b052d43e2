// One rank in a worker thread: opens, writes, runs, reads, closes, and posts what came of it.
import { parentPort, workerData } from 'node:worker_threads'
import { arenaNames } from '../../kernels/abi/program.js'
import { elements } from '../../kernels/ops/definition.js'
import { openRank, RunError, type RunReport } from '../../native/index.js'
import type { RankJob } from './support.js'

const job = workerData as RankJob
const device = openRank(job.token, { rank: job.rank, threads: job.threads })
const { kept } = device
if (kept === null) for (const arena of arenaNames) if (arena !== 'io') device.allocate(arena)
for (const { arena, byteOffset, data } of job.writes) device.write(arena, byteOffset, data)
const program = device.load(job.program)
try {
  let report: RunReport = {}
  for (let i = 0; i < job.times; i++) {
    const run = device.run(program, new Float64Array(0), job.options)
    if (i === 0) parentPort!.postMessage('running')
    report = await run
  }
  const values = job.reads.map(({ arena, byteOffset, dtype, shape }) => {
    const target = dtype === 'f64' ? new Float64Array(elements(shape)) : new Float32Array(elements(shape))
    device.read(arena, byteOffset, target)
    return target
  })
  await device.close(job.kept)
  parentPort!.postMessage({ report, values, kept })
} catch (error) {
  if (!(error instanceof RunError)) throw error
  await device.close(job.kept)
  parentPort!.postMessage({ error: { code: error.code, message: error.message, instruction: error.instruction } })
}
