// Actors alone, without a model: words of a text counted by actors on worker threads, each with its own part, and once more here.
// In your own program import from 'deeptroupe/runtime'.
import { isMainThread } from 'node:worker_threads'
import { ActorSystem, defineActor } from '../transports/index.js'

const wordsOf = (text: string): string[] => text.toLowerCase().match(/[a-z]+/g) ?? []

/** Counts words. It is exported: workers import this module and find it by its name. */
export const wordCounter = defineActor(import.meta.url, 'wordCounter', {
  init: () => ({ counts: new Map<string, number>() }),
  receive: {
    read(state, message: { line: string }) {
      for (const word of wordsOf(message.line)) state.counts.set(word, (state.counts.get(word) ?? 0) + 1)
    },
    counts: (state) => [...state.counts],
  },
})

async function main(): Promise<void> {
  const workers = 3
  const lines = Array.from(
    { length: 20_000 },
    (_, i) => `line ${i} of the play: the troupe ${i % 3 ? 'acts' : 'rests'}, the light ${i % 2 ? 'fades' : 'rises'}`,
  )

  const system = await ActorSystem.start({ workers })
  const counters = await Promise.all(
    Array.from({ length: workers }, (_, worker) => system.spawn(wordCounter, undefined, { worker })),
  )
  for (const [i, line] of lines.entries()) {
    const counter = counters[i % workers]!
    while (!counter.tell({ type: 'read', line })) await counter.ready()
  }
  const parts = await Promise.all(counters.map((counter) => counter.ask({ type: 'counts' })))
  await system.stop()

  const total = parts.flat().reduce((sum, [, count]) => sum + count, 0)
  const alone = lines.reduce((sum, line) => sum + wordsOf(line).length, 0)
  console.log(`${total} words counted by ${workers} actors, ${alone} counted here`)
}

if (isMainThread) await main()
