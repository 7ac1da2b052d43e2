// The one error of this folder: an optimizer, parameter group or schedule that does not fit what it is applied to.

export type OptimErrorCode = 'OPTIM_GROUP' | 'OPTIM_SCHEDULE' | 'OPTIM_LOSS_SCALE'

export interface OptimErrorDetails {
  readonly key: string
  readonly expected: string
  readonly got: string
}

export class OptimError extends Error {
  override readonly name = 'OptimError'
  constructor(
    readonly code: OptimErrorCode,
    operation: string,
    readonly details: OptimErrorDetails,
    options?: ErrorOptions,
  ) {
    super(`${operation}: ${details.key}, expected ${details.expected}, got ${details.got}`, options)
  }
}
