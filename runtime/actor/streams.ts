// Replies that are many values: a handler returns an async iterable or an observable, the asker iterates. The values stay at the
// producer until the consumer has granted room for them, so neither side holds more than the consumer's buffer.
import type { Subscribable } from 'rxjs'
import type { Address } from './envelope.js'
import { ActorError, asError, type Cause, deadActor } from './errors.js'
import { Backlog } from './flow.js'
import { type Frame, frames } from './frame.js'
import { Queue } from './queue.js'

/** Values that may be on their way, unless the asker says otherwise. */
export const defaultBuffer = 64

/** Between the two hosts of a stream. `id` is the number of the ask that opened it, `stream` the producer's number. */
export type StreamSignal =
  | { readonly kind: 'stream-open'; readonly id: number; readonly stream: number; readonly from: Address }
  | { readonly kind: 'stream-pull'; readonly stream: number; readonly count: number }
  | { readonly kind: 'stream-cancel'; readonly stream: number }
  | { readonly kind: 'stream-value'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'stream-end'; readonly id: number; readonly error: Error | null }

/** The actor whose handler returned the stream. */
export interface StreamOwner {
  readonly address: Address
  /** The stream threw: this life has failed. */
  fail(thrown: unknown): void
}

interface Outgoing {
  readonly owner: StreamOwner
  /** Of the consumer. */
  readonly host: number
  readonly id: number
  readonly frame: Frame
  readonly iterator: AsyncIterator<unknown>
  credit: number
  running: boolean
}

/** Whether a reply is to be streamed. */
export const isStream = (value: unknown): value is AsyncIterable<unknown> | Subscribable<unknown> =>
  typeof value === 'object' &&
  value !== null &&
  (Symbol.asyncIterator in value || ('subscribe' in value && 'pipe' in value))

/** The streams that begin or end at one host. */
export class Streams {
  private readonly outgoing = new Map<number, Outgoing>()
  private readonly incoming = new Map<number, Incoming>()
  private last = 0

  constructor(private readonly send: (host: number, signal: StreamSignal) => boolean) {}

  /** Streams that are open. */
  get size(): number {
    return this.outgoing.size + this.incoming.size
  }

  /** Offers a stream as the reply to an ask. */
  serve(
    owner: StreamOwner,
    frame: Frame,
    ask: { readonly id: number; readonly host: number },
    source: AsyncIterable<unknown> | Subscribable<unknown>,
  ): void {
    const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : new Backlog(source)
    const stream = ++this.last
    const { id, host } = ask
    const outgoing: Outgoing = { owner, host, id, frame, iterator, credit: 0, running: false }
    this.outgoing.set(stream, outgoing)
    if (!this.send(host, { kind: 'stream-open', id, stream, from: owner.address })) this.drop(stream)
  }

  /** The consumer's end of a stream that was offered. */
  accept(open: Extract<StreamSignal, { kind: 'stream-open' }>, consumer: number | null): Incoming {
    const incoming = new Incoming(
      open.from,
      consumer,
      (count) => this.send(open.from.host, { kind: 'stream-pull', stream: open.stream, count }),
      () => {
        this.incoming.delete(open.id)
        this.send(open.from.host, { kind: 'stream-cancel', stream: open.stream })
      },
    )
    this.incoming.set(open.id, incoming)
    return incoming
  }

  /** Refuses a stream that nobody waits for any more. */
  decline(open: Extract<StreamSignal, { kind: 'stream-open' }>): void {
    this.send(open.from.host, { kind: 'stream-cancel', stream: open.stream })
  }

  hear(signal: Exclude<StreamSignal, { kind: 'stream-open' }>): void {
    switch (signal.kind) {
      case 'stream-pull': {
        const outgoing = this.outgoing.get(signal.stream)
        if (!outgoing) return
        outgoing.credit += signal.count
        if (!outgoing.running) void this.run(signal.stream, outgoing)
        break
      }
      case 'stream-cancel':
        this.drop(signal.stream)
        break
      case 'stream-value':
        this.incoming.get(signal.id)?.push(signal.value)
        break
      case 'stream-end':
        this.incoming.get(signal.id)?.end(signal.error)
        this.incoming.delete(signal.id)
    }
  }

  /** A life has ended: what it offered fails with the cause, what it read is let go. */
  lifeOver(actor: Address, cause: Cause): void {
    if (this.size === 0) return
    for (const [stream, outgoing] of this.outgoing) {
      if (outgoing.owner.address.id !== actor.id) continue
      this.drop(stream)
      const error = deadActor('stream', actor.path, cause)
      this.send(outgoing.host, { kind: 'stream-end', id: outgoing.id, error })
    }
    for (const incoming of this.incoming.values()) if (incoming.consumer === actor.id) void incoming.return()
  }

