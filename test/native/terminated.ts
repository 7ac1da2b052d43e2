// A process of its own: workers that are terminated in the middle of calls of the addon, again and again. Says `survived` at its end.
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { createGroup, type GroupToken, openRank } from '../../native/index.js'
import { noise, ProgramWriter } from './support.js'

const writer = new ProgramWriter(1)
const x = writer.tensor([4])
writer.add('scale', [x], [x], { factor: 0.5 })

async function callWithoutEnd(token: GroupToken): Promise<void> {
  const device = openRank(token, { rank: 0, threads: 1 })
  device.allocate('activations')
  const program = device.load(writer.encode())
  parentPort!.postMessage('calling')
  const scalars = new Float64Array(0)
  for (;;) await Promise.all(Array.from({ length: 20 }, () => device.run(program, scalars)))
}

async function terminate(after: number): Promise<void> {
  const group = createGroup({ device: 'cpu', ranks: 1, arenas: writer.arenas })
  const worker = new Worker(new URL(import.meta.url), { workerData: group.token })
  await new Promise((resolve) => worker.once('message', resolve))
  await sleep(after)
  await worker.terminate()
  await group.close()
}

if (isMainThread) {
  for (const moment of noise(100, 3)) await terminate(5 * Math.abs(moment))
  process.stdout.write('survived\n')
} else await callWithoutEnd(workerData as GroupToken)
