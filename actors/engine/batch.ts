// Batches that the caller brings, checked and laid out as the ranks read them.
import { orderInputs, orderScratch, type SlotShape, slotArrays } from '../../runtime/data/slot.js'
import { orderName } from '../../runtime/graph/passes/order.js'
import { EngineError } from './errors.js'
import type { Prepared } from './prepare.js'

/** A batch of the caller's own: `train_batch_size` rows of `sequence` tokens, and what follows each. A target of -1 is masked. */
export interface Batch {
  readonly inputs: Int32Array
  readonly targets: Int32Array
}

/** How a run's batches lie in their slots. */
export function slotShape({ compilation, config, sequence }: Prepared): SlotShape {
  const { train: rows, micro } = config.batch
  const ordered = Object.values(compilation.programs).some(({ program }) => orderName in program.bindings)
  return { rows, micro, sequence, ordered }
}

/** Copies a batch into a slot's memory. Throws {@link EngineError} naming what does not fit. */
export function writeBatch(prepared: Prepared, { inputs, targets }: Batch, slot: SharedArrayBuffer): void {
  const { options } = prepared
  const shape = slotShape(prepared)
  const arrays = slotArrays(shape, slot)
  const { length } = arrays.inputs
  expectIds('inputs', inputs, 0)
  expectIds('targets', targets, -1)
  arrays.inputs.set(inputs)
  arrays.targets.set(targets)
  orderInputs(shape, arrays, orderScratch(shape, options.model.vocabSize))

  function expectIds(name: string, ids: Int32Array, least: number): void {
    const fail = (what: string, expected: string, got: string): never => {
      throw new EngineError('ENGINE_USAGE', `trainBatch: ${what}, expected ${expected}, got ${got}`)
    }
    if (ids.length !== length) fail(name, `${shape.rows} rows of ${shape.sequence} ids`, `${ids.length} ids`)
    const bad = ids.findIndex((id) => id < least || id >= options.model.vocabSize)
    if (bad >= 0) fail(`id ${bad} of ${name}`, `${least} to ${options.model.vocabSize - 1}`, `${ids[bad]}`)
  }
}
