// A run's state to and from checkpoint folders: which bytes of which rank go where in which file.

import { CheckpointError } from '../../runtime/checkpoint/error.js'
import { type Manifest, modelFile, optimizerFile, type Progress } from '../../runtime/checkpoint/manifest.js'
import { planSafetensors, SafetensorsFile, type SafetensorsPlan } from '../../runtime/checkpoint/safetensors.js'
import type { Compilation } from '../../runtime/graph/compile.js'
import type { LanguageModel } from '../../runtime/nn/language-model.js'
import { modelConfig, modelMetadata } from '../../runtime/nn/models/huggingface.js'
import type { CheckpointFile, Piece } from '../checkpointer/protocol.js'
import { heldSpans, ownedSpans, parameterKind, type Span, stateKinds, type TensorKind } from './tensors.js'

/** Copies bytes out of, or into, the arenas of a rank. */
export interface ArenaAccess {
  read(rank: number, kind: TensorKind, spans: readonly Span[]): Promise<Uint8Array>
  write(rank: number, kind: TensorKind, spans: readonly Span[], bytes: Uint8Array): Promise<void>
}

/** Fills `target` with a tensor's elements from `start` on. */
export type TensorReader = (name: string, start: number, target: Float32Array) => void

const tensorName = (kind: TensorKind, parameter: string): string =>
  kind.state ? `${parameter}.${kind.state}` : parameter

/** Most bytes that are on their way to a rank at once. */
const chunkBytes = 64 << 20

/** The files of a checkpoint, with copies of all ranks' parts: consistent as long as no step runs meanwhile. */
export async function snapshot(
  compilation: Compilation,
  model: LanguageModel,
  access: ArenaAccess,
  tokenizer: string | undefined,
): Promise<CheckpointFile[]> {
  const states = stateKinds(compilation)
  const kinds: readonly [string, readonly TensorKind[], Readonly<Record<string, string>>][] = [
    [modelFile, [parameterKind], modelMetadata],
    [optimizerFile, states, {}],
  ]
  const files: CheckpointFile[] = [textFile('config.json', modelConfig(model))]
  if (tokenizer !== undefined) files.push(textFile('tokenizer.json', tokenizer))
  for (const [name, own, metadata] of kinds) {
    if (own.length === 0) continue
    const entries = own.flatMap((kind) =>
      compilation.layout.parameters.map(({ name: parameter, shape }) => ({
        name: tensorName(kind, parameter),
        dtype: 'F32' as const,
        shape,
      })),
    )
    const plan = planSafetensors(entries, metadata)
    const pieces: Piece[] = [{ byteOffset: 0, bytes: plan.header }]
    for (const kind of own) {
      for (let rank = 0; rank < compilation.layout.ranks; rank++)
        pieces.push(...(await rankPieces(compilation, kind, rank, plan, access)))
    }
    files.push({ name, totalBytes: plan.totalBytes, pieces })
  }
  return files
}

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
): Promise<Piece[]> {
  const spans = ownedSpans(compilation, kind, rank)
  const bytes = await access.read(rank, kind, spans)
  let at = 0
  return spans.map((span) => {
    const { byteOffset } = plan.tensors.get(tensorName(kind, span.name))!
    const piece = { byteOffset: byteOffset + 4 * span.start, bytes: bytes.subarray(at, at + span.bytes) }
    at += span.bytes
    return piece
  })
}

/** Writes a kind of tensors to every rank, each the elements that it holds. */
export async function restore(
  compilation: Compilation,
  kind: TensorKind,
  access: ArenaAccess,
  read: TensorReader,
): Promise<void> {
  for (let rank = 0; rank < compilation.layout.ranks; rank++) {
    let batch: Span[] = []
    const flush = async (): Promise<void> => {
      const total = batch.reduce((sum, span) => sum + span.count, 0)
      if (total === 0) return
      const values = new Float32Array(new SharedArrayBuffer(4 * total))
      let at = 0
      for (const span of batch) {
        read(tensorName(kind, span.name), span.start, values.subarray(at, at + span.count))
        at += span.count
      }
      await access.write(rank, kind, batch, new Uint8Array(values.buffer))
      batch = []
    }
    let pending = 0
    for (const span of heldSpans(compilation, kind, rank)) {
      if (pending + span.bytes > chunkBytes) {
        await flush()
        pending = 0
      }
      batch.push(span)
      pending += span.bytes
    }
    await flush()
  }
}

/** Opens a checkpoint's file for {@link restore} after checking that it holds this model's tensors. Throws {@link CheckpointError}. */
export function openTensors(path: string, compilation: Compilation, kinds: readonly TensorKind[]): SafetensorsFile {
  const file = new SafetensorsFile(path)
  for (const kind of kinds) {
    for (const { name, shape } of compilation.layout.parameters) {
      const stored = file.tensors.get(tensorName(kind, name))
      const got = stored ? `[${stored.shape.join(', ')}]` : 'none'
      if (got === `[${shape.join(', ')}]`) continue
      file.close()
      const message = `resume: tensor ${tensorName(kind, name)} of ${path}, expected [${shape.join(', ')}], got ${got}`
      throw new CheckpointError('CHECKPOINT_MISMATCH', message, { file: path, tensor: tensorName(kind, name) })
    }
  }
  return file
}

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
