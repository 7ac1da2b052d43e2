// What a training run tells while it runs. The same objects leave as RxJS events and, with `--json`, as lines on stdout; their field
// names are part of the public interface.

/** One optimizer step. */
export interface StepEvent {
  readonly type: 'step'
  /** Counted from 1. */
  readonly step: number
  /** Mean over the global batch. */
  readonly loss: number
  /** Global L2 norm before clipping, of the gradients without loss scale; -1 where the step was skipped. */
  readonly grad_norm: number
  /** Of the first parameter group, as this step used it. */
  readonly lr: number
  /** Whether the gradients were not finite and nothing was updated. */
  readonly skipped: boolean
  /** Steps skipped so far. */
  readonly skipped_steps: number
  /** The loss scale of this step, in fp16. */
  readonly loss_scale?: number
  /** Tokens of this step, over all ranks. */
  readonly tokens: number
  readonly tokens_per_second: number
  /** Wall time of this step, from the end of the one before it where that was still under way. */
  readonly seconds: number
  /** Of it, the time in which native code ran on some rank; the rest is JavaScript's. */
  readonly native_seconds: number
}

/** One pass over the evaluation data. */
export interface EvalEvent {
  readonly type: 'eval'
  readonly step: number
  /** Mean over the tokens counted. */
  readonly loss: number
  /** e to the loss. */
  readonly perplexity: number
  readonly tokens: number
}

/** Where the time of a step went, by phase: milliseconds, the mean over ranks. With `wall_clock_breakdown`. */
export interface TimingEvent {
  readonly type: 'timing'
  readonly step: number
  readonly forward_ms: number
  readonly backward_ms: number
  /** Waiting for other ranks included. */
  readonly communication_ms: number
  readonly update_ms: number
}

/** A checkpoint that is whole and in place. */
export interface CheckpointEvent {
  readonly type: 'checkpoint'
  readonly step: number
  readonly path: string
  readonly bytes: number
  readonly seconds: number
}

/** Something that a person should know and that stops nothing. */
export interface NoticeEvent {
  readonly type: 'notice'
  readonly message: string
}

/** A run that goes on after a failure. */
export interface RestartEvent {
  readonly type: 'restart'
  /** The step it resumes after; 0 from the start. */
  readonly step: number
  /** Where the state came from. `kept`: no rank lost its own; `peers`: ranks that hold all of it; else steps are replayed. */
  readonly source: 'kept' | 'peers' | 'checkpoint' | 'start'
  readonly attempt: number
  readonly cause: string
}

export type TrainEvent = StepEvent | EvalEvent | TimingEvent | CheckpointEvent | NoticeEvent | RestartEvent

/** An event as one line of JSON, numbers in full precision. */
export const eventLine = (event: TrainEvent): string => `${JSON.stringify(event)}\n`
