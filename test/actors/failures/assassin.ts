// An actor that ends the worker thread it lives on, for failures that come between messages.
import type { Engine } from '../../../actors/engine/engine.js'
import { defineActor } from '../../../runtime/actor/definition.js'

export const assassin = defineActor(import.meta.url, 'assassin', {
  init: () => null,
  receive: {
    strike: (): void => process.exit(1),
  },
})

/** Ends a worker; resolves when the system has seen it. */
export async function killWorker(engine: Engine, worker: number): Promise<void> {
  const seen = new Promise<void>((resolve) => {
    engine.system.events$.subscribe((event) => {
      if (event.type === 'worker-exit' && event.worker === worker) resolve()
    })
  })
  const killer = await engine.system.spawn(assassin, undefined, { worker, maxRestarts: 0 })
  killer.tell({ type: 'strike' })
  await seen
}
