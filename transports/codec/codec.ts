// Values as bytes between threads, by msgpackr. Refs become addresses and come back bound to the receiving host; errors keep name,
// code, details, message, stack and cause; shared memory and views of it travel by reference beside the bytes.
// What cannot travel is one error that names the place within the value.
import { addExtension, Packr, RESET_BUFFER_MODE, REUSE_BUFFER_MODE } from 'msgpackr'
import type { Address } from '../../runtime/actor/envelope.js'
import { ActorError, type ActorErrorCode } from '../../runtime/actor/errors.js'
import { Ref, type RefHost } from '../../runtime/actor/ref.js'
import { bindRef } from '../../runtime/actor/router.js'

/** Bytes, and the shared memory that they speak of by index. */
export interface Encoded {
  readonly bytes: Uint8Array
  readonly shared: readonly SharedArrayBuffer[]
}

const deepest = 500

const views = {
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
  DataView,
} as const
type ViewName = keyof typeof views

const errorClasses: Readonly<Record<string, ErrorConstructor>> = {
  EvalError,
  RangeError,
  ReferenceError,
  SyntaxError,
  TypeError,
  URIError,
}

interface PlainError {
  readonly name: string
  readonly message: string
  readonly stack: string | undefined
  readonly own: Readonly<Record<string, unknown>>
  readonly isActorError: boolean
}

/** What the bytes hold in place of a value that msgpack does not know. */
type Content =
  | readonly ['ref', Address]
  | readonly ['error', PlainError]
  | readonly ['shared', number]
  | readonly ['view', ViewName, number, number, number]
  | readonly ['negative zero']

class Box {
  constructor(readonly content: Content) {}
}

/** The decoding in progress; decoding is synchronous. */
let host: RefHost
let memory: readonly SharedArrayBuffer[]

addExtension({
  Class: Box,
  type: 0x54,
  write: (box: Box) => box.content,
  read: (content: Content) => open(content),
})

/** The packer's own buffer is returned, and used again for the next value. */
const inPlace = REUSE_BUFFER_MODE | RESET_BUFFER_MODE
const options = { useRecords: true, moreTypes: true, useToJSON: false, copyBuffers: true } as const
const packr = new Packr(options)

/** A value made ready for packing: boxes stand in for what msgpack does not know. */
interface Boxed {
  readonly value: unknown
  readonly shared: SharedArrayBuffer[]
  /** It holds no box. */
  readonly plain: boolean
}

/** Encodes a value for another host of the system of `from`. Throws `NOT_SERIALISABLE`. */
export function encode(value: unknown, from: RefHost): Encoded {
  const boxed = boxAll(value, from)
  // A slice of its own: posting a view of the packer's pool would copy the whole pool.
  return { bytes: Uint8Array.prototype.slice.call(packr.pack(boxed.value)), shared: boxed.shared }
}

/** Decodes what {@link encode} made; refs are bound to `to`. */
export function decode(encoded: Encoded, to: RefHost): unknown {
  host = to
  memory = encoded.shared
  return packr.unpack(encoded.bytes)
}

/** Encodes values that are all decoded once and in order: the shape of a record travels with its first use only. */
export class StreamEncoder {
  /** The latest value lies in these bytes from `start` to before `end`, 8-byte aligned, until the next is encoded. */
  bytes: Uint8Array = new Uint8Array(0)
  start = 0
  end = 0
  /** The shared memory that it speaks of by index. */
  shared: readonly SharedArrayBuffer[] = noShared
  /** It is of the stream's plain values, which share the structures of their records. */
  plain = true
  private readonly packr = new Packr({ ...options, sequential: true })

  constructor(private readonly from: () => RefHost) {}

  /** Throws `NOT_SERIALISABLE`, placing what is wrong under `name`; else the value must be sent. */
  encode(value: unknown, name?: string): void {
    let ready = value
    this.shared = noShared
    this.plain = isPlain(value, 0)
    if (!this.plain) {
      const boxed = boxAll(value, this.from(), name)
      ready = boxed.value
      this.shared = boxed.shared
      this.plain = boxed.plain
    }
    const bytes = (this.plain ? this.packr : packr).pack(ready, inPlace) as Buffer & { start: number; end: number }
    this.bytes = bytes
    this.start = bytes.start
    this.end = bytes.end
  }
}

const mostInterned = 64
const internSlots = 512

