// The state that steps hand on, as kernels/ops/step.ts says.
import { int } from '../ops/definition.js'
import type { ReferenceKernel } from './kernel.js'
import { store } from './storage.js'

const lossScale: ReferenceKernel = ({ inputs, outputs, attributes }) =>
  store(outputs[0], [(attributes.factor as number) * inputs[0]!.data[0]!])

const stepControl: ReferenceKernel = ({ inputs, outputs, attributes, scalars }) => {
  const state = outputs[1]!.data
  const [norm, factor, finite] = inputs[0]!.data as unknown as [number, number, number]
  const [taken, follows] = scalars as [number, number]
  let [scale, seen, overflowed, left, made, stopped] = state as unknown as [
    number,
    number,
    number,
    number,
    number,
    number,
  ]
  const dynamic = int(attributes, 'dynamic') === 1
  const hysteresis = int(attributes, 'hysteresis')
  const least = attributes.least as number
  const candidate = made - taken
  const halves = finite === 0 && dynamic && (hysteresis === 1 || left === 1)
  const refused = finite === 0 && (int(attributes, 'skips') === 0 || (halves && scale === least))
  const updates = (verdict: number): void => outputs[0]!.data.set([norm, factor, verdict, candidate])

  if (follows === 1 && stopped === 1) {
    updates(0)
    return
  }
  if (refused || (candidate !== 0 && candidate !== 1)) {
    state[5] = 1
    updates(0)
    return
  }
  if (finite === 0) {
    if (halves) scale = Math.max(scale / 2, least)
    else if (dynamic) left -= 1
    overflowed = seen
  } else {
    made += 1
    if (dynamic) {
      const consecutive = int(attributes, 'consecutive') === 1
      const stable = seen - overflowed - 1
      const grows = stable > 0 && stable % int(attributes, 'window') === 0
      if (grows) scale = Math.min(2 * scale, attributes.most as number)
      if (grows || consecutive) left = hysteresis
    }
  }
  stopped = 0
  state.set([scale, seen + 1, overflowed, left, made, stopped])
  updates(finite)
}

export const steps: Readonly<Record<string, ReferenceKernel>> = { loss_scale: lossScale, step_control: stepControl }