  /** A host has gone, or, without one, this host closes. */
  hostOver(error: ActorError, host?: number): void {
    for (const [stream, outgoing] of this.outgoing) if (host === undefined || outgoing.host === host) this.drop(stream)
    for (const [id, incoming] of this.incoming) {
      if (host !== undefined && incoming.from.host !== host) continue
      this.incoming.delete(id)
      incoming.end(error)
    }
  }

  private async run(stream: number, outgoing: Outgoing): Promise<void> {
    const { iterator, frame, host, id } = outgoing
    outgoing.running = true
    while (outgoing.credit > 0) {
      let result: IteratorResult<unknown>
      try {
        result = await frames.run(frame, () => iterator.next())
      } catch (error) {
        if (this.outgoing.delete(stream)) this.failed(outgoing, error)
        return
      }
      if (!this.outgoing.has(stream)) return
      if (result.done) {
        this.outgoing.delete(stream)
        this.send(host, { kind: 'stream-end', id, error: null })
        return
      }
      outgoing.credit--
      try {
        this.send(host, { kind: 'stream-value', id, value: result.value })
      } catch (error) {
        this.drop(stream)
        this.send(host, { kind: 'stream-end', id, error: asError(error) })
        return
      }
    }
    outgoing.running = false
  }

  private failed(outgoing: Outgoing, thrown: unknown): void {
    const { owner } = outgoing
    owner.fail(thrown)
    const { path } = owner.address
    const cause = asError(thrown)
    const error = new ActorError(
      'HANDLER_FAILED',
      `stream: ${path} failed: ${cause.message}`,
      { actor: path },
      { cause },
    )
    this.send(outgoing.host, { kind: 'stream-end', id: outgoing.id, error })
  }

  /** Lets the producer go; its `finally` blocks run. */
  private drop(stream: number): void {
    const outgoing = this.outgoing.get(stream)
    if (!outgoing) return
    this.outgoing.delete(stream)
    // What the producer throws while it is let go concerns nobody.
    void frames.run(outgoing.frame, async () => outgoing.iterator.return?.()).catch(() => {})
  }
}

/** What an asker gets for a stream: iterate it once; `return` or leaving the loop lets the producer go. */
export class Incoming implements AsyncIterableIterator<unknown> {
  /** Values that may be on their way; counts from the first `next`. */
  buffer = defaultBuffer
  private readonly values = new Queue<unknown>()
  private readonly readers = new Queue<{
    resolve(result: IteratorResult<unknown>): void
    reject(error: Error): void
  }>()
  private over = false
  private error: Error | null = null
  private started = false
  private taken = 0

  constructor(
    readonly from: Address,
    /** Id of the actor that reads it. */
    readonly consumer: number | null,
    private readonly pull: (count: number) => void,
    private readonly cancel: () => void,
  ) {}

  [Symbol.asyncIterator](): this {
    return this
  }

  next(): Promise<IteratorResult<unknown>> {
    if (this.values.size > 0) {
      const value = this.values.shift()
      this.grant()
      return Promise.resolve({ done: false, value })
    }
    if (this.over) return this.finished()
    return new Promise((resolve, reject) => {
      this.readers.push({ resolve, reject })
      if (this.started) return
      this.started = true
      this.pull(this.buffer)
    })
  }

  return(): Promise<IteratorResult<unknown>> {
    this.stop(null)
    return Promise.resolve({ done: true, value: undefined })
  }

  /** Lets the producer go; readers get the error, if there is one. */
  stop(error: Error | null): void {
    if (this.over) return
    while (this.values.size > 0) this.values.shift()
    this.end(error)
    this.cancel()
  }

  push(value: unknown): void {
    const reader = this.readers.shift()
    if (!reader) {
      this.values.push(value)
      return
    }
    this.grant()
    reader.resolve({ done: false, value })
  }

  end(error: Error | null): void {
    if (this.over) return
    this.over = true
    this.error = error
    for (let reader = this.readers.shift(); reader; reader = this.readers.shift()) {
      this.finished().then(reader.resolve, reader.reject)
    }
  }

  /** Gives room back in halves of the buffer, not value by value. */
  private grant(): void {
    if (this.over || ++this.taken < this.buffer / 2) return
    this.pull(this.taken)
    this.taken = 0
  }

  /** An error is told once; after it the stream is at its end. */
  private finished(): Promise<IteratorResult<unknown>> {
    const { error } = this
    this.error = null
    return error ? Promise.reject(error) : Promise.resolve({ done: true, value: undefined })
  }
}
