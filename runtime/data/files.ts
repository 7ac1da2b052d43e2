// Which files a list of paths means, and their bytes. Folders are walked in the order of their names' characters, so that every
// machine sees the same text. The bytes lie in shared memory, so that loaders on other threads read them without a copy.
import { closeSync, fstatSync, openSync, readdirSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { DataError, unreadable } from './error.js'

export interface TextFile {
  readonly file: string
  readonly bytes: Uint8Array<SharedArrayBuffer>
}

/** Bytes at a file's start that decide whether it is text. */
const sniffed = 8192
/** Node reads at most 2 GiB at once. */
const readAtOnce = 1 << 30

/**
 * The text files that `paths` name. Named files are taken as they are; in folders, hidden entries, links and files with a zero byte
 * near their start are left out and counted in `notices`. Throws {@link DataError} for what is missing, empty or has no text.
 */
export function readTexts(paths: readonly string[], notices: string[]): TextFile[] {
  return paths.flatMap((path) => {
    if (!stats(path).isDirectory()) {
      const bytes = readShared(path)
      if (bytes.length === 0) throw empty(path, 'text')
      if (looksBinary(bytes)) notices.push(`${path} has zero bytes near its start and may not be text`)
      return [{ file: path, bytes }]
    }
    const skipped = { binary: 0, other: 0 }
    const texts = walk(path, skipped).flatMap((file) => {
      const start = readShared(file, sniffed)
      if (!looksBinary(start)) return [{ file, bytes: start.length < sniffed ? start : readShared(file) }]
      skipped.binary++
      return []
    })
    if (skipped.binary + skipped.other > 0) {
      notices.push(
        `${path}: left out ${skipped.binary} binary files and ${skipped.other} hidden entries, links or devices`,
      )
    }
    if (texts.every(({ bytes }) => bytes.length === 0)) throw empty(path, 'a folder with text files')
    return texts
  })
}

/** A file, or its first `limit` bytes, in shared memory. */
export function readShared(file: string, limit = Number.POSITIVE_INFINITY): Uint8Array<SharedArrayBuffer> {
  let descriptor: number
  try {
    descriptor = openSync(file, 'r')
  } catch (error) {
    throw unreadable(file, error)
  }
  try {
    const size = Math.min(fstatSync(descriptor).size, limit)
    const bytes = shared(size, file)
    for (let at = 0; at < size; ) {
      const count = readSync(descriptor, bytes, at, Math.min(size - at, readAtOnce), at)
      if (count === 0) {
        throw new DataError('DATA_FORMAT', file, {
          file,
          expected: `${size} bytes`,
          got: `${at} (cut short while reading)`,
        })
      }
      at += count
    }
    return bytes
  } catch (error) {
    throw error instanceof DataError ? error : unreadable(file, error)
  } finally {
    closeSync(descriptor)
  }
}

/** Shared memory for `size` bytes of what `file` holds. */
export function shared(size: number, file: string): Uint8Array<SharedArrayBuffer> {
  try {
    return new Uint8Array(new SharedArrayBuffer(size))
  } catch (error) {
    const details = { file, expected: 'data that fits into memory', got: `${size} bytes` }
    throw new DataError('DATA_UNREADABLE', file, details, { cause: error })
  }
}

export const empty = (file: string, expected: string): DataError =>
  new DataError('DATA_EMPTY', file, { file, expected, got: 'nothing (0 bytes)' })

const looksBinary = (bytes: Uint8Array): boolean => bytes.subarray(0, sniffed).includes(0)

function stats(path: string): ReturnType<typeof statSync> & object {
  try {
    return statSync(path)
  } catch (error) {
    throw unreadable(path, error)
  }
}

function walk(folder: string, skipped: { other: number }): string[] {
  let entries: ReturnType<typeof list>
  try {
    entries = list(folder)
  } catch (error) {
    throw unreadable(folder, error)
  }
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.name.startsWith('.')) skipped.other++
    else if (entry.isDirectory()) return walk(path, skipped)
    else if (entry.isFile()) return [path]
    else skipped.other++
    return []
  })
}

const list = (folder: string) =>
  readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
