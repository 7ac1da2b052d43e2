// How a global batch lies in shared memory between who fills it and the ranks: inputs, then what follows each and, where a program asks for
// it (runtime/graph/passes/order.ts), the order of each micro-batch's tokens.

/** All arrays are i32, `rows` x `sequence`. */
export interface SlotShape {
  /** Of the global batch. */
  readonly rows: number
  /** Rows of a micro-batch: those from k * micro on are micro-batch k. */
  readonly micro: number
  readonly sequence: number
  /** Whether the order of the tokens goes with them. */
  readonly ordered: boolean
}

export interface SlotArrays {
  readonly inputs: Int32Array
  readonly targets: Int32Array
  /** For each micro-batch the positions of its inputs, from 0, sorted by input and then by position; null: not asked for. */
  readonly order: Int32Array | null
}

export const slotBytes = ({ rows, sequence, ordered }: SlotShape): number => (ordered ? 3 : 2) * rows * sequence * 4

export function slotArrays({ rows, sequence, ordered }: SlotShape, memory: SharedArrayBuffer): SlotArrays {
  const part = (i: number): Int32Array => new Int32Array(memory, i * rows * sequence * 4, rows * sequence)
  return { inputs: part(0), targets: part(1), order: ordered ? part(2) : null }
}

/** Scratch memory of {@link orderInputs}, none where it has nothing to do. */
export const orderScratch = ({ ordered }: SlotShape, vocabulary: number): Int32Array =>
  new Int32Array(ordered ? vocabulary + 1 : 0)

/** Makes the order of inputs, where it is asked for. They are all below the vocabulary that `next` was made for. */
export function orderInputs({ micro, sequence }: SlotShape, { inputs, order }: SlotArrays, next: Int32Array): void {
  if (!order) return
  const count = micro * sequence
  for (let start = 0; start < inputs.length; start += count) {
    // A counting sort: next[id] is where the next position of that id goes.
    next.fill(0)
    for (let i = 0; i < count; i++) next[inputs[start + i]! + 1]! += 1
    for (let id = 1; id < next.length - 1; id++) next[id]! += next[id - 1]!
    for (let i = 0; i < count; i++) order[start + next[inputs[start + i]!]!++] = i
  }
}
