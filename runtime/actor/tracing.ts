// Spans across asks, by the OpenTelemetry API where the program has it: a client span at the asker, and at the receiver, as its child,
// the handler's. Without the package nothing is traced and nothing is paid.
import type { Address, UserMessage } from './envelope.js'

/** What is used of a span of `@opentelemetry/api`. */
interface Span {
  recordException(error: Error): void
  setStatus(status: { code: number; message?: string }): unknown
  end(): void
}

/** What is used of `@opentelemetry/api`. */
export interface TracingApi {
  readonly trace: {
    getTracer(name: string): { startSpan(name: string, options: object, context: unknown): Span }
    setSpan(context: unknown, span: Span): unknown
  }
  readonly context: {
    active(): unknown
    with<T>(context: unknown, run: () => T): T
  }
  readonly propagation: {
    inject(context: unknown, carrier: TraceCarrier): void
    extract(context: unknown, carrier: TraceCarrier): unknown
  }
}

/** The context of a span as headers, in a letter. */
export type TraceCarrier = Record<string, string>

/** An ask that is traced. */
export interface AskSpan {
  readonly carrier: TraceCarrier
  end(error: Error | null): void
}

const kinds = { server: 1, client: 2 } as const
const failed = 2

export class Tracing {
  constructor(private readonly api: TracingApi) {}

  /** Begins the span of an ask, within the active one. */
  ask(from: Address | null, to: Address, message: UserMessage): AskSpan {
    const active = this.api.context.active()
    const span = this.start(`ask ${to.path} ${String(message.type)}`, kinds.client, active, {
      'actor.from': from?.path ?? 'outside',
      'actor.to': to.path,
      'message.type': String(message.type),
    })
    const carrier: TraceCarrier = {}
    this.api.propagation.inject(this.api.trace.setSpan(active, span), carrier)
    return { carrier, end: (error) => finish(span, error) }
  }

  /** Runs a handler within a span that continues the asker's. */
  handle(to: Address, type: PropertyKey, carrier: TraceCarrier, run: () => unknown): unknown {
    const above = this.api.propagation.extract(this.api.context.active(), carrier)
    const attributes = { 'actor.to': to.path, 'message.type': String(type) }
    const span = this.start(`handle ${to.path} ${String(type)}`, kinds.server, above, attributes)
    return this.api.context.with(this.api.trace.setSpan(above, span), () => {
      let result: unknown
      try {
        result = run()
      } catch (error) {
        finish(span, error as Error)
        throw error
      }
      if (typeof (result as PromiseLike<unknown> | undefined)?.then !== 'function') {
        finish(span, null)
        return result
      }
      return (result as PromiseLike<unknown>).then(
        (value) => {
          finish(span, null)
          return value
        },
        (error) => {
          finish(span, error)
          throw error
        },
      )
    })
  }

  private start(name: string, kind: number, context: unknown, attributes: Readonly<Record<string, string>>): Span {
    return this.api.trace.getTracer('deeptroupe').startSpan(name, { kind, attributes }, context)
  }
}

function finish(span: Span, error: Error | null): void {
  if (error) {
    span.recordException(error)
    span.setStatus({ code: failed, message: error.message })
  }
  span.end()
}

let found: Promise<Tracing | null> | null = null

/** Traces with this API from the next system or thread on, where the program's `@opentelemetry/api` is not found by its name. */
export function traceWith(api: TracingApi): void {
  found = Promise.resolve(new Tracing(api))
}

/** Tracing by the program's `@opentelemetry/api`; null: it has none. */
export function findTracing(): Promise<Tracing | null> {
  const name = '@opentelemetry/api'
  found ??= import(name).then(
    (api: TracingApi) => new Tracing(api),
    () => null,
  )
  return found
}
