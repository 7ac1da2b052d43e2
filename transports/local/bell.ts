// How threads wake each other: a word per host says whether it sleeps, and only a sender that finds it asleep pays for waking it.
// A sleeper waits by `Atomics.waitAsync`, so its event loop stays free; that wait alone does not keep the loop alive, its port does.

const wordsPerHost = 32
const urgentOffset = 16
const awake = 0
const asleep = 1

/** Memory for the bells of hosts 0 to `workers`. */
export const bellMemory = (workers: number): SharedArrayBuffer =>
  new SharedArrayBuffer((workers + 1) * wordsPerHost * 4)

type Wait = { async: false; value: string } | { async: true; value: Promise<string> }
const { waitAsync } = Atomics as unknown as {
  waitAsync(words: Int32Array, index: number, value: number): Wait
}

/** All bells as one host uses them. */
export class Bells {
  private readonly words: Int32Array
  private readonly own: number
  /** A wait is pending; it serves until it is woken, however often the host sleeps and wakes by itself meanwhile. */
  private armed = false

  constructor(
    memory: SharedArrayBuffer,
    host: number,
    private readonly wake: () => void,
  ) {
    this.words = new Int32Array(memory)
    this.own = host * wordsPerHost
    this.rise()
  }

  /** Wakes a host if it sleeps; true: it did. */
  ring(host: number): boolean {
    const word = host * wordsPerHost
    if (Atomics.load(this.words, word) !== asleep) return false
    if (Atomics.compareExchange(this.words, word, asleep, awake) !== asleep) return false
    Atomics.notify(this.words, word)
    return true
  }

  /** Has a host look at its control lanes between two handlers. */
  urge(host: number): void {
    Atomics.store(this.words, host * wordsPerHost + urgentOffset, 1)
  }

  /** Whether somebody urged this host since the last call. */
  urged(): boolean {
    if (this.words[this.own + urgentOffset] === 0) return false
    Atomics.store(this.words, this.own + urgentOffset, 0)
    return true
  }

  /** From now on others ring; look for work once more, then `sleep`. */
  lieDown(): void {
    Atomics.store(this.words, this.own, asleep)
  }

  /** Has `wake` called at the next ring. */
  sleep(): void {
    if (this.armed) return
    const wait = waitAsync(this.words, this.own, asleep)
    if (!wait.async) {
      queueMicrotask(this.wake)
      return
    }
    this.armed = true
    void wait.value.then(() => {
      this.armed = false
      this.wake()
    })
  }

  /** Others need not ring. */
  rise(): void {
    Atomics.store(this.words, this.own, awake)
  }

  /** Ends a pending wait. */
  close(): void {
    this.rise()
    if (this.armed) Atomics.notify(this.words, this.own)
  }
}