/** A buffer to decode from again and again: of short strings those that were seen lately are not made anew. */
export function decodable(bytes: number): Buffer {
  const buffer = Buffer.allocUnsafeSlow(bytes) as Buffer & { latin1Slice(start: number, end: number): string }
  const known: string[] = new Array(internSlots).fill('')
  const { latin1Slice } = buffer
  buffer.latin1Slice = (start, end) => {
    const length = end - start
    if (length > mostInterned) return latin1Slice.call(buffer, start, end)
    let hash = length
    for (let i = start; i < end; i++) hash = (Math.imul(hash, 31) + buffer[i]!) | 0
    const slot = (hash ^ (hash >>> 9)) & (internSlots - 1)
    const candidate = known[slot]!
    let same = candidate.length === length
    for (let i = 0; same && i < length; i++) same = candidate.charCodeAt(i) === buffer[start + i]
    if (same) return candidate
    const fresh = latin1Slice.call(buffer, start, end)
    known[slot] = fresh
    return fresh
  }
  return buffer
}

/** Decodes what a {@link StreamEncoder} made, in the same order. */
export class StreamDecoder {
  private readonly packr = new Packr({ ...options, sequential: true })

  constructor(private readonly to: () => RefHost) {}

  /** `bytes` may be longer than the value's `length`, and may be used again afterwards. */
  decode(bytes: Uint8Array, length: number, shared: readonly SharedArrayBuffer[], plain: boolean): unknown {
    host = this.to()
    memory = shared
    return (plain ? this.packr : packr).unpack(bytes, length)
  }
}

interface Walk {
  readonly from: RefHost
  readonly shared: SharedArrayBuffer[]
  depth: number
  plain: boolean
}

/** What cannot travel, and where it was found; each level of the walk adds its key in front. */
class Refusal {
  readonly path: (string | number)[] = []
  constructor(readonly what: string) {}

  at(key: string | number): this {
    this.path.unshift(key)
    return this
  }
}

const noShared: SharedArrayBuffer[] = []
const deepestPlain = 16

/** Whether msgpack knows a value as it is, as far as that is quickly seen. */
function isPlain(value: unknown, depth: number): boolean {
  if (typeof value !== 'object') return isPlainScalar(value)
  if (value === null) return true
  if (depth > deepestPlain) return false
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) if (!isPlain(value[i], depth + 1)) return false
    return true
  }
  if (Object.getPrototypeOf(value) !== Object.prototype) return false
  const fields = value as Record<string, unknown>
  for (const key in fields) {
    const item = fields[key]
    if (typeof item === 'object' ? !isPlain(item, depth + 1) : !isPlainScalar(item)) return false
  }
  return true
}

function isPlainScalar(value: unknown): boolean {
  switch (typeof value) {
    case 'string':
    case 'boolean':
    case 'undefined':
      return true
    case 'number':
      return value !== 0 || !Object.is(value, -0)
    default:
      return false
  }
}

function boxAll(value: unknown, from: RefHost, name?: string): Boxed {
  if (typeof value !== 'object' && typeof value !== 'function' && typeof value !== 'symbol' && !Object.is(value, -0))
    return { value, shared: noShared, plain: true }
  const walk: Walk = { from, shared: [], depth: 0, plain: true }
  try {
    return { value: box(value, walk), shared: walk.shared, plain: walk.plain }
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    const { path, what } = name === undefined ? error : error.at(name)
    const place = path.slice(0, 8).join('.') || 'the value itself'
    throw new ActorError(
      'NOT_SERIALISABLE',
      `encode: ${place}, expected plain data, a ref, an error or shared memory, got ${what}`,
      {
        place,
        got: what,
      },
    )
  }
}

/** The same value with boxes for what msgpack does not know; copies only what holds a box. */
function box(value: unknown, walk: Walk): unknown {
  switch (typeof value) {
    case 'function':
    case 'symbol':
      throw new Refusal(`a ${typeof value}`)
    case 'number':
      return value === 0 && Object.is(value, -0) ? boxed(walk, ['negative zero']) : value
    case 'object':
      return value === null ? value : boxObject(value, walk)
    default:
      return value
  }
}

function boxed(walk: Walk, content: Content): Box {
  walk.plain = false
  return new Box(content)
}

