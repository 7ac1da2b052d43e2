// Promises that another host will settle: asks, requests to the guardian and waits for credit. Each has a number that the reply names.

/** An ask in flight: who waits for whom. */
export interface AskInFlight {
  /** Id of the asking actor; null: outside any. */
  readonly from: number | null
  readonly to: string
  readonly type: PropertyKey
  readonly since: number
}

interface Waiter {
  readonly host: number
  readonly ask: AskInFlight | null
  /** Past its deadline. */
  readonly expire: (() => void) | null
  resolve(value: unknown): void
  reject(error: Error): void
}

/** Numbers are positive int32s. */
const mostNumbers = 2 ** 31 - 1

/** The open promises of one host. */
export class Pending {
  private readonly waiters = new Map<number, Waiter>()
  /** Numbers begin where the clock says, so that a late reply to the predecessor of a host means nothing to its successor. */
  private last = Math.floor((performance.timeOrigin + performance.now()) * 1000) % 2 ** 30

  get size(): number {
    return this.waiters.size
  }

  /** Opens a number for a reply from `host`. */
  open(
    host: number,
    resolve: (value: unknown) => void,
    reject: (error: Error) => void,
    ask: AskInFlight | null = null,
    expire: (() => void) | null = null,
  ): number {
    do this.last = this.last === mostNumbers ? 1 : this.last + 1
    while (this.waiters.has(this.last))
    this.waiters.set(this.last, { host, ask, resolve, reject, expire })
    return this.last
  }

  asks(): AskInFlight[] {
    return [...this.waiters.values()].flatMap(({ ask }) => ask ?? [])
  }

  /** The ask of that number, if it waits. */
  ask(id: number): AskInFlight | null {
    return this.waiters.get(id)?.ask ?? null
  }

  has(id: number): boolean {
    return this.waiters.has(id)
  }

  resolve(id: number, value: unknown): void {
    this.take(id)?.resolve(value)
  }

  expire(id: number): void {
    this.waiters.get(id)?.expire?.()
  }

  reject(id: number, error: Error): void {
    this.take(id)?.reject(error)
  }

  /** Rejects everything that waits for `host`, or for anyone. */
  rejectAll(error: Error, host?: number): void {
    for (const [id, waiter] of [...this.waiters]) if (host === undefined || waiter.host === host) this.reject(id, error)
  }

  private take(id: number): Waiter | undefined {
    const waiter = this.waiters.get(id)
    this.waiters.delete(id)
    return waiter
  }
}
