// The package's entry: train, evaluate and use models from an embedding program.
export * from '../runtime/config/index.js'
export * from '../runtime/data/index.js'
export * as nn from '../runtime/nn/index.js'
export type {
  CheckpointEvent,
  EvalEvent,
  NoticeEvent,
  RestartEvent,
  StepEvent,
  TimingEvent,
  TrainEvent,
} from '../runtime/observe/index.js'
export { ActorSystem, defineActor } from '../transports/index.js'
export type { Batch } from './engine/batch.js'
export { Engine, initialize, type TrainOptions } from './engine/engine.js'
export { EngineError, type EngineErrorCode } from './engine/errors.js'
export { type GenerateOptions, generate } from './engine/generate.js'
export type { ModuleMatch } from './engine/precision.js'
export { type CheckpointPolicy, type InitializeOptions, type Prepared, prepare } from './engine/prepare.js'
