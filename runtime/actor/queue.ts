// A first-in first-out queue that takes and gives in constant time. Memory follows the number of waiting items.

/** A queue over an array with a moving head; the used-up front is cut off once it is the larger half. */
export class Queue<T> {
  private items: T[] = []
  private head = 0

  get size(): number {
    return this.items.length - this.head
  }

  get first(): T | undefined {
    return this.items[this.head]
  }

  push(item: T): void {
    this.items.push(item)
  }

  shift(): T | undefined {
    if (this.head === this.items.length) return undefined
    const item = this.items[this.head]
    this.items[this.head++] = undefined as T
    if (this.head * 2 > this.items.length && this.head >= 32) {
      this.items = this.items.slice(this.head)
      this.head = 0
    } else if (this.head === this.items.length) {
      this.items = []
      this.head = 0
    }
    return item
  }

  /** Takes out the first item that matches. */
  remove(matches: (item: T) => boolean): T | undefined {
    for (let i = this.head; i < this.items.length; i++) {
      if (matches(this.items[i]!)) return this.items.splice(i, 1)[0]
    }
    return undefined
  }
}
