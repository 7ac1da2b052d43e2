// `deeptroupe/runtime`: the actor runtime for programs that want it alone.
export {
  type ActorContext,
  type ActorDefinition,
  type Backoff,
  type Behaviour,
  defineActor,
  type Handlers,
  type OwnMessage,
  type Place,
  type ProtocolOf,
  type RefOf,
  type Schedule,
  type SpawnOptions,
  type Strategy,
  type Terminated,
} from '../runtime/actor/definition.js'
export { ActorError, type ActorErrorCode, type Cause, type CauseKind } from '../runtime/actor/errors.js'
export type { ActivityView, ActorView, AskView, SystemEvent, SystemView } from '../runtime/actor/events.js'
export { feed, observableOf } from '../runtime/actor/flow.js'
export type { Logger, LogLevel } from '../runtime/actor/log.js'
export { metricsText } from '../runtime/actor/metrics.js'
export type {
  ActorRef,
  AskOptions,
  MessageOf,
  PayloadOf,
  Protocol,
  ReplyOf,
  StopOptions,
  StreamOptions,
} from '../runtime/actor/protocol.js'
export { type Receptionist, type ServiceKey, serviceKey } from '../runtime/actor/receptionist.js'
export { type RouterOptions, type RouterRef, router, type Spawning, spawnRouter } from '../runtime/actor/router.js'
export type { HandlerView } from '../runtime/actor/stats.js'
export type { LogOptions, TopSpawnOptions } from '../runtime/actor/system.js'
export { viewText } from '../runtime/actor/text.js'
export { type TracingApi, traceWith } from '../runtime/actor/tracing.js'
export { ActorSystem, type LoopView, type StartOptions } from './local/system.js'
