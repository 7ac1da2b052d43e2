// JSON as people write it in ds_config.json: comments (`//`, `#`, `/* */`) and trailing commas are tolerated, duplicate keys are not.
// Our own reader because JSON.parse takes neither comments nor tells line, column and duplicates.
import { ConfigError, type ConfigProblem, throwProblems } from './error.js'

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

/**
 * Parses `text`; `name` is the file, for messages. Throws {@link ConfigError}: `CONFIG_SYNTAX` with line and column,
 * `CONFIG_DUPLICATE_KEY` with every key that stands twice in one object.
 */
export function parseJson(text: string, name: string): Json {
  const reader = new JsonReader(text.replace(/^\uFEFF/, ''), name)
  const value = reader.document()
  throwProblems(`config ${name}`, reader.duplicates)
  return value
}

const numberPattern = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y
const wordPattern = /[A-Za-z_][\w.]*|[^\s\w]|\S+/y
const blankPattern = /(?:[ \t\r\n]+|\/\/[^\n]*|#[^\n]*|\/\*[\s\S]*?\*\/)*/y
const stringPattern = /"(?:[^"\\\n\r]|\\.)*"/y

class JsonReader {
  readonly duplicates: ConfigProblem[] = []
  #at = 0

  constructor(
    readonly text: string,
    readonly name: string,
  ) {}

  document(): Json {
    const value = this.#value('')
    this.#blank()
    if (this.#at < this.text.length) this.#fail('the end of the file')
    return value
  }

  #value(path: string): Json {
    this.#blank()
    const next = this.text[this.#at]
    if (next === '{') return this.#object(path)
    if (next === '[') return this.#array(path)
    if (next === '"') return this.#string('a string')
    for (const [word, value] of [
      ['true', true],
      ['false', false],
      ['null', null],
    ] as const) {
      if (this.#peek(wordPattern) === word) {
        this.#at += word.length
        return value
      }
    }
    const number = this.#take(numberPattern)
    if (number === null || /\w/.test(this.text[this.#at] ?? '')) return this.#fail('a value')
    return Number(number)
  }

  #object(path: string): Json {
    const entries = new Map<string, Json>()
    this.#at++
    while (!this.#skip('}')) {
      const place = this.#place()
      const key = this.#string('a quoted key or "}"')
      const keyPath = path ? `${path}.${key}` : key
      if (entries.has(key)) {
        this.duplicates.push({
          code: 'CONFIG_DUPLICATE_KEY',
          key: keyPath,
          expected: 'each key once in an object',
          got: `a second one at ${place}`,
        })
      }
      if (!this.#skip(':')) this.#fail('":"')
      entries.set(key, this.#value(keyPath))
      if (!this.#skip(',')) {
        if (this.#skip('}')) break
        this.#fail('"," or "}"')
      }
    }
    return Object.fromEntries(entries)
  }

  #array(path: string): Json {
    const items: Json[] = []
    this.#at++
    while (!this.#skip(']')) {
      items.push(this.#value(`${path}[${items.length}]`))
      if (!this.#skip(',')) {
        if (this.#skip(']')) break
        this.#fail('"," or "]"')
      }
    }
    return items
  }

  #string(expected: string): string {
    this.#blank()
    const token = this.#peek(stringPattern)
    if (token === null) return this.#fail(expected)
    try {
      const value = JSON.parse(token) as string
      this.#at += token.length
      return value
    } catch {
      return this.#fail(`${expected} without control characters or unknown escapes`)
    }
  }

  #skip(mark: string): boolean {
    this.#blank()
    if (this.text[this.#at] !== mark) return false
    this.#at++
    return true
  }

  #blank(): void {
    this.#take(blankPattern)
  }

  #peek(pattern: RegExp): string | null {
    pattern.lastIndex = this.#at
    return pattern.exec(this.text)?.[0] ?? null
  }

  #take(pattern: RegExp): string | null {
    const token = this.#peek(pattern)
    if (token !== null) this.#at += token.length
    return token
  }

  #place(): string {
    const before = this.text.slice(0, this.#at).split('\n')
    return `line ${before.length}, column ${before.at(-1)!.length + 1}`
  }

  #fail(expected: string): never {
    const got = this.#at >= this.text.length ? 'the end of the file' : JSON.stringify(this.#peek(wordPattern) ?? '')
    throw new ConfigError(`config ${this.name}`, [
      { code: 'CONFIG_SYNTAX', key: `JSON at ${this.#place()}`, expected, got },
    ])
  }
}
