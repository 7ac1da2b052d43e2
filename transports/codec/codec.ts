// Values as bytes between threads, by msgpackr. Refs become addresses and come back bound to the receiving host; errors keep name,
// code, details, message, stack and cause; shared memory and views of it travel by reference beside the bytes.
// What cannot travel is one error that names the place within the value.
import { addExtension, Packr } from 'msgpackr'
import type { Address } from '../../runtime/actor/envelope.js'
import { ActorError, type ActorErrorCode } from '../../runtime/actor/errors.js'
import { Ref, type RefHost } from '../../runtime/actor/ref.js'

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

const packr = new Packr({ useRecords: true, moreTypes: true, useToJSON: false })

/** Encodes a value for another host of the system of `from`. Throws `NOT_SERIALISABLE`. */
export function encode(value: unknown, from: RefHost): Encoded {
  const shared: SharedArrayBuffer[] = []
  const boxed = box(value, { from, shared, path: [] })
  // A slice of its own: posting a view of the packer's pool would copy the whole pool.
  return { bytes: Uint8Array.prototype.slice.call(packr.pack(boxed)), shared }
}

/** Decodes what {@link encode} made; refs are bound to `to`. */
export function decode(encoded: Encoded, to: RefHost): unknown {
  host = to
  memory = encoded.shared
  return packr.unpack(encoded.bytes)
}

interface Walk {
  readonly from: RefHost
  readonly shared: SharedArrayBuffer[]
  readonly path: (string | number)[]
}

/** The same value with boxes for what msgpack does not know; copies only what holds a box. */
function box(value: unknown, walk: Walk): unknown {
  switch (typeof value) {
    case 'function':
    case 'symbol':
      return refuse(walk, `a ${typeof value}`)
    case 'number':
      return Object.is(value, -0) ? new Box(['negative zero']) : value
    case 'object':
      if (value === null) return value
      if (walk.path.length > deepest) return refuse(walk, `a circle, or nesting deeper than ${deepest}`)
      return boxObject(value, walk)
    default:
      return value
  }
}

function boxObject(value: object, walk: Walk): unknown {
  if (Array.isArray(value)) return boxArray(value, walk)
  if (value instanceof Ref) {
    if (value.host.system !== walk.from.system) return refuse(walk, `a ref of another system, ${value.host.system}`)
    return new Box(['ref', value.address])
  }
  if (value instanceof Error) return new Box(['error', boxError(value, walk)])
  if (value instanceof SharedArrayBuffer) return new Box(['shared', share(value, walk)])
  if (ArrayBuffer.isView(value)) return boxView(value, walk)
  if (value instanceof Date || value instanceof RegExp || value instanceof ArrayBuffer) return value
  if (value instanceof Map) {
    return new Map(boxArray([...value], walk) as [unknown, unknown][])
  }
  if (value instanceof Set) return new Set(boxArray([...value], walk))
  for (const kind of [Promise, WeakMap, WeakSet, WeakRef, MessagePort, AbortSignal]) {
    if (value instanceof kind) return refuse(walk, `a ${kind.name}`)
  }
  let copy: Record<string, unknown> | null = Object.getPrototypeOf(value) === Object.prototype ? null : { ...value }
  for (const [key, item] of Object.entries(value)) {
    walk.path.push(key)
    const boxed = box(item, walk)
    walk.path.pop()
    if (boxed !== item) {
      copy ??= { ...value }
      copy[key] = boxed
    }
  }
  return copy ?? value
}

function boxArray(value: readonly unknown[], walk: Walk): readonly unknown[] {
  let copy: unknown[] | null = null
  for (let i = 0; i < value.length; i++) {
    walk.path.push(i)
    const boxed = box(value[i], walk)
    walk.path.pop()
    if (boxed !== value[i]) {
      copy ??= [...value]
      copy[i] = boxed
    }
  }
  return copy ?? value
}

function boxView(value: ArrayBufferView, walk: Walk): unknown {
  const name = Buffer.isBuffer(value) ? 'Uint8Array' : (value.constructor.name as ViewName)
  if (!(value.buffer instanceof SharedArrayBuffer)) return value
  if (!(name in views)) return refuse(walk, `a ${value.constructor.name}`)
  const length = 'length' in value ? (value.length as number) : value.byteLength
  return new Box(['view', name, share(value.buffer, walk), value.byteOffset, length])
}

/** An error always travels: a property of it that cannot is told in words. */
function boxError(error: Error, walk: Walk): PlainError {
  const own: Record<string, unknown> = {}
  for (const key of new Set([...Object.keys(error), 'cause', 'errors'])) {
    if (key === 'name' || !Object.hasOwn(error, key)) continue
    walk.path.push(key)
    const before = walk.path.length
    const item = (error as unknown as Record<string, unknown>)[key]
    try {
      own[key] = box(item, walk)
    } catch {
      walk.path.length = before
      own[key] = String(item)
    }
    walk.path.pop()
  }
  const { name, message, stack } = error
  return { name, message, stack, own, isActorError: error instanceof ActorError }
}

function share(memory: SharedArrayBuffer, walk: Walk): number {
  const known = walk.shared.indexOf(memory)
  return known >= 0 ? known : walk.shared.push(memory) - 1
}

function refuse(walk: Walk, what: string): never {
  const place = walk.path.slice(0, 8).join('.') || 'the value itself'
  throw new ActorError(
    'NOT_SERIALISABLE',
    `encode: ${place}, expected plain data, a ref, an error or shared memory, got ${what}`,
    {
      place,
      got: what,
    },
  )
}

function open(content: Content): unknown {
  switch (content[0]) {
    case 'ref':
      return new Ref(host, content[1])
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
