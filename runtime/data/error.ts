// The one error of this folder: data that is missing, damaged, too short or outside the vocabulary. Names the file.

export type DataErrorCode =
  /** Not there, or the operating system refuses to read it. */
  | 'DATA_UNREADABLE'
  | 'DATA_EMPTY'
  /** The bytes are not what the format demands. */
  | 'DATA_FORMAT'
  | 'DATA_TOO_SHORT'
  /** A token id past the vocabulary. */
  | 'DATA_VOCABULARY'

export interface DataErrorDetails {
  readonly file: string
  readonly expected: string
  readonly got: string
}

export class DataError extends Error {
  override readonly name = 'DataError'

  /** @param what the file, or a place in it. */
  constructor(
    readonly code: DataErrorCode,
    what: string,
    readonly details: DataErrorDetails,
    options?: ErrorOptions,
  ) {
    super(`data: ${what}, expected ${details.expected}, got ${details.got}`, options)
  }
}

/** The error of a file that the operating system does not give. */
export function unreadable(file: string, cause: unknown): DataError {
  const reason = cause instanceof Error ? cause.message.replace(/, \w+( '.*')?$/, '') : String(cause)
  return new DataError('DATA_UNREADABLE', file, { file, expected: 'a readable file', got: reason }, { cause })
}
