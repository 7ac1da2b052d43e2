// What goes wrong with a run as a whole.

export type EngineErrorCode =
  /** An option or a call that does not fit. */
  | 'ENGINE_USAGE'
  /** A loss or norm that is not finite; parameters are as before the step. */
  | 'ENGINE_NOT_FINITE'
  /** A rank failed and no restart was left. */
  | 'ENGINE_RANK_FAILED'
  /** The plan does not fit into the machine. */
  | 'ENGINE_MEMORY'

export class EngineError extends Error {
  override readonly name = 'EngineError'
  constructor(
    readonly code: EngineErrorCode,
    message: string,
    readonly details: Readonly<Record<string, unknown>> = {},
    options?: ErrorOptions,
  ) {
    super(message, options)
  }
}
