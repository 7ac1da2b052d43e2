// Loss scaling for fp16 as a pure state machine: DeepSpeed's dynamic scaler, and a scale that stands still. The loss's gradient is
// multiplied by the scale, the update divides by it; a step whose gradients overflow is skipped and may halve the scale.
import { OptimError } from './error.js'

/** Settings of `fp16`, DeepSpeed's words in parentheses. */
export interface LossScaleSpec {
  /** False: the scale stays what it is (`loss_scale` above 0); overflowing steps are skipped all the same. */
  readonly dynamic: boolean
  /** The first scale (2^`initial_scale_power`, or `loss_scale`). */
  readonly initial: number
  /** Good steps before the scale doubles (`loss_scale_window`). */
  readonly window: number
  /** Overflows that are forgiven, the last of which halves the scale. */
  readonly hysteresis: number
  /** Whether every good step brings back the full hysteresis; else only a doubling does. */
  readonly consecutiveHysteresis: boolean
  /** The scale below which nothing is tried (`min_loss_scale`). */
  readonly min: number
}

export interface LossScaleState {
  readonly scale: number
  /** Steps seen, skipped ones included. */
  readonly iteration: number
  /** Iteration of the last overflow; -1: none yet. */
  readonly lastOverflow: number
  /** Overflows left until the scale halves. */
  readonly hysteresis: number
}

/** The scale never grows beyond this: far above any use, far below what f32 holds. */
export const maxLossScale = 2 ** 32

/** The scaler of dtypes that need none. */
export const noLossScale: LossScaleSpec = {
  dynamic: false,
  initial: 1,
  window: 1,
  hysteresis: 1,
  consecutiveHysteresis: false,
  min: 1,
}

export const startLossScale = ({ initial, hysteresis }: LossScaleSpec): LossScaleState => ({
  scale: initial,
  iteration: 0,
  lastOverflow: -1,
  hysteresis,
})

/**
 * The state after a step. Throws {@link OptimError} `OPTIM_LOSS_SCALE` for an overflow at the least scale: what overflows there is
 * no longer the scale's fault.
 */
export function nextLossScale(spec: LossScaleSpec, state: LossScaleState, overflow: boolean): LossScaleState {
  const { iteration } = state
  let { scale, lastOverflow, hysteresis } = state
  if (overflow) {
    if (spec.dynamic) {
      if (spec.hysteresis === 1 || hysteresis === 1) {
        if (scale === spec.min) {
          throw new OptimError('OPTIM_LOSS_SCALE', 'loss scale', {
            key: 'gradients',
            expected: `finite ones at the least scale, ${spec.min}`,
            got: 'an overflow',
          })
        }
        scale = Math.max(scale / 2, spec.min)
      } else hysteresis -= 1
    }
    lastOverflow = iteration
  } else if (spec.dynamic) {
    if (spec.consecutiveHysteresis) hysteresis = spec.hysteresis
    const stable = iteration - lastOverflow - 1
    if (stable > 0 && stable % spec.window === 0) {
      if (!spec.consecutiveHysteresis) hysteresis = spec.hysteresis
      scale = Math.min(2 * scale, maxLossScale)
    }
  }
  return { scale, iteration: iteration + 1, lastOverflow, hysteresis }
}
