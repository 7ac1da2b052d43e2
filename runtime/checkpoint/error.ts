// What goes wrong with files of weights and state: one class, told apart by `code`.
// Every message names the file and, where there is one, the tensor.

export type CheckpointErrorCode =
  /** The bytes are not what the format demands. */
  | 'CHECKPOINT_FORMAT'
  /** A file or tensor that is asked for is not there. */
  | 'CHECKPOINT_MISSING'
  /** Tensors that do not fit the model. */
  | 'CHECKPOINT_MISMATCH'
  /** The operating system refused: no permission, no space, an I/O error. */
  | 'CHECKPOINT_IO'

export class CheckpointError extends Error {
  override readonly name = 'CheckpointError'
  constructor(
    readonly code: CheckpointErrorCode,
    message: string,
    readonly details: { readonly file?: string; readonly tensor?: string } = {},
    options?: ErrorOptions,
  ) {
    super(message, options)
  }
}
