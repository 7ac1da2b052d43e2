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

/** A folder of files and nothing more: no manifest, no state to resume from. */
export type ExportOrder = Pick<CheckpointOrder, 'folder' | 'files'>

export type CheckpointerProtocol = {
  /** Writes a checkpoint; resolves with its path when it is whole on disk. */
  save(message: CheckpointOrder): string
  /**
   * Writes the files into the folder, each in place of one of its name; resolves with null when all are whole on disk, else with the
   * reason: a folder that cannot be written is the caller's mistake and no failure of the run.
   */
  export(message: ExportOrder): string | null
}
