// Envelopes over MessagePorts: one port per other host. A thread's links are its transport; the port to the starting thread also
// carries the few words by which threads are connected and closed.
import type { MessagePort } from 'node:worker_threads'
import type { Envelope, Transport } from '../../runtime/actor/envelope.js'
import type { RefHost } from '../../runtime/actor/ref.js'
import { decode, encode } from '../codec/codec.js'

/** What the pool says to a worker's thread besides envelopes. */
export type PoolWord =
  | { readonly kind: 'connect'; readonly host: number; readonly port: MessagePort }
  | { readonly kind: 'disconnect'; readonly host: number }
  | { readonly kind: 'close' }

/** What a worker's thread answers. */
export type ThreadWord = { readonly kind: 'running' } | { readonly kind: 'connected'; readonly host: number }

type Packet = { readonly bytes: Uint8Array; readonly shared: readonly SharedArrayBuffer[] }

export interface LinksOwner<Word> {
  readonly refHost: () => RefHost
  receive(envelope: Envelope): void
  hear(word: Word, from: number): void
}

/** The ports of one thread, by the index of the host at the other end. */
export class Links<Word extends { readonly kind: string }> implements Transport {
  private readonly ports = new Map<number, MessagePort>()

  constructor(private readonly owner: LinksOwner<Word>) {}

  connect(host: number, port: MessagePort): void {
    this.ports.set(host, port)
    port.on('message', (message: Packet | Word) => {
      if ('bytes' in message) this.owner.receive(decode(message, this.owner.refHost()) as Envelope)
      else this.owner.hear(message, host)
    })
  }

  disconnect(host: number): void {
    this.ports.get(host)?.close()
    this.ports.delete(host)
  }

  send(to: number, envelope: Envelope): boolean {
    const port = this.ports.get(to)
    if (!port) return false
    port.postMessage(encode(envelope, this.owner.refHost()))
    return true
  }

  /** Sends a word beside the envelopes, with the ports that it hands over. */
  say(to: number, word: PoolWord | ThreadWord, ports: readonly MessagePort[] = []): void {
    this.ports.get(to)?.postMessage(word, [...ports])
  }

  close(): void {
    for (const host of [...this.ports.keys()]) this.disconnect(host)
  }
}
