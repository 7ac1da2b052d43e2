// `npm run bench -- [--only NAME,...] [--json FILE] [--python PATH] [--profile]`: our speed against peers in one run. A row claims a ratio; what
// a peer's absence leaves open is said in the row. One JSON object for each row goes to FILE, or to stdout before the table.
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command, InvalidArgumentError } from 'commander'
import { machine } from '../../native/index.js'
import { actorRows } from './actors.js'
import { adamRows, attentionRows } from './kernels.js'
import { buildProductPeers, findPyTorch, type PyTorch } from './peers.js'
import { productRows } from './products.js'
import { bestPeer, type Row, ratio, tableOf } from './row.js'
import { trainingRows } from './training.js'

interface Setting {
  readonly torch: PyTorch
  /** For data, configurations and compiled peers; removed at the end. */
  readonly folder: string
  readonly profile: boolean
}

const benches: Readonly<Record<string, (setting: Setting) => AsyncGenerator<Row>>> = {
  actors: () => actorRows(),
  char: (setting) => trainingRows('char', setting),
  gpt2: (setting) => trainingRows('gpt2', setting),
  mini: async function* (setting) {
    yield* trainingRows('mini', setting)
    yield* trainingRows('mini-ranks', setting)
  },
  products: ({ folder }) => {
    const { peers, missing } = buildProductPeers(folder)
    return productRows(peers, missing)
  },
  adam: ({ torch }) => adamRows(torch),
  attention: ({ torch }) => attentionRows(torch),
}

function names(text: string): string[] {
  const chosen = text.split(',')
  const unknown = chosen.find((name) => !(name in benches))
  if (unknown === undefined) return chosen
  throw new InvalidArgumentError(`Expected some of ${Object.keys(benches).join(', ')}, got ${unknown}.`)
}

const program = new Command('bench')
  .description('Our speed against peers in one run')
  .option('--only <names>', `rows to measure (${Object.keys(benches).join(',')})`, names, Object.keys(benches))
  .option('--json <file>', 'write one JSON object for each row there')
  .option('--profile', 'explain each training row by instruction, against what the machine reaches')
  .option('--python <path>', 'a Python that imports torch (DEEPTROUPE_PYTHON, else python3)')
  .parse()
const options = program.opts<{ only: string[]; json?: string; python?: string; profile?: boolean }>()

const { best, reason } = machine()
if (!best) {
  process.stderr.write(`bench: ${reason}\n`)
  process.exit(1)
}
const folder = mkdtempSync(join(tmpdir(), 'deeptroupe-bench-'))
const write = (text: string): void => {
  if (options.json) appendFileSync(options.json, text)
  else process.stdout.write(text)
}
const rows: Row[] = []
try {
  if (options.json) writeFileSync(options.json, '')
  write(
    `${JSON.stringify({ machine: cpus()[0]?.model, cores: availableParallelism(), isa: best, node: process.version })}\n`,
  )
  const setting: Setting = { torch: findPyTorch(options.python), folder, profile: options.profile ?? false }
  for (const name of options.only) {
    for await (const row of benches[name]!(setting)) {
      rows.push(row)
      write(`${JSON.stringify({ ...row, best_peer: bestPeer(row)?.[0] ?? null, ratio: ratio(row) })}\n`)
    }
  }
  process.stdout.write(`\n${tableOf(rows)}`)
  for (const { row, page } of rows) if (page) process.stdout.write(`\n${row}, three steps of all ranks:\n${page}`)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
