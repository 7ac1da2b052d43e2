// A worker behind comlink, for the benchmark of the actor runtime.
import { createRequire } from 'node:module'
import { parentPort, workerData } from 'node:worker_threads'
import type { Sample } from './actors-cast.js'

/** What of comlink the benchmark uses. */
export interface Comlink {
  expose(object: object, endpoint: unknown): void
  wrap<T>(endpoint: unknown): T
}

const { comlink, adapter } = workerData as { comlink: string; adapter: string }
const load = createRequire(import.meta.url)
let sum = 0
const { expose } = load(comlink) as Comlink
const adapt = load(adapter) as ((endpoint: unknown) => unknown) & { default?: (endpoint: unknown) => unknown }
expose(
  {
    sample(message: Sample): void {
      sum += message.a
    },
    echo: () => sum,
  },
  (adapt.default ?? adapt)(parentPort),
)
