// Counts the words of all text files below a folder on two worker threads: `node dist/examples/word-count.js [folder]`.
// A router gives each file to the worker with the least to do; the counts of a file come back as the reply of an ask.
import { readdir, readFile } from 'node:fs/promises'
import { extname, join, resolve } from 'node:path'
import { isMainThread } from 'node:worker_threads'
import { ActorSystem, defineActor, spawnRouter } from '../transports/index.js'

const textual = new Set(['.md', '.txt', '.ts', '.json', '.h', '.cpp'])
const skipped = new Set(['node_modules', 'dist', 'build'])

export const counter = defineActor(import.meta.url, 'counter', {
  init: () => ({ files: 0 }),
  receive: {
    async count(state, message: { path: string }): Promise<Map<string, number>> {
      const counts = new Map<string, number>()
      const text = await readFile(message.path, 'utf8')
      for (const [word] of text.toLowerCase().matchAll(/\p{Letter}+/gu)) counts.set(word, (counts.get(word) ?? 0) + 1)
      state.files++
      return counts
    },
    files: (state) => state.files,
  },
})

async function* filesBelow(folder: string): AsyncGenerator<string> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.name.startsWith('.') || skipped.has(entry.name)) continue
    const path = join(folder, entry.name)
    if (entry.isDirectory()) yield* filesBelow(path)
    else if (textual.has(extname(entry.name))) yield path
  }
}

async function main(folder: string): Promise<void> {
  await using system = await ActorSystem.start({ workers: 2 })
  const counters = await spawnRouter(system, counter, undefined, {
    size: 4,
    name: 'counter',
    routing: { strategy: 'least-loaded' },
  })
  const total = new Map<string, number>()
  const asks: Promise<void>[] = []
  for await (const path of filesBelow(folder)) {
    asks.push(
      counters.ask({ type: 'count', path }).then((counts) => {
        for (const [word, count] of counts) total.set(word, (total.get(word) ?? 0) + count)
      }),
    )
  }
  await Promise.all(asks)

  const words = [...total.values()].reduce((sum, count) => sum + count, 0)
  console.log(`${asks.length} files, ${words} words, ${total.size} different`)
  const first = [...total].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1)).slice(0, 10)
  for (const [word, count] of first) console.log(`${String(count).padStart(8)}  ${word}`)
  for (const { path, worker, activity } of (await system.inspect()).actors) {
    console.log(`${path} on worker ${worker} read ${activity?.handlers.count} files`)
  }
}

if (isMainThread) await main(resolve(process.argv[2] ?? '.'))
