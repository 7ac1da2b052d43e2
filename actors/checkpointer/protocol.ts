// What the checkpointer is asked. It gets copies of all ranks' parts by reference to shared memory and writes while training goes on.
import type { Manifest } from '../../runtime/checkpoint/manifest.js'

/** Bytes for one place of a file. */
export interface Piece {
  readonly byteOffset: number
  readonly bytes: Uint8Array
}

export interface CheckpointFile {
  readonly name: string
  readonly totalBytes: number
  readonly pieces: readonly Piece[]
}

export interface CheckpointOrder {
  /** The folder that holds all checkpoints of the run. */
  readonly folder: string
  readonly files: readonly CheckpointFile[]
  /** Without `files`: the checkpointer adds sizes and checksums. */
  readonly manifest: Omit<Manifest, 'files'>
  /** How many of the newest checkpoints stay; 0: all. */
  readonly keep: number
}

export type CheckpointerProtocol = {
  /** Writes a checkpoint; resolves with its path when it is whole on disk. */
  save(message: CheckpointOrder): string
}
