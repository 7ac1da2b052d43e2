// Where samples come from. A sample is `seq` input ids and the `seq` ids that follow each of them. All kinds of data end as one array
// of ids in shared memory, cut into samples by a stride: a handle crosses threads by reference, and reads copy rows and check nothing.

export interface Source {
  /** For messages. */
  readonly name: string
  readonly samples: number
  /** Tokens of one sample that the model reads (and as many that it predicts). */
  readonly seq: number
  /** Ids are below this. */
  readonly vocabulary: number
  /** Row k of `inputs` and `targets` (each [indices.length, seq]) gets sample `indices[k]`. Indices are below `samples`. */
  read(indices: ArrayLike<number>, inputs: Int32Array, targets: Int32Array): void
}

export type TokenArray = Uint8Array | Uint16Array | Uint32Array | Int32Array

/** A source's data: structured-cloneable, the ids by reference. */
export interface SourceHandle {
  readonly name: string
  /** Backed by a SharedArrayBuffer. */
  readonly tokens: TokenArray
  readonly samples: number
  readonly seq: number
  /** Ids from one sample's start to the next one's: `seq` in a stream, `seq` + 1 where each row is a sample of its own. */
  readonly stride: number
  readonly vocabulary: number
}

/** Ids in shared memory, read on any thread. */
export class TokenSource implements Source {
  readonly name: string
  readonly samples: number
  readonly seq: number
  readonly vocabulary: number

  constructor(
    readonly handle: SourceHandle,
    /** What was left out while opening, a sentence each. */
    readonly notices: readonly string[] = [],
  ) {
    this.name = handle.name
    this.samples = handle.samples
    this.seq = handle.seq
    this.vocabulary = handle.vocabulary
  }

  read(indices: ArrayLike<number>, inputs: Int32Array, targets: Int32Array): void {
    const { tokens, seq, stride } = this.handle
    for (let row = 0; row < indices.length; row++) {
      const start = indices[row]! * stride
      inputs.set(tokens.subarray(start, start + seq), row * seq)
      targets.set(tokens.subarray(start + 1, start + 1 + seq), row * seq)
    }
  }
}
