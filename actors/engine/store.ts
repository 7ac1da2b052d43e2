// A run's state to and from checkpoint folders: which bytes of which rank go where in which file.
import { join } from 'node:path'
import { dtypeBytes } from '../../kernels/ops/definition.js'
import { store, viewOf } from '../../kernels/reference/storage.js'
import { CheckpointError } from '../../runtime/checkpoint/error.js'
import {
  type Manifest,
  modelFile,
  optimizerFile,
  type Progress,
  readManifest,
} from '../../runtime/checkpoint/manifest.js'
import { planSafetensors, SafetensorsFile, type SafetensorsPlan } from '../../runtime/checkpoint/safetensors.js'
import type { Compilation } from '../../runtime/graph/compile.js'
import type { WeightDType } from '../../runtime/graph/partition/layout.js'
import type { LanguageModel } from '../../runtime/nn/language-model.js'
import { modelConfig, modelMetadata } from '../../runtime/nn/models/huggingface.js'
import type { CheckpointFile, Piece } from '../checkpointer/protocol.js'
import {
  heldSpans,
  isSharded,
  ownedSpans,
  parameterKinds,
  type Span,
  stateKinds,
  type TensorKind,
  weightKinds,
} from './tensors.js'

/** Copies bytes out of, or into, the arenas of a rank. */
export interface ArenaAccess {
  /** The spans' bytes end to end into `target`, shared memory of that length. */
  read(rank: number, kind: TensorKind, spans: readonly Span[], target: Uint8Array): Promise<void>
  write(rank: number, kind: TensorKind, spans: readonly Span[], bytes: Uint8Array): Promise<void>
}

/** Fills `target` with a tensor's elements from `start` on. */
export type TensorReader = (name: string, start: number, target: Float32Array) => void

const tensorName = (kind: TensorKind, parameter: string): string =>
  kind.state ? `${parameter}.${kind.state}` : parameter

/** Most bytes that are on their way to a rank at once. */
const chunkBytes = 64 << 20

/** What safetensors calls the dtypes of weights. */
const fileDTypes = { f32: 'F32', bf16: 'BF16', f16: 'F16' } as const

/**
 * Shared memory by purpose, used again and again. A thread lets go of a SharedArrayBuffer only when it next collects garbage and does
 * not count its bytes towards that: one for each copy would pile up.
 */
export class Staging {
  readonly #buffers = new Map<string, SharedArrayBuffer>()

  /** The first `length` bytes of the memory for `purpose`, which has what was there last. */
  bytes(purpose: string, length: number): Uint8Array {
    let buffer = this.#buffers.get(purpose)
    if (!buffer || buffer.byteLength < length) {
      buffer = new SharedArrayBuffer(length)
      this.#buffers.set(purpose, buffer)
    }
    return new Uint8Array(buffer, 0, length)
  }
}

/**
 * The files of a checkpoint, with copies of all ranks' parts in `staging`: consistent as long as no step runs meanwhile, and until the
 * next snapshot.
 */
export async function snapshot(
  compilation: Compilation,
  model: LanguageModel,
  access: ArenaAccess,
  staging: Staging,
  tokenizer: string | undefined,
): Promise<CheckpointFile[]> {
  const [parameters, states] = [parameterKinds(compilation), stateKinds(compilation)]
  const kinds: readonly [string, readonly TensorKind[], Readonly<Record<string, string>>][] = [
    [modelFile, widestFirst(parameters), modelMetadata],
    [optimizerFile, states, {}],
  ]
  const full = parameters.every(({ dtype }) => dtype === 'bf16') ? 'bf16' : 'f32'
  const files = textFiles(model, full, tokenizer)
  for (const [name, own, metadata] of kinds) {
    if (own.length > 0) files.push(await tensorsFile(name, own, metadata, compilation, access, staging))
  }
  return files
}

/** The files of a Hugging Face folder of the weights that the model computes with, in their dtypes; `dtype` is the run's. */
export async function weightsSnapshot(
  compilation: Compilation,
  model: LanguageModel,
  dtype: WeightDType,
  access: ArenaAccess,
  staging: Staging,
  tokenizer: string | undefined,
): Promise<CheckpointFile[]> {
  const kinds = widestFirst(weightKinds(compilation))
  const weights = await tensorsFile(modelFile, kinds, modelMetadata, compilation, access, staging)
  return [...textFiles(model, dtype, tokenizer), weights]
}

