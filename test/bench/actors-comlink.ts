// A worker behind comlink, for the benchmark of the actor runtime.
import { isMainThread, type MessagePort, parentPort, type Worker, workerData } from 'node:worker_threads'
import { type Endpoint, expose } from 'comlink'
import nodeAdapter from 'comlink/dist/umd/node-adapter.js'
import type { Sample } from './actors-cast.js'

/** The endpoint of a thread as comlink wants it. */
export const endpointOf = nodeAdapter as unknown as (of: Worker | MessagePort) => Endpoint

export interface ComlinkWorker {
  sample(message: Sample): void
  echo(): number
}

if (!isMainThread && (workerData as { peer?: string } | null)?.peer === 'comlink') {
  let sum = 0
  const worker: ComlinkWorker = {
    sample(message) {
      sum += message.a
    },
    echo: () => sum,
  }
  expose(worker, endpointOf(parentPort!))
}
