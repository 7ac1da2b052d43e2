// Promises that another host will settle: asks, requests to the guardian and waits for credit. Each has a number that the reply names.

interface Waiter {
  readonly host: number
  resolve(value: unknown): void
  reject(error: Error): void
}

/** The open promises of one host. */
export class Pending {
  private readonly waiters = new Map<number, Waiter>()
  private last = 0

  get size(): number {
    return this.waiters.size
  }

  /** Opens a number for a reply from `host`. */
  open(host: number, resolve: (value: unknown) => void, reject: (error: Error) => void): number {
    this.waiters.set(++this.last, { host, resolve, reject })
    return this.last
  }

  has(id: number): boolean {
    return this.waiters.has(id)
  }

  resolve(id: number, value: unknown): void {
    this.take(id)?.resolve(value)
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
