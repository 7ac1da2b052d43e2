// The safetensors format (https://github.com/huggingface/safetensors): 8 bytes of header length, a JSON header, then the tensors' bytes.
// The reader believes nothing: before any tensor is touched the header must account for every byte of the file exactly once.
// It reads ranges of tensors on demand. The writer fixes all offsets first, so that several writers can fill parts of one file.
// Numbers are little-endian in the file and on every machine that is supported.
import { closeSync, fstatSync, openSync, readSync, writeSync } from 'node:fs'
import { elements } from '../../kernels/ops/definition.js'
import { load } from '../../kernels/reference/storage.js'
import { CheckpointError } from './error.js'

/** Element types of the format that are read and written here, with their bytes. */
export const safetensorsBytes = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const
export type SafetensorsDType = keyof typeof safetensorsBytes

export interface TensorEntry {
  readonly name: string
  readonly dtype: SafetensorsDType
  readonly shape: readonly number[]
}

/** A tensor of an open file: its bytes are `byteOffset` to `byteOffset + byteLength` of the file. */
export interface StoredTensor extends TensorEntry {
  readonly byteOffset: number
  readonly byteLength: number
}

/** The longest header that is accepted, as in the format's own library. */
const maxHeaderBytes = 100_000_000
const alignment = 8
const metadataKey = '__metadata__'
/** Bytes that a conversion reads at a time. */
const chunkBytes = 1 << 22

/** An open file. Reads are synchronous; several readers may share it. */
export class SafetensorsFile {
  readonly path: string
  readonly metadata: Readonly<Record<string, string>>
  /** In the order of their bytes. */
  readonly tensors: ReadonlyMap<string, StoredTensor>
  readonly #descriptor: number

  /** Opens and checks `path`. Throws {@link CheckpointError} naming file and tensor. */
  constructor(path: string) {
    this.path = path
    this.#descriptor = attempt(path, 'open', () => openSync(path, 'r'))
    try {
      const { metadata, tensors } = readHeader(path, this.#descriptor)
      this.metadata = metadata
      this.tensors = tensors
    } catch (error) {
      closeSync(this.#descriptor)
      throw error
    }
  }

  /** The tensor of that name. Throws {@link CheckpointError} if the file has none. */
  tensor(name: string): StoredTensor {
    const tensor = this.tensors.get(name)
    if (!tensor) {
      const message = `safetensors: tensor ${name} of ${this.path}, expected to be there, got ${this.tensors.size} others`
      throw new CheckpointError('CHECKPOINT_MISSING', message, { file: this.path, tensor: name })
    }
    return tensor
  }

  /** Fills `target` with the tensor's bytes from `byteStart` on. */
  readBytes(name: string, byteStart: number, target: Uint8Array): void {
    const tensor = this.tensor(name)
    if (byteStart < 0 || byteStart + target.length > tensor.byteLength) {
      const message = `safetensors: range of ${name} of ${this.path}, expected within ${tensor.byteLength} bytes, got ${byteStart} to ${byteStart + target.length}`
      throw new CheckpointError('CHECKPOINT_FORMAT', message, { file: this.path, tensor: name })
    }
    readFully(this.path, this.#descriptor, tensor.byteOffset + byteStart, target)
  }

  /** Fills `target` with elements `start` on of a float tensor; F64, F16 and BF16 are converted to f32. */
  readFloats(name: string, start: number, target: Float32Array): void {
    const { dtype } = this.tensor(name)
    if (dtype === 'F32') {
      this.readBytes(name, 4 * start, new Uint8Array(target.buffer, target.byteOffset, target.byteLength))
      return
    }
    const convert = floatDecoders[dtype]
    if (!convert) throw this.#unexpected(name, 'a float', dtype)
    this.#inChunks(name, start, target.length, (view, count, at) => {
      for (let i = 0; i < count; i++) target[at + i] = convert(view, i)
    })
  }

  /** Fills `target` with elements `start` on of an integer tensor. Throws where one does not fit into 32 bits. */
  readIntegers(name: string, start: number, target: Int32Array): void {
    const { dtype } = this.tensor(name)
    const decode = integerDecoders[dtype]
    if (!decode) throw this.#unexpected(name, 'an integer', dtype)
    this.#inChunks(name, start, target.length, (view, count, at) => {
      for (let i = 0; i < count; i++) {
        const value = decode(view, i)
        if (value !== (value | 0)) {
          const message = `safetensors: element ${start + at + i} of ${name} of ${this.path}, expected 32 bits, got ${value}`
          throw new CheckpointError('CHECKPOINT_FORMAT', message, { file: this.path, tensor: name })
        }
        target[at + i] = value
      }
    })
  }

  close(): void {
    closeSync(this.#descriptor)
  }

  #inChunks(
    name: string,
    start: number,
    count: number,
    take: (view: DataView, count: number, at: number) => void,
  ): void {
    const size = safetensorsBytes[this.tensor(name).dtype]
    const scratch = new Uint8Array(Math.min(count * size, chunkBytes))
    for (let at = 0; at < count; at += chunkBytes / size) {
      const part = scratch.subarray(0, Math.min(count - at, chunkBytes / size) * size)
      this.readBytes(name, (start + at) * size, part)
      take(new DataView(part.buffer, part.byteOffset, part.byteLength), part.length / size, at)
    }
  }

  #unexpected(name: string, expected: string, dtype: string): CheckpointError {
    const message = `safetensors: dtype of ${name} of ${this.path}, expected ${expected}, got ${dtype}`
    return new CheckpointError('CHECKPOINT_MISMATCH', message, { file: this.path, tensor: name })
  }
}