function boxObject(value: object, walk: Walk): unknown {
  if (walk.depth > deepest) throw new Refusal(`a circle, or nesting deeper than ${deepest}`)
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype === Object.prototype) return boxFields(value, walk, null)
  if (Array.isArray(value)) return boxArray(value, walk)
  if (value instanceof Ref) {
    if (value.host.system !== walk.from.system) throw new Refusal(`a ref of another system, ${value.host.system}`)
    return boxed(walk, ['ref', value.address])
  }
  if (value instanceof Error) return boxed(walk, ['error', boxError(value, walk)])
  if (value instanceof SharedArrayBuffer) return boxed(walk, ['shared', share(value, walk)])
  if (ArrayBuffer.isView(value)) return boxView(value, walk)
  if (value instanceof Date || value instanceof RegExp || value instanceof ArrayBuffer) return value
  if (value instanceof Map) {
    return new Map(boxArray([...value], walk) as [unknown, unknown][])
  }
  if (value instanceof Set) return new Set(boxArray([...value], walk))
  for (const kind of [Promise, WeakMap, WeakSet, WeakRef, MessagePort, AbortSignal]) {
    if (value instanceof kind) throw new Refusal(`a ${kind.name}`)
  }
  return boxFields(value, walk, { ...value })
}

/** Boxes own fields; `copy` is what replaces the value already. */
function boxFields(value: object, walk: Walk, copy: Record<string, unknown> | null): unknown {
  const fields = value as Record<string, unknown>
  walk.depth++
  for (const key in fields) {
    if (copy && !Object.hasOwn(fields, key)) continue
    const item = fields[key]
    const type = typeof item
    if (type === 'string' || type === 'boolean' || (type === 'number' && item !== 0)) continue
    let inner: unknown
    try {
      inner = box(item, walk)
    } catch (error) {
      throw error instanceof Refusal ? error.at(key) : error
    }
    if (inner !== item) {
      copy ??= { ...value }
      copy[key] = inner
    }
  }
  walk.depth--
  return copy ?? value
}

function boxArray(value: readonly unknown[], walk: Walk): readonly unknown[] {
  let copy: unknown[] | null = null
  walk.depth++
  for (let i = 0; i < value.length; i++) {
    let inner: unknown
    try {
      inner = box(value[i], walk)
    } catch (error) {
      throw error instanceof Refusal ? error.at(i) : error
    }
    if (inner !== value[i]) {
      copy ??= [...value]
      copy[i] = inner
    }
  }
  walk.depth--
  return copy ?? value
}

function boxView(value: ArrayBufferView, walk: Walk): unknown {
  const name = Buffer.isBuffer(value) ? 'Uint8Array' : (value.constructor.name as ViewName)
  if (!(value.buffer instanceof SharedArrayBuffer)) return value
  if (!(name in views)) throw new Refusal(`a ${value.constructor.name}`)
  const length = 'length' in value ? (value.length as number) : value.byteLength
  return boxed(walk, ['view', name, share(value.buffer, walk), value.byteOffset, length])
}

/** An error always travels: a property of it that cannot is told in words. */
function boxError(error: Error, walk: Walk): PlainError {
  const own: Record<string, unknown> = {}
  walk.depth++
  for (const key of new Set([...Object.keys(error), 'cause', 'errors'])) {
    if (key === 'name' || !Object.hasOwn(error, key)) continue
    const { depth } = walk
    const item = (error as unknown as Record<string, unknown>)[key]
    try {
      own[key] = box(item, walk)
    } catch {
      walk.depth = depth
      own[key] = String(item)
    }
  }
  walk.depth--
  const { name, message, stack } = error
  return { name, message, stack, own, isActorError: error instanceof ActorError }
}

function share(memory: SharedArrayBuffer, walk: Walk): number {
  const known = walk.shared.indexOf(memory)
  return known >= 0 ? known : walk.shared.push(memory) - 1
}

function open(content: Content): unknown {
  switch (content[0]) {
    case 'ref':
      return bindRef(host, content[1])
    case 'error':
      return openError(content[1])
    case 'shared':
      return memory[content[1]]
    case 'view': {
      const [, name, index, byteOffset, length] = content
      const View = views[name] as new (buffer: SharedArrayBuffer, byteOffset: number, length: number) => ArrayBufferView
      return new View(memory[index]!, byteOffset, length)
    }
    case 'negative zero':
      return -0
  }
}

function openError(plain: PlainError): Error {
  const { name, message, stack, own } = plain
  const error = plain.isActorError
    ? new ActorError(own.code as ActorErrorCode, message)
    : new (errorClasses[name] ?? Error)(message)
  for (const [key, value] of Object.entries({ name, stack, ...own })) {
    Object.defineProperty(error, key, {
      value,
      writable: true,
      configurable: true,
      enumerable: Object.hasOwn(own, key) && key !== 'cause',
    })
  }
  return error
}
