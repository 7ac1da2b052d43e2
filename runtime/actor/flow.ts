// Between actors and what else yields values over time: streams and observables out of actors, iterables and observables into them.
// Back-pressure holds wherever the other side can wait; an observable cannot, so what it is ahead is bounded.
import { Observable, type Subscribable } from 'rxjs'
import { ActorError } from './errors.js'
import type { ActorRef, MessageOf, ProtocolShape, StreamOptions } from './protocol.js'
import { Queue } from './queue.js'

/** Values of an observable that may wait before it fails. */
const backlog = 1024

/** The values of an observable, kept for who reads them. More than 1,024 that wait are `STREAM_OVERFLOW`. */
export class Backlog<T> implements AsyncIterableIterator<T> {
  private readonly values = new Queue<T>()
  private reader: { resolve(result: IteratorResult<T>): void; reject(error: unknown): void } | null = null
  private over = false
  private error: { readonly thrown: unknown } | null = null
  private subscription: { unsubscribe(): void } | null = null

  constructor(source: Subscribable<T>) {
    const subscription = source.subscribe({
      next: (value) => this.push(value),
      error: (thrown) => this.end({ thrown }),
      complete: () => this.end(null),
    })
    // It may have ended while it was being subscribed to.
    if (this.over) subscription.unsubscribe()
    else this.subscription = subscription
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  next(): Promise<IteratorResult<T>> {
    if (this.values.size > 0) return Promise.resolve({ done: false, value: this.values.shift() as T })
    if (this.over) return this.finished()
    return new Promise((resolve, reject) => {
      this.reader = { resolve, reject }
    })
  }

  return(): Promise<IteratorResult<T>> {
    this.end(null)
    return Promise.resolve({ done: true, value: undefined })
  }

  private push(value: T): void {
    if (this.over) return
    const { reader } = this
    this.reader = null
    if (reader) reader.resolve({ done: false, value })
    else if (this.values.size < backlog) this.values.push(value)
    else {
      const message = `stream: an observable, expected at most ${backlog} values that wait, got one more`
      this.end({ thrown: new ActorError('STREAM_OVERFLOW', message, { limit: backlog }) })
    }
  }

  private end(error: { readonly thrown: unknown } | null): void {
    if (this.over) return
    this.over = true
    this.error = error
    this.subscription?.unsubscribe()
    const { reader } = this
    this.reader = null
    if (reader) this.finished().then(reader.resolve, reader.reject)
  }

  /** An error is told once; after it there is nothing. */
  private finished(): Promise<IteratorResult<T>> {
    const { error } = this
    this.error = null
    return error ? Promise.reject(error.thrown) : Promise.resolve({ done: true, value: undefined })
  }
}

/** The consumer's end of a stream, as a host gives it. */
export interface StreamEnd extends AsyncIterableIterator<unknown> {
  buffer: number
  stop(error: Error | null): void
}

/** Asks when first read, then reads; leaving it lets the producer go, even while the ask is under way. */
export class AskedStream implements AsyncIterableIterator<unknown> {
  private opening: Promise<StreamEnd> | null = null
  private readonly left = new AbortController()
  private over = false

  constructor(
    private readonly ask: (signal: AbortSignal) => Promise<unknown>,
    private readonly operation: string,
    private readonly options: StreamOptions,
  ) {
    const { buffer } = options
    if (buffer !== undefined && !(Number.isInteger(buffer) && buffer > 0)) {
      throw new ActorError('BAD_OPTION', `${operation}: buffer, expected a whole number from 1, got ${buffer}`, {
        option: 'buffer',
        got: buffer,
      })
    }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async next(): Promise<IteratorResult<unknown>> {
    if (this.over) return { done: true, value: undefined }
    this.opening ??= this.open()
    return (await this.opening).next()
  }

  async return(): Promise<IteratorResult<unknown>> {
    this.over = true
    this.left.abort()
    this.opening?.then(
      (stream) => stream.stop(null),
      () => {},
    )
    return { done: true, value: undefined }
  }

  private async open(): Promise<StreamEnd> {
    const { signal, buffer } = this.options
    const reply = await this.ask(signal ? AbortSignal.any([signal, this.left.signal]) : this.left.signal)
    if (typeof (reply as StreamEnd | null)?.stop !== 'function') {
      const message = `${this.operation}, expected a handler that returns an async iterable or observable, got a ${typeof reply}`
      throw new ActorError('BAD_OPTION', message)
    }
    const stream = reply as StreamEnd
    if (buffer !== undefined) stream.buffer = buffer
    const onAbort = (): void => {
      const options = { cause: signal?.reason }
      stream.stop(new ActorError('ABORTED', `${this.operation} was aborted`, {}, options))
    }
    if (signal?.aborted) onAbort()
    else signal?.addEventListener('abort', onAbort, { once: true })
    return stream
  }
}

/** A stream as an observable: each subscription iterates it, unsubscribing lets the producer go at once. */
export function observableOf<T>(stream: AsyncIterable<T>): Observable<T> {
  return new Observable((subscriber) => {
    const iterator = stream[Symbol.asyncIterator]()
    const read = async (): Promise<void> => {
      for (let step = await iterator.next(); !step.done; step = await iterator.next()) {
        if (subscriber.closed) return
        subscriber.next(step.value)
      }
      subscriber.complete()
    }
    read().catch((error) => subscriber.error(error))
    return () => void iterator.return?.()
  })
}

/**
 * Tells an actor each value of `source`, as fast as its mailbox takes them; resolves with how many when the source is at its end.
 * Rejects with what the source throws, `DEAD_ACTOR` once the actor is gone for good, `STREAM_OVERFLOW` where an observable is 1,024
 * values ahead, or the signal's reason; then the source is let go.
 */
export async function feed<P extends ProtocolShape<P>, T>(
  ref: ActorRef<P>,
  source: AsyncIterable<T> | Iterable<T> | Subscribable<T>,
  message: (value: T) => MessageOf<P>,
  options: { readonly signal?: AbortSignal } = {},
): Promise<number> {
  let count = 0
  for await (const value of 'subscribe' in source ? new Backlog(source) : source) {
    const each = message(value)
    while (!ref.tell(each)) {
      options.signal?.throwIfAborted()
      await ref.ready()
    }
    options.signal?.throwIfAborted()
    count++
  }
  return count
}