/** So that every tensor of a file is aligned. */
const widestFirst = (kinds: readonly TensorKind[]): TensorKind[] =>
  kinds.toSorted((a, b) => dtypeBytes[b.dtype] - dtypeBytes[a.dtype])

/** All tensors of some kinds, from all ranks. */
async function tensorsFile(
  name: string,
  kinds: readonly TensorKind[],
  metadata: Readonly<Record<string, string>>,
  compilation: Compilation,
  access: ArenaAccess,
  staging: Staging,
): Promise<CheckpointFile> {
  const entries = kinds
    .flatMap((kind) => kind.slots.map((slot) => ({ kind, slot })))
    .map(({ kind, slot: { name: parameter, shape } }) => ({
      name: tensorName(kind, parameter),
      dtype: fileDTypes[kind.dtype],
      shape,
    }))
  const plan = planSafetensors(entries, metadata)
  const pieces: Piece[] = [{ byteOffset: 0, bytes: plan.header }]
  for (const kind of kinds) {
    for (let rank = 0; rank < compilation.layout.ranks; rank++)
      pieces.push(...(await rankPieces(compilation, kind, rank, plan, access, staging)))
  }
  return { name, totalBytes: plan.totalBytes, pieces }
}

/** What a Hugging Face folder holds beside its weights. */
const textFiles = (model: LanguageModel, dtype: WeightDType, tokenizer: string | undefined): CheckpointFile[] => [
  textFile('config.json', modelConfig(model, dtype)),
  ...(tokenizer === undefined ? [] : [textFile('tokenizer.json', tokenizer)]),
]

function textFile(name: string, text: string): CheckpointFile {
  const bytes = Buffer.from(text)
  return { name, totalBytes: bytes.length, pieces: [{ byteOffset: 0, bytes }] }
}

async function rankPieces(
  compilation: Compilation,
  kind: TensorKind,
  rank: number,
  plan: SafetensorsPlan,
  access: ArenaAccess,
  staging: Staging,
): Promise<Piece[]> {
  const spans = ownedSpans(compilation, kind, rank)
  const bytes = staging.bytes(`${kind.prefix} in ${kind.dtype} of rank ${rank}`, bytesOf(spans))
  await access.read(rank, kind, spans, bytes)
  let at = 0
  return spans.map((span) => {
    const { byteOffset } = plan.tensors.get(tensorName(kind, span.name))!
    const piece = {
      byteOffset: byteOffset + dtypeBytes[kind.dtype] * span.start,
      bytes: bytes.subarray(at, at + span.bytes),
    }
    at += span.bytes
    return piece
  })
}

/** Whether every rank holds all parameters and optimizer states. */
export const replicated = (compilation: Compilation): boolean =>
  [...parameterKinds(compilation), ...stateKinds(compilation)].every((kind) => !isSharded(compilation, kind))

/** Copies parameters and optimizer states, of which every rank holds all, from one rank to another. */
export async function copyState(
  compilation: Compilation,
  access: ArenaAccess,
  staging: Staging,
  from: number,
  to: number,
): Promise<void> {
  for (const kind of [...parameterKinds(compilation), ...stateKinds(compilation)]) {
    for (const batch of inBatches(kind, heldSpans(compilation, kind, from))) {
      const bytes = staging.bytes('chunk', bytesOf(batch))
      await access.read(from, kind, batch, bytes)
      await access.write(to, kind, batch, bytes)
    }
  }
}

/** Writes a kind of tensors to every rank, each the elements that it holds. */
export async function restore(
  compilation: Compilation,
  kind: TensorKind,
  access: ArenaAccess,
  staging: Staging,
  read: TensorReader,
): Promise<void> {
  const { dtype } = kind
  for (let rank = 0; rank < compilation.layout.ranks; rank++) {
    for (const batch of inBatches(kind, heldSpans(compilation, kind, rank))) {
      const bytes = staging.bytes('chunk', bytesOf(batch))
      const count = bytes.length / dtypeBytes[dtype]
      // Values are read as f32 and rounded to what the rank holds.
      const values = dtype === 'f32' ? new Float32Array(bytes.buffer, 0, count) : new Float32Array(count)
      let at = 0
      for (const span of batch) {
        read(tensorName(kind, span.name), span.start, values.subarray(at, at + span.count))
        at += span.count
      }
      if (dtype !== 'f32')
        store({ shape: [count], dtype, data: viewOf(dtype, bytes.buffer, bytes.byteOffset, count) }, values)
      await access.write(rank, kind, batch, bytes)
    }
  }
}

