// Fixed layouts of messages: a definition may say which numbers a message type holds, and such a message then travels as just those
// numbers. A layout is written as text in the actor's address, so every holder of a ref knows how to write to it.
import { ActorError } from './errors.js'

/** A field: a double, a signed or unsigned 32-bit integer, or a boolean. */
export type FieldKind = 'f64' | 'i32' | 'u32' | 'bool'

/** The fields of each message type that has a layout; they are all that the message holds besides its type. */
export type Layout = Readonly<Record<string, Readonly<Record<string, FieldKind>> | undefined>>

type KindOf<T> = [T] extends [number] ? 'f64' | 'i32' | 'u32' : [T] extends [boolean] ? 'bool' : never

/** The layout that fits a payload: every field of it, and nothing else. */
export type LayoutOf<M> = { readonly [F in keyof M]-?: KindOf<M[F]> }

const kinds: readonly string[] = ['f64', 'i32', 'u32', 'bool'] satisfies FieldKind[]
const mostFields = 512

/** The text of a layout. Throws `BAD_OPTION`. */
export function layoutText(definition: string, layout: Layout): string {
  for (const [type, fields] of Object.entries(layout)) {
    if (!fields) continue
    const fail = (expected: string, got: string): never => {
      const message = `define: layout of "${type}" of ${definition}, expected ${expected}, got ${got}`
      throw new ActorError('BAD_OPTION', message, { option: 'layout', definition, type })
    }
    const names = Object.keys(fields)
    if (names.length > mostFields) fail(`at most ${mostFields} fields`, String(names.length))
    for (const name of names) {
      if (name === 'type' || name === '__proto__') fail('names of fields besides the type', name)
      if (!kinds.includes(fields[name]!)) fail(`${kinds.join(', ')} for ${name}`, String(fields[name]))
    }
  }
  return JSON.stringify(layout)
}

/** Reads what {@link layoutText} wrote. */
export const parseLayout = (text: string): Readonly<Record<string, Readonly<Record<string, FieldKind>>>> =>
  JSON.parse(text) as Readonly<Record<string, Readonly<Record<string, FieldKind>>>>
