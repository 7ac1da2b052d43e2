// What goes wrong when a model is built: sizes that do not fit and configuration that it cannot follow.
// Errors of single operations inside a trace are GraphErrors.

export class ModelError extends Error {
  override readonly name = 'ModelError'
  readonly code = 'MODEL'
  constructor(
    message: string,
    readonly details: { readonly key?: string; readonly file?: string } = {},
    options?: ErrorOptions,
  ) {
    super(message, options)
  }
}

/** Throws {@link ModelError} unless `value` is a whole number of at least `least`. */
export function expectCount(model: string, key: string, value: unknown, least = 1): asserts value is number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least) {
    throw new ModelError(
      `${model}: ${key}, expected a whole number of at least ${least}, got ${JSON.stringify(value)}`,
      { key },
    )
  }
}

/** Throws {@link ModelError} unless `value` is a probability below 1. */
export function expectProbability(model: string, key: string, value: unknown): asserts value is number {
  if (typeof value !== 'number' || !(value >= 0 && value < 1)) {
    throw new ModelError(`${model}: ${key}, expected a number from 0 to below 1, got ${JSON.stringify(value)}`, { key })
  }
}