const bytesOf = (spans: readonly Span[]): number => spans.reduce((sum, span) => sum + span.bytes, 0)

/** Spans of a kind, cut where they are long, in groups of at most {@link chunkBytes}. */
function inBatches({ dtype }: TensorKind, spans: readonly Span[]): Span[][] {
  const batches: Span[][] = []
  let pending = Number.POSITIVE_INFINITY
  for (const span of spans.flatMap((whole) => inChunks(whole, dtypeBytes[dtype]))) {
    if (pending + span.bytes > chunkBytes) {
      batches.push([])
      pending = 0
    }
    batches.at(-1)!.push(span)
    pending += span.bytes
  }
  return batches
}

/** A span of elements of `size` bytes in pieces of at most {@link chunkBytes}. */
function inChunks(span: Span, size: number): Span[] {
  const most = chunkBytes / size
  return Array.from({ length: Math.ceil(span.count / most) }, (_, i) => {
    const first = i * most
    const count = Math.min(most, span.count - first)
    return {
      ...span,
      start: span.start + first,
      count,
      byteOffset: span.byteOffset + size * first,
      bytes: size * count,
    }
  })
}

/** Opens a checkpoint's file for {@link restore} after checking that it holds this model's tensors and no others. Throws {@link CheckpointError}. */
export function openTensors(path: string, kinds: readonly TensorKind[]): SafetensorsFile {
  const file = new SafetensorsFile(path)
  const expected = new Map(
    kinds.flatMap((kind) => kind.slots.map(({ name, shape }) => [tensorName(kind, name), shape] as const)),
  )
  for (const name of new Set([...expected.keys(), ...file.tensors.keys()])) {
    const [wanted, got] = [expected.get(name), file.tensors.get(name)?.shape].map(showShape)
    if (wanted === got) continue
    file.close()
    const message = `resume: tensor ${name} of ${path}, expected ${wanted}, got ${got}`
    throw new CheckpointError('CHECKPOINT_MISMATCH', message, { file: path, tensor: name })
  }
  return file
}

const showShape = (shape: readonly number[] | undefined): string => (shape ? `[${shape.join(', ')}]` : 'none')

export function manifestOf(compilation: Compilation, progress: Progress, version: string): Omit<Manifest, 'files'> {
  const { optimizer, stage, ranks } = compilation.sharding.options
  return {
    format: 'deeptroupe-checkpoint',
    version: 1,
    progress,
    optimizer: { kind: optimizer.kind, states: stateKinds(compilation).map((kind) => kind.state) },
    writer: { ranks, stage, deeptroupe: version },
  }
}

/** Reads a checkpoint's manifest; for training, its optimizer must be this run's. Throws {@link CheckpointError}. */
export function openCheckpoint(path: string, compilation: Compilation, training: boolean): Manifest {
  const manifest = readManifest(path)
  const { kind } = compilation.sharding.options.optimizer
  const states = stateKinds(compilation).map((state) => state.state)
  const show = (name: string, of: readonly string[]): string => `${name} (${of.join(', ') || 'no states'})`
  const [expected, got] = [show(kind, states), show(manifest.optimizer.kind, manifest.optimizer.states)]
  if (!training || expected === got) return manifest
  const message = `resume: optimizer of ${path}, expected ${expected}, got ${got}`
  throw new CheckpointError('CHECKPOINT_MISMATCH', message, { file: path })
}

/** Writes a checkpoint's parameters and, for training, optimizer states to all ranks. */
export async function restoreCheckpoint(
  path: string,
  compilation: Compilation,
  training: boolean,
  access: ArenaAccess,
  staging: Staging,
): Promise<void> {
  const states = training ? stateKinds(compilation) : []
  for (const [name, kinds] of [
    [modelFile, parameterKinds(compilation)],
    [optimizerFile, states],
  ] as const) {
    if (kinds.length === 0) continue
    const file = openTensors(join(path, name), kinds)
    try {
      for (const kind of kinds) {
        await restore(compilation, kind, access, staging, (tensor, start, target) =>
          file.readFloats(tensor, start, target),
        )
      }
    } finally {
      file.close()
    }
  }
}