/** Where everything of a file to be written goes. */
export interface SafetensorsPlan {
  /** The file's first bytes: header length and header, padded so that tensors start aligned. */
  readonly header: Uint8Array
  /** In the order of their bytes, which is by falling element size. */
  readonly tensors: ReadonlyMap<string, StoredTensor>
  readonly totalBytes: number
}

/** The layout of a file with these tensors. Pure: equal arguments give equal bytes. */
export function planSafetensors(
  entries: readonly TensorEntry[],
  metadata: Readonly<Record<string, string>> = {},
): SafetensorsPlan {
  const sorted = [...entries].sort((a, b) => safetensorsBytes[b.dtype] - safetensorsBytes[a.dtype])
  const tensors: (TensorEntry & { readonly start: number; readonly byteLength: number })[] = []
  const json = new Map<string, unknown>(Object.keys(metadata).length ? [[metadataKey, metadata]] : [])
  let end = 0
  for (const { name, dtype, shape } of sorted) {
    if (json.has(name) || name === metadataKey) {
      const message = `safetensors: name ${name}, expected one tensor, got another entry of that name`
      throw new CheckpointError('CHECKPOINT_FORMAT', message, { tensor: name })
    }
    const byteLength = elements(shape) * safetensorsBytes[dtype]
    tensors.push({ name, dtype, shape, start: end, byteLength })
    json.set(name, { dtype, shape, data_offsets: [end, end + byteLength] })
    end += byteLength
  }
  const text = Buffer.from(JSON.stringify(Object.fromEntries(json)))
  const length = Math.ceil(text.length / alignment) * alignment
  const header = Buffer.alloc(8 + length, ' ')
  header.writeBigUInt64LE(BigInt(length))
  text.copy(header, 8)
  const placed = tensors.map(
    ({ start, ...tensor }) => [tensor.name, { ...tensor, byteOffset: header.length + start }] as const,
  )
  return { header, tensors: new Map(placed), totalBytes: header.length + end }
}

/** A tensor with its values; `data` holds, or makes when its turn comes, `shape`'s elements in the format of `dtype`. */
export interface TensorData extends TensorEntry {
  readonly data: NodeJS.TypedArray | (() => NodeJS.TypedArray)
}

