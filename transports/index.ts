// `deeptroupe/runtime`: the actor runtime for programs that want it alone.
export {
  type ActorContext,
  type ActorDefinition,
  type Backoff,
  type Behaviour,
  defineActor,
  type Handlers,
  type Place,
  type ProtocolOf,
  type RefOf,
  type SpawnOptions,
  type Strategy,
  type Terminated,
} from '../runtime/actor/definition.js'
export { ActorError, type ActorErrorCode, type Cause, type CauseKind } from '../runtime/actor/errors.js'
export type { ActorView, SystemEvent, SystemView } from '../runtime/actor/events.js'
export type {
  ActorRef,
  AskOptions,
  MessageOf,
  PayloadOf,
  Protocol,
  ReplyOf,
  StopOptions,
} from '../runtime/actor/protocol.js'
export type { TopSpawnOptions } from '../runtime/actor/system.js'
export { ActorSystem, type StartOptions } from './local/system.js'
