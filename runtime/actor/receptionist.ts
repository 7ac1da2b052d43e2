// Actors by what they offer: a key is registered with refs, and whoever knows the key finds them or is told of every change.
// The directory is the guardian's; an actor that is gone for good leaves it by itself, one between two lives stays.
import type { Address } from './envelope.js'
import type { ActorRef, Protocol, ProtocolShape } from './protocol.js'
import { addressOf, type RefHost } from './ref.js'
import { bindRef } from './router.js'

declare const serviceProtocol: unique symbol

/** A name with the protocol that the actors under it speak. */
export interface ServiceKey<P extends ProtocolShape<P> = Protocol> {
  readonly service: string
  readonly [serviceProtocol]?: P
}

/** A key for {@link Receptionist}: `export const words = serviceKey<Words>('words')`. */
export const serviceKey = <P extends ProtocolShape<P>>(service: string): ServiceKey<P> => ({ service })

/** What hosts ask of the directory. */
export type DirectoryRequest =
  | { readonly op: 'register'; readonly service: string; readonly ref: Address; readonly on: boolean }
  /** Replies at once where the listing is newer than `since`, else at its next change. */
  | { readonly op: 'listing'; readonly service: string; readonly since: number }
  /** Makes all who wait for a change of the listing ask again. */
  | { readonly op: 'wake'; readonly service: string }

export interface Listing {
  readonly version: number
  readonly refs: readonly Address[]
}

interface Shelf {
  version: number
  readonly refs: Map<number, Address>
  waiting: ((listing: Listing) => void)[]
}

/** The guardian's side: services with their refs in the order in which they were registered. */
export class Directory {
  private readonly shelves = new Map<string, Shelf>()

  answer(request: DirectoryRequest): Promise<Listing> | undefined {
    const shelf = this.shelf(request.service)
    if (request.op === 'listing') {
      if (shelf.version > request.since) return Promise.resolve(listingOf(shelf))
      return new Promise((resolve) => shelf.waiting.push(resolve))
    }
    if (request.op === 'wake') this.tell(shelf)
    else if (request.on !== shelf.refs.has(request.ref.id)) this.change(shelf, request.ref, request.on)
    return undefined
  }

  /** The actor is gone for good. */
  forget(ref: Address): void {
    for (const shelf of this.shelves.values()) if (shelf.refs.has(ref.id)) this.change(shelf, ref, false)
  }

  private shelf(service: string): Shelf {
    let shelf = this.shelves.get(service)
    if (!shelf) {
      shelf = { version: 0, refs: new Map(), waiting: [] }
      this.shelves.set(service, shelf)
    }
    return shelf
  }

  private change(shelf: Shelf, ref: Address, on: boolean): void {
    if (on) shelf.refs.set(ref.id, ref)
    else shelf.refs.delete(ref.id)
    shelf.version++
    this.tell(shelf)
  }

  private tell(shelf: Shelf): void {
    const { waiting } = shelf
    shelf.waiting = []
    for (const resolve of waiting) resolve(listingOf(shelf))
  }
}

const listingOf = ({ version, refs }: Shelf): Listing => ({ version, refs: [...refs.values()] })

/** What the receptionist needs of its host. */
export interface ReceptionistHost extends RefHost {
  request(request: DirectoryRequest): Promise<unknown>
}

/** Registers and finds actors by key, from any thread. */
export class Receptionist {
  readonly #host: ReceptionistHost

  constructor(host: ReceptionistHost) {
    this.#host = host
  }

  /** Adds an actor under a key; twice is once. It leaves when it is gone for good. */
  async register<P extends ProtocolShape<P>>(key: ServiceKey<P>, ref: ActorRef<P>): Promise<void> {
    await this.#host.request({ op: 'register', service: key.service, ref: addressOf(ref), on: true })
  }

  async unregister<P extends ProtocolShape<P>>(key: ServiceKey<P>, ref: ActorRef<P>): Promise<void> {
    await this.#host.request({ op: 'register', service: key.service, ref: addressOf(ref), on: false })
  }

  /** The actors under a key now, in the order in which they were registered. */
  async find<P extends ProtocolShape<P>>(key: ServiceKey<P>): Promise<ActorRef<P>[]> {
    return this.#refs(await this.#listing(key.service, -1))
  }

  /** The actors under a key, now and after each change; what a slow reader misses is the states between. */
  subscribe<P extends ProtocolShape<P>>(key: ServiceKey<P>): AsyncIterableIterator<ActorRef<P>[]> {
    const { service } = key
    let since = -1
    let over = false
    const end = { done: true, value: undefined } as const
    const iterator: AsyncIterableIterator<ActorRef<P>[]> = {
      [Symbol.asyncIterator]: () => iterator,
      next: async () => {
        while (!over) {
          const listing = await this.#listing(service, since)
          if (over || listing.version === since) continue
          since = listing.version
          return { done: false, value: this.#refs<P>(listing) }
        }
        return end
      },
      return: async () => {
        over = true
        await this.#host.request({ op: 'wake', service })
        return end
      },
    }
    return iterator
  }

  async #listing(service: string, since: number): Promise<Listing> {
    return (await this.#host.request({ op: 'listing', service, since })) as Listing
  }

  #refs<P extends ProtocolShape<P>>({ refs }: Listing): ActorRef<P>[] {
    return refs.map((address) => bindRef(this.#host, address) as unknown as ActorRef<P>)
  }
}
