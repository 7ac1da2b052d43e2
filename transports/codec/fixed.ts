// Messages of a fixed layout as numbers in shared memory: doubles first, then words, so that each is aligned. The code that writes and
// reads a type is made from its layout once; field names enter it only as JSON strings.
import { ActorError } from '../../runtime/actor/errors.js'
import { type FieldKind, parseLayout } from '../../runtime/actor/layout.js'

type Fields = Readonly<Record<string, unknown>>

/** One message type of a layout. */
export interface FixedType {
  /** Its place in the layout. */
  readonly index: number
  /** Units of 8 bytes. */
  readonly units: number
  /** Writes the fields from unit `at` on. Empty: done; else the name of a field whose value does not fit. */
  write(message: Fields, float64: Float64Array, int32: Int32Array, at: number): string
  /** A new message. */
  read(float64: Float64Array, int32: Int32Array, at: number): { readonly type: string }
  readonly fields: Readonly<Record<string, FieldKind>>
}

/** A compiled layout: its types by name and by place. */
export interface FixedLayout {
  readonly byName: ReadonlyMap<string, FixedType>
  readonly types: readonly FixedType[]
}

const compiled = new Map<string, FixedLayout>()
const mostCompiled = 1024

/** Compiles a layout's text; the same text, the same object. */
export function fixedLayout(text: string): FixedLayout {
  const known = compiled.get(text)
  if (known) return known
  const types = Object.entries(parseLayout(text)).map(([type, fields], index) => compile(type, fields, index))
  const layout = { types, byName: new Map(Object.keys(parseLayout(text)).map((type, index) => [type, types[index]!])) }
  if (compiled.size >= mostCompiled) compiled.clear()
  compiled.set(text, layout)
  return layout
}

/** The error of a message that does not fit its layout. */
export function misfit(type: FixedType, message: Fields, field: string, to: string): ActorError {
  const name = String(message.type)
  const kind = type.fields[field]
  return new ActorError(
    'NOT_SERIALISABLE',
    `encode: ${field} of "${name}" to ${to}, expected ${kind} as its layout says, got ${String(message[field])}`,
    { place: field, expected: kind },
  )
}

const misfits: Record<FieldKind, (value: string) => string> = {
  f64: (value) => `typeof ${value} !== 'number'`,
  i32: (value) => `(${value} | 0) !== ${value}`,
  u32: (value) => `(${value} >>> 0) !== ${value}`,
  bool: (value) => `typeof ${value} !== 'boolean'`,
}

function compile(type: string, fields: Readonly<Record<string, FieldKind>>, index: number): FixedType {
  const names = Object.keys(fields)
  const doubles = names.filter((name) => fields[name] === 'f64')
  const words = names.filter((name) => fields[name] !== 'f64')
  const writes: string[] = []
  const places = new Map<string, string>()
  for (const [i, name] of [...doubles, ...words].entries()) {
    const kind = fields[name]!
    const isDouble = kind === 'f64'
    const place = isDouble ? `float64[at + ${i}]` : `int32[at * 2 + ${doubles.length + i}]`
    const value = `v${i}`
    writes.push(`const ${value} = message[${JSON.stringify(name)}]`)
    writes.push(`if (${misfits[kind](value)}) return ${JSON.stringify(name)}`)
    writes.push(`${place} = ${kind === 'bool' ? `${value} ? 1 : 0` : value}`)
    places.set(name, kind === 'bool' ? `${place} !== 0` : kind === 'u32' ? `${place} >>> 0` : place)
  }
  const reads = names.map((name) => `${JSON.stringify(name)}: ${places.get(name)}`)
  const write = new Function('message', 'float64', 'int32', 'at', `${writes.join('\n')}\nreturn ''`)
  const read = new Function(
    'float64',
    'int32',
    'at',
    `return { ${[`type: ${JSON.stringify(type)}`, ...reads].join(', ')} }`,
  )
  return {
    index,
    fields,
    units: doubles.length + ((words.length + 1) >> 1),
    write: write as FixedType['write'],
    read: read as FixedType['read'],
  }
}
