// The DeepSpeed configuration: `loadConfig` reads it, `resolveConfig` checks it and fills it in.
export * from './batch.js'
export { ConfigError, type ConfigErrorCode, type ConfigProblem } from './error.js'
export * from './load.js'
export * from './nearest.js'
export type { FloatDType, PrecisionConfig } from './precision.js'
export * from './resolve.js'
export type { DeepSpeedConfig } from './schema.js'
export type { ZeroConfig } from './zero.js'
