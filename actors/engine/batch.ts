// Batches that the caller brings, checked and laid out as the ranks read them.
import { EngineError } from './errors.js'
import type { Prepared } from './prepare.js'

/** A batch of the caller's own: `train_batch_size` rows of `sequence` tokens, and what follows each. A target of -1 is masked. */
export interface Batch {
  readonly inputs: Int32Array
  readonly targets: Int32Array
}

/** Copies a batch into a slot's memory: inputs, then targets. Throws {@link EngineError} naming what does not fit. */
export function writeBatch(
  { config, options, sequence }: Prepared,
  { inputs, targets }: Batch,
  slot: SharedArrayBuffer,
): void {
  const length = config.batch.train * sequence
  expectIds('inputs', inputs, 0)
  expectIds('targets', targets, -1)
  const memory = new Int32Array(slot)
  memory.set(inputs, 0)
  memory.set(targets, length)

  function expectIds(name: string, ids: Int32Array, least: number): void {
    const fail = (what: string, expected: string, got: string): never => {
      throw new EngineError('ENGINE_USAGE', `trainBatch: ${what}, expected ${expected}, got ${got}`)
    }
    if (ids.length !== length) fail(name, `${config.batch.train} rows of ${sequence} ids`, `${ids.length} ids`)
    const bad = ids.findIndex((id) => id < least || id >= options.model.vocabSize)
    if (bad >= 0) fail(`id ${bad} of ${name}`, `${least} to ${options.model.vocabSize - 1}`, `${ids[bad]}`)
  }
}
