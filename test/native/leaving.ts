// A process of its own: two ranks in the middle of runs when it leaves (argument `exit`), or one that has nothing more to do.
import { createGroup, openRank } from '../../native/index.js'
import { ProgramWriter, startRank } from './support.js'

const leaves = process.argv[2] === 'exit'
const ranks = leaves ? 2 : 1
const writer = new ProgramWriter(ranks)
const x = writer.tensor([5000])
for (let i = 0; i < 100; i++) writer.add('all_reduce', [x], [x], { ranks })
const program = writer.encode()
const group = createGroup({ device: 'cpu', ranks, arenas: writer.arenas })
const rank = openRank(group.token, { rank: 0, threads: 2 })
rank.allocate('activations')
const handle = rank.load(program)
if (leaves) {
  const job = { token: group.token, rank: 1, threads: 2, program, writes: [], reads: [], options: {}, times: 1_000_000 }
  const peer = startRank(job)
  for (let i = 0; i < 50; i++) rank.run(handle, new Float64Array(0)).catch(() => undefined)
  await peer.running
  setTimeout(() => process.exit(7), 20)
} else {
  await rank.run(handle, new Float64Array(0))
  console.log('ran')
}