/** Writes a whole file in one go. Throws {@link CheckpointError} naming the file where it cannot. */
export function writeSafetensors(
  path: string,
  tensors: readonly TensorData[],
  metadata: Readonly<Record<string, string>> = {},
): void {
  const plan = planSafetensors(tensors, metadata)
  const descriptor = attempt(path, 'write', () => openSync(path, 'w'))
  try {
    writeFully(path, descriptor, 0, plan.header)
    for (const { name, data: source } of tensors) {
      const data = typeof source === 'function' ? source() : source
      const { byteOffset, byteLength } = plan.tensors.get(name)!
      if (data.byteLength !== byteLength) {
        const message = `safetensors: bytes of ${name} for ${path}, expected ${byteLength}, got ${data.byteLength}`
        throw new CheckpointError('CHECKPOINT_MISMATCH', message, { file: path, tensor: name })
      }
      writeFully(path, descriptor, byteOffset, new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    }
  } finally {
    closeSync(descriptor)
  }
}

type Decoder = (view: DataView, index: number) => number

/** The numbers that the 16-bit patterns of a dtype stand for. */
function halfTable(dtype: 'f16' | 'bf16'): Float32Array {
  const data = Uint16Array.from({ length: 1 << 16 }, (_, bits) => bits)
  return Float32Array.from(load({ shape: [data.length], dtype, data }))
}

function halfDecoder(dtype: 'f16' | 'bf16'): Decoder {
  let table: Float32Array | undefined
  return (view, i) => {
    table ??= halfTable(dtype)
    return table[view.getUint16(2 * i, true)]!
  }
}

const floatDecoders: Partial<Record<SafetensorsDType, Decoder>> = {
  F64: (view, i) => view.getFloat64(8 * i, true),
  F16: halfDecoder('f16'),
  BF16: halfDecoder('bf16'),
}

const integerDecoders: Partial<Record<SafetensorsDType, Decoder>> = {
  I64: (view, i) => Number(view.getBigInt64(8 * i, true)),
  U64: (view, i) => Number(view.getBigUint64(8 * i, true)),
  I32: (view, i) => view.getInt32(4 * i, true),
  U32: (view, i) => view.getUint32(4 * i, true),
  I16: (view, i) => view.getInt16(2 * i, true),
  U16: (view, i) => view.getUint16(2 * i, true),
  I8: (view, i) => view.getInt8(i),
  U8: (view, i) => view.getUint8(i),
}

function readHeader(
  path: string,
  descriptor: number,
): { metadata: Record<string, string>; tensors: Map<string, StoredTensor> } {
  const fail = (what: string, expected: string, got: unknown, tensor?: string): never => {
    const subject = tensor === undefined ? what : `${what} of ${tensor.slice(0, 100)}`
    const message = `safetensors: ${subject} of ${path}, expected ${expected}, got ${got}`
    throw new CheckpointError(
      'CHECKPOINT_FORMAT',
      message,
      tensor === undefined ? { file: path } : { file: path, tensor },
    )
  }
  const stat = attempt(path, 'read', () => fstatSync(descriptor))
  if (!stat.isFile()) fail('type', 'a file', 'something else')
  if (stat.size < 8) fail('size', 'at least 8 bytes', stat.size)
  const lengthBytes = Buffer.alloc(8)
  readFully(path, descriptor, 0, lengthBytes)
  const headerBytes = lengthBytes.readBigUInt64LE()
  const limit = Math.min(stat.size - 8, maxHeaderBytes)
  if (headerBytes > limit) fail('header length', `at most ${limit}`, headerBytes)

  const header = Buffer.alloc(Number(headerBytes))
  readFully(path, descriptor, 8, header)
  let json: unknown
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header))
  } catch (error) {
    fail('header', 'JSON in UTF-8', (error as Error).message)
  }
  if (!isRecord(json)) return fail('header', 'a JSON object', show(json))

  const metadata = new Map<string, string>()
  const found: StoredTensor[] = []
  const dataStart = 8 + header.length
  for (const [name, entry] of Object.entries(json)) {
    if (!isRecord(entry)) return fail('entry', 'an object', show(entry), name)
    if (name === metadataKey) {
      for (const [key, value] of Object.entries(entry)) {
        if (typeof value !== 'string') return fail(`metadata ${key}`, 'a string', show(value))
        metadata.set(key, value)
      }
      continue
    }
    const { dtype, shape, data_offsets: offsets } = entry
    if (typeof dtype !== 'string' || !Object.hasOwn(safetensorsBytes, dtype)) {
      return fail('dtype', `one of ${Object.keys(safetensorsBytes).join(', ')}`, show(dtype), name)
    }
    if (!isCounts(shape)) return fail('shape', 'a list of whole numbers', show(shape), name)
    if (!isCounts(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!) {
      return fail('data_offsets', '[begin, end]', show(offsets), name)
    }
    const [begin, end] = offsets as [number, number]
    const byteLength = elements(shape) * safetensorsBytes[dtype as SafetensorsDType]
    if (end > stat.size - dataStart) {
      fail('data_offsets', `an end of at most ${stat.size - dataStart}`, show(offsets), name)
    }
    if (byteLength !== end - begin) fail('bytes', `${byteLength} for ${dtype}[${shape.join(', ')}]`, end - begin, name)
    found.push({ name, dtype: dtype as SafetensorsDType, shape, byteOffset: dataStart + begin, byteLength })
  }

  found.sort((a, b) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength)
  let next = dataStart
  for (const { name, byteOffset, byteLength } of found) {
    if (byteOffset !== next) {
      fail('begin', `${next - dataStart}, where the tensor before it ends`, byteOffset - dataStart, name)
    }
    next += byteLength
  }
  if (next !== stat.size) fail('size', `${next} bytes by its header`, stat.size)
  return { metadata: Object.fromEntries(metadata), tensors: new Map(found.map((tensor) => [tensor.name, tensor])) }
}

/** A JSON value in a few characters, however deep it is. */
function show(value: unknown): string {
  if (Array.isArray(value)) {
    return value.length <= 8 && value.every((v) => typeof v === 'number') ? `[${value}]` : 'a list'
  }
  if (typeof value === 'object' && value !== null) return 'an object'
  return typeof value === 'string' ? `"${value.slice(0, 40)}"` : String(value)
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0)

function readFully(path: string, descriptor: number, position: number, target: Uint8Array): void {
  for (let at = 0; at < target.length; ) {
    const count = attempt(path, 'read', () =>
      readSync(descriptor, target, at, Math.min(target.length - at, 1 << 30), position + at),
    )
    if (count === 0) {
      const message = `safetensors: size of ${path}, expected at least ${position + target.length} bytes, got ${position + at}`
      throw new CheckpointError('CHECKPOINT_FORMAT', message, { file: path })
    }
    at += count
  }
}

function writeFully(path: string, descriptor: number, position: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) {
    const length = Math.min(bytes.length - at, 1 << 30)
    at += attempt(path, 'write', () => writeSync(descriptor, bytes, at, length, position + at))
  }
}

function attempt<T>(path: string, doing: string, action: () => T): T {
  try {
    return action()
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    const kind = code === 'ENOENT' ? 'CHECKPOINT_MISSING' : 'CHECKPOINT_IO'
    const message = `safetensors: ${doing} ${path}, expected success, got ${(error as Error).message}`
    throw new CheckpointError(kind, message, { file: path }, { cause: error })
  }
}
