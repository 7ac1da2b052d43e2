// A checkpoint is a folder: the model as a Hugging Face folder (config.json, model.safetensors), the optimizer's states under the
// parameters' names (optimizer.safetensors) and a manifest with checksums. Every tensor is whole and named, so that any number of
// ranks in any ZeRO stage can write its parts and read them back. `latest` beside the folders names the newest whole one.
import { createHash } from 'node:crypto'
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import * as z from 'zod'
import { CheckpointError } from './error.js'

export const manifestName = 'manifest.json'
export const modelFile = 'model.safetensors'
export const optimizerFile = 'optimizer.safetensors'

const count = z.int().min(0)

const manifestSchema = z.object({
  format: z.literal('deeptroupe-checkpoint'),
  version: z.literal(1),
  progress: z
    .object({
      /** Steps done. */
      step: count,
      /** Optimizer steps applied: what schedules and bias corrections count. */
      applied: count,
      /** Samples consumed. */
      samples: count,
      seed: count,
      shuffle: z.boolean(),
      /** State of the loss scaler, in fp16. */
      loss_scale: z
        .object({ scale: z.number().positive(), iteration: count, last_overflow: z.int().min(-1), hysteresis: count })
        .readonly()
        .optional(),
    })
    .readonly(),
  /** `adam` or `sgd`, and the names of its state tensors. */
  optimizer: z.object({ kind: z.string(), states: z.array(z.string()).readonly() }).readonly(),
  /** What wrote it; nothing of this binds a run that resumes. */
  writer: z.object({ ranks: count, stage: count, deeptroupe: z.string() }).readonly(),
  files: z.record(z.string(), z.object({ bytes: count, sha256: z.string() }).readonly()).readonly(),
})

export type Manifest = Readonly<z.output<typeof manifestSchema>>

/** What a run needs beside tensors to go on bit for bit. */
export type Progress = Manifest['progress']

export type SavedScaler = NonNullable<Progress['loss_scale']>

/** The folder of a step's checkpoint, DeepSpeed's tag. */
export const tagOf = (step: number): string => `global_step${step}`
/** What a checkpoint's name ends with while another of the same step takes its place. */
export const replacedSuffix = '.replaced'
const tagPattern = /^global_step(\d+)(\.replaced)?$/

/** Whole checkpoints within `folder`, oldest first; one that is being replaced comes before its successor. */
export function listCheckpoints(folder: string): { readonly step: number; readonly path: string }[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .flatMap((name) => {
      const [, step, replaced] = tagPattern.exec(name) ?? []
      const path = join(folder, name)
      return step && existsSync(join(path, manifestName)) ? [{ step: Number(step), path, order: replaced ? 0 : 1 }] : []
    })
    .sort((a, b) => a.step - b.step || a.order - b.order)
    .map(({ step, path }) => ({ step, path }))
}

/** The checkpoint that `path` means: itself, or the newest whole one within it. Throws {@link CheckpointError}. */
export function findCheckpoint(path: string): string {
  if (existsSync(join(path, manifestName))) return path
  const newest = listCheckpoints(path).at(-1)
  if (newest) return newest.path
  const got = existsSync(path) ? 'a folder without one' : 'no such folder'
  throw new CheckpointError(
    'CHECKPOINT_MISSING',
    `resume: checkpoint ${path}, expected a checkpoint or a folder of them, got ${got}`,
    {
      file: path,
    },
  )
}

/** SHA-256 of a file, read in pieces. */
function hashFile(path: string): string {
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
  let json: unknown
  try {
    json = JSON.parse(readFileSync(file, 'utf8'))
  } catch (error) {
    return fail(manifestName, 'JSON', error instanceof Error ? error.message : String(error))
  }
  const { data: manifest, error } = manifestSchema.safeParse(json, { reportInput: true })
  if (!manifest) {
    const { path: key, message, input } = error.issues[0]!
    const expected = message.replace(/^[^:]*: expected |, received .*$/g, '')
    return fail(key.join('.') || manifestName, expected, input === undefined ? 'none' : JSON.stringify(input))
  }
  for (const [name, { bytes, sha256 }] of Object.entries(manifest.files)) {
    const whole = join(path, basename(name))
    if (!existsSync(whole)) fail(`file ${name}`, `${bytes} bytes`, 'no such file')
    if (statSync(whole).size !== bytes) fail(`file ${name}`, `${bytes} bytes`, `${statSync(whole).size} bytes`)
    if (hashFile(whole) !== sha256)
      fail(`file ${name}`, 'the checksum of the manifest', 'another: its bytes were changed')
  }
  return manifest
}
