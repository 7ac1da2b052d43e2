// A first-in first-out queue that takes and gives in constant time. Memory follows the number of waiting items: an empty queue keeps some
// room, and of many queues only those that needed it last.

const least = 16
/** An empty queue gives back what is larger. */
const mostKept = 1024
/** Queues that are looked at for one that is empty. */
const mostLooks = 4

/** Lets the queues that grew last keep their room; of others, those that are empty give it back. */
export class Room {
  private readonly grown = new Set<Queue<unknown>>()

  constructor(private readonly most = 256) {}

  grew(queue: Queue<unknown>): void {
    this.grown.add(queue)
    if (this.grown.size <= this.most) return
    let looks = 0
    for (const oldest of this.grown) {
      this.grown.delete(oldest)
      if (oldest.giveBack()) return
      this.grown.add(oldest)
      if (++looks === mostLooks) return
    }
  }

  /** A queue that grew is empty; true: there are so many that it has to give back its room. */
  leaves(queue: Queue<unknown>): boolean {
    return this.grown.size > this.most && this.grown.delete(queue)
  }
}

/** A queue over a circle of slots, a power of two of them. */
export class Queue<T> {
  private slots: (T | undefined)[] = []
  private head = 0
  private count = 0

  constructor(private readonly room: Room | null = null) {}

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
    if (--this.count === 0 && slots.length > least && (slots.length > mostKept || this.room?.leaves(this)))
      this.giveBack()
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

  /** Gives its room back; false: it is in use. */
  giveBack(): boolean {
    if (this.count > 0) return false
    this.slots = []
    this.head = 0
    return true
  }

  private grow(): void {
    const items: (T | undefined)[] = this.unrolled()
    const length = Math.max(least, items.length * 2)
    while (items.length < length) items.push(undefined)
    this.slots = items
    this.head = 0
    if (length > least) this.room?.grew(this)
  }

  private unrolled(): T[] {
    const { slots, head, count } = this
    return Array.from({ length: count }, (_, i) => slots[(head + i) & (slots.length - 1)] as T)
  }
}
