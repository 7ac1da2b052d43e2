// A first-in first-out queue that takes and gives in constant time. Memory follows the number of waiting items.

const least = 16
/** An empty queue gives back what is larger. */
const mostKept = 1024

/** A queue over a circle of slots, a power of two of them. */
export class Queue<T> {
  private slots: (T | undefined)[] = []
  private head = 0
  private count = 0

  get size(): number {
    return this.count
  }

  get first(): T | undefined {
    return this.slots[this.head]
  }

  push(item: T): void {
    if (this.count === this.slots.length) this.grow()
    this.slots[(this.head + this.count) & (this.slots.length - 1)] = item
    this.count++
  }

  shift(): T | undefined {
    if (this.count === 0) return undefined
    const { slots, head } = this
    const item = slots[head]
    slots[head] = undefined
    this.head = (head + 1) & (slots.length - 1)
    if (--this.count === 0 && slots.length > mostKept) {
      this.slots = []
      this.head = 0
    }
    return item
  }

  /** Takes out the first item that matches. */
  remove(matches: (item: T) => boolean): T | undefined {
    const items = this.unrolled()
    const at = items.findIndex(matches)
    if (at < 0) return undefined
    const [item] = items.splice(at, 1)
    this.slots = []
    this.head = 0
    this.count = 0
    for (const each of items) this.push(each)
    return item
  }

  private grow(): void {
    const items: (T | undefined)[] = this.unrolled()
    const length = Math.max(least, items.length * 2)
    while (items.length < length) items.push(undefined)
    this.slots = items
    this.head = 0
  }

  private unrolled(): T[] {
    const { slots, head, count } = this
    return Array.from({ length: count }, (_, i) => slots[(head + i) & (slots.length - 1)] as T)
  }
}
