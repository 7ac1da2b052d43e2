// Writes checkpoints so that the newest whole one survives anything: into a folder with a temporary name, synced, then renamed.
import { createHash } from 'node:crypto'
import { createReadStream, existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { type Behaviour, defineActor } from '../../runtime/actor/definition.js'
import { CheckpointError } from '../../runtime/checkpoint/error.js'
import { listCheckpoints, manifestName, replacedSuffix, tagOf } from '../../runtime/checkpoint/manifest.js'
import type { CheckpointerProtocol, CheckpointFile, CheckpointOrder, ExportOrder } from './protocol.js'

const temporary = '.writing-'

async function writeFile(folder: string, file: CheckpointFile): Promise<void> {
  const handle = await open(join(folder, file.name), 'w')
  try {
    for (const { byteOffset, bytes } of file.pieces) await writeAt(handle, bytes, byteOffset)
    await handle.truncate(file.totalBytes)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function writeAt(handle: FileHandle, bytes: Uint8Array, byteOffset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, byteOffset + done)
    done += bytesWritten
  }
}

/** In pieces, so that the data loader beside gets its turns. */
async function hash(path: string): Promise<string> {
  const sum = createHash('sha256')
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) sum.update(piece as Buffer)
  return sum.digest('hex')
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function save(order: CheckpointOrder): Promise<string> {
  const { folder, files, manifest, keep } = order
  const target = join(folder, tagOf(manifest.progress.step))
  const draft = join(folder, `${temporary}${tagOf(manifest.progress.step)}`)
  try {
    mkdirSync(folder, { recursive: true })
    for (const name of readdirSync(folder)) {
      if (name.startsWith(temporary)) rmSync(join(folder, name), { recursive: true, force: true })
    }
    mkdirSync(draft)
    const sums: Record<string, { bytes: number; sha256: string }> = {}
    for (const file of files) {
      await writeFile(draft, file)
      sums[file.name] = { bytes: file.totalBytes, sha256: await hash(join(draft, file.name)) }
    }
    const text = Buffer.from(`${JSON.stringify({ ...manifest, files: sums }, null, 2)}\n`)
    await writeFile(draft, { name: manifestName, totalBytes: text.length, pieces: [{ byteOffset: 0, bytes: text }] })
    await sync(draft)
    const replaced = `${target}${replacedSuffix}`
    if (existsSync(target)) {
      rmSync(replaced, { recursive: true, force: true })
      renameSync(target, replaced)
    }
    renameSync(draft, target)
    rmSync(replaced, { recursive: true, force: true })
    writeFileSync(join(folder, `${temporary}latest`), `${tagOf(manifest.progress.step)}\n`)
    renameSync(join(folder, `${temporary}latest`), join(folder, 'latest'))
    await sync(folder)
  } catch (error) {
    rmSync(draft, { recursive: true, force: true })
    const reason = error instanceof Error ? error.message : String(error)
    throw new CheckpointError(
      'CHECKPOINT_IO',
      `save: folder ${folder}, expected to write ${tagOf(manifest.progress.step)}, got ${reason}`,
      {
        file: folder,
      },
    )
  }
  if (keep > 0) {
    const own = listCheckpoints(folder).filter(({ step }) => step <= manifest.progress.step)
    for (const { path } of own.slice(0, -keep)) rmSync(path, { recursive: true })
  }
  return target
}

/** Leaves the folder as it was where it gives a reason. */
async function exportFiles({ folder, files }: ExportOrder): Promise<string | null> {
  // Other weights under a checkpoint's checksums would make it useless.
  if (existsSync(join(folder, manifestName))) return `expected one without ${manifestName}, got a checkpoint`
  const drafts = files.map((file) => ({ ...file, name: `${temporary}${file.name}` }))
  try {
    mkdirSync(folder, { recursive: true })
    for (const draft of drafts) await writeFile(folder, draft)
    files.forEach(({ name }, i) => {
      renameSync(join(folder, drafts[i]!.name), join(folder, name))
    })
    await sync(folder)
    return null
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    if (existsSync(folder)) for (const { name } of drafts) rmSync(join(folder, name), { force: true })
    return `expected to write ${files.map(({ name }) => name).join(', ')}, got ${reason}`
  }
}

const behaviour: Behaviour<CheckpointerProtocol, null> = {
  init: () => null,
  receive: { save: (_state, order) => save(order), export: (_state, order) => exportFiles(order) },
}

export const checkpointer = defineActor(import.meta.url, 'checkpointer', behaviour)
