// What a step depends on of the steps before it, where some may have been skipped: decided on the device, so that nobody waits to know.
// `state` is f64[8], the same on every rank: [0] loss scale; [1] steps seen, skipped ones included; [2] which of them overflowed last,
// -1: none; [3] overflows left until the scale halves; [4] updates made; [5] 1 after a step that nothing may follow; [6], [7] spare.
// `control` is that of optimizer.ts. Its last number says which of the candidates among its run-time scalars an update takes.
import { expectType, type OpDefinition, required, streamCost, type TensorType } from './definition.js'

/** The type of `state`. */
export const stepState: TensorType = { shape: [8], dtype: 'f64' }

const stateOf = (op: string, inputs: readonly (TensorType | null)[], index: number): TensorType => {
  const state = required(op, inputs, index, 'state')
  expectType(op, 'state', state, stepState)
  return state
}

/** y[1] = factor * loss scale, rounded from float64. */
export const lossScale: OpDefinition = {
  name: 'loss_scale',
  opcode: 104,
  inputs: ['state'],
  outputs: ['y'],
  attributes: { factor: 'float' },
  scalars: [],
  infer: (inputs) => {
    stateOf('loss_scale', inputs, 0)
    return [{ shape: [1], dtype: 'f32' }]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs),
}

/**
 * Decides on the update at a step's end. `taken` is a number of updates that had been made when the step was asked for; `follows` is 1
 * where the step before it was still under way then. In this order:
 * - candidate = updates made - taken, 0 or 1: how many more there were since. The result's [3].
 * - A step that `follows` one after which nothing may follow updates nothing and leaves the state as it is. So does, and sets [5], a
 *   step with another candidate, one that is not finite where such steps are not skipped (`skips` 0), and an overflow at the least scale
 *   (`least`) that would halve a `dynamic` scale. Such a step can be repeated as it was.
 * - Else [5] is 0, steps seen grow by 1 and, where the step is finite, updates made. The scale moves as DeepSpeed's: an overflow
 *   halves it (not below `least`) where one is left until then or `hysteresis` is 1, else one fewer is left; every `window` good steps
 *   after the first that follows an overflow double it (not above `most`) and bring back all of `hysteresis`, which with `consecutive`
 *   every good step does.
 * The result's [2] is 1 where the step is to update. All numbers are exact.
 */
export const stepControl: OpDefinition = {
  name: 'step_control',
  opcode: 105,
  inputs: ['control', 'state'],
  outputs: ['control', 'state'],
  attributes: {
    skips: 'int',
    dynamic: 'int',
    window: 'int',
    hysteresis: 'int',
    consecutive: 'int',
    least: 'float',
    most: 'float',
  },
  scalars: ['taken', 'follows'],
  effect: true,
  aliases: [[1, 1]],
  infer: (inputs) => {
    const control = required('step_control', inputs, 0, 'control')
    expectType('step_control', 'control', control, { shape: [4], dtype: 'f64' })
    return [control, stateOf('step_control', inputs, 1)]
  },
  cost: (inputs, outputs) => streamCost(inputs, outputs, 0),
}

export const steps = [lossScale, stepControl]
