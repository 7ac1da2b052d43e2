// A checkpoint is a folder: the model as a Hugging Face folder (config.json, model.safetensors), the optimizer's states under the
// parameters' names (optimizer.safetensors) and a manifest with checksums. Every tensor is whole and named, so that any number of
// ranks in any ZeRO stage can write its parts and read them back. `latest` beside the folders names the newest whole one.
import { createHash } from 'node:crypto'
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { CheckpointError } from './error.js'

export const manifestName = 'manifest.json'
export const modelFile = 'model.safetensors'
export const optimizerFile = 'optimizer.safetensors'

/** What a run needs beside tensors to go on bit for bit. */
export interface Progress {
  /** Steps done. */
  readonly step: number
  /** Optimizer steps applied: what schedules and bias corrections count. */
  readonly applied: number
  /** Samples consumed. */
  readonly samples: number
  readonly seed: number
  readonly shuffle: boolean
}

export interface Manifest {
  readonly format: 'deeptroupe-checkpoint'
  readonly version: 1
  readonly progress: Progress
  /** `adam` or `sgd`, and the names of its state tensors. */
  readonly optimizer: { readonly kind: string; readonly states: readonly string[] }
  /** What wrote it; nothing of this binds a run that resumes. */
  readonly writer: { readonly ranks: number; readonly stage: number; readonly deeptroupe: string }
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>
}

/** The folder of a step's checkpoint, DeepSpeed's tag. */
export const tagOf = (step: number): string => `global_step${step}`
const tagPattern = /^global_step(\d+)$/

/** Whole checkpoints within `folder`, oldest first. */
export function listCheckpoints(folder: string): { readonly step: number; readonly path: string }[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .flatMap((name) => {
      const step = tagPattern.exec(name)?.[1]
      const path = join(folder, name)
      return step && existsSync(join(path, manifestName)) ? [{ step: Number(step), path }] : []
    })
    .sort((a, b) => a.step - b.step)
}

/** The checkpoint that `path` means: itself, or the newest whole one within it. Throws {@link CheckpointError}. */
export function findCheckpoint(path: string): string {
  if (existsSync(join(path, manifestName))) return path
  const newest = listCheckpoints(path).at(-1)
  if (newest) return newest.path
  const got = existsSync(path) ? 'a folder without one' : 'no such folder'
  throw new CheckpointError('CHECKPOINT_MISSING', `resume: checkpoint ${path}, expected a checkpoint or a folder of them, got ${got}`, {
    file: path,
  })
}

/** SHA-256 of a file, read in pieces. */
export function hashFile(path: string): string {
  const hash = createHash('sha256')
  const descriptor = openSync(path, 'r')
  try {
    const buffer = Buffer.allocUnsafe(1 << 22)
    for (let count = readSync(descriptor, buffer); count > 0; count = readSync(descriptor, buffer)) {
      hash.update(buffer.subarray(0, count))
    }
  } finally {
    closeSync(descriptor)
  }
  return hash.digest('hex')
}

/** Reads and checks a checkpoint's manifest and the checksum of every file. Throws {@link CheckpointError} naming the file. */
export function readManifest(path: string): Manifest {
  const file = join(path, manifestName)
  const fail = (what: string, expected: string, got: string): never => {
    const message = `resume: ${what} of checkpoint ${path}, expected ${expected}, got ${got}`
    throw new CheckpointError('CHECKPOINT_FORMAT', message, { file })
  }
  let manifest: Manifest
  try {
    manifest = JSON.parse(readFileSync(file, 'utf8'))
  } catch (error) {
    return fail(manifestName, 'JSON', error instanceof Error ? error.message : String(error))
  }
  if (manifest?.format !== 'deeptroupe-checkpoint') return fail('format', 'deeptroupe-checkpoint', String(manifest?.format))
  if (manifest.version !== 1) return fail('version', '1', String(manifest.version))
  for (const [name, { bytes, sha256 }] of Object.entries(manifest.files)) {
    const whole = join(path, basename(name))
    if (!existsSync(whole)) fail(`file ${name}`, `${bytes} bytes`, 'no such file')
    if (statSync(whole).size !== bytes) fail(`file ${name}`, `${bytes} bytes`, `${statSync(whole).size} bytes`)
    if (hashFile(whole) !== sha256) fail(`file ${name}`, 'the checksum of the manifest', 'another: its bytes were changed')
  }
  return manifest
}

/** The folder that holds a checkpoint's siblings. */
export const checkpointHome = (path: string): string => dirname(path)
