// Where a configuration comes from: an object, a JSON file with comments, or URL-safe base64 of JSON (as launchers pass it).
import { readFileSync } from 'node:fs'
import { ConfigError, show } from './error.js'
import { parseJson } from './json.js'
import type { DeepSpeedConfig } from './schema.js'

/** A configuration as it was given, not yet checked. */
export interface ConfigSource {
  /** How messages name it: `config`, or `config` and the file. */
  readonly name: string
  readonly raw: unknown
}

/** Takes an object as it is, reads a path. Throws {@link ConfigError} for a file that is unreadable, broken or has duplicate keys. */
export function loadConfig(source: DeepSpeedConfig | string): ConfigSource {
  if (typeof source !== 'string') return { name: 'config', raw: source }
  const encoded = decodeBase64(source)
  if (encoded !== null) return { name: 'config (base64)', raw: parseJson(encoded, '(base64)') }
  let content: string
  try {
    content = readFileSync(source, 'utf8')
  } catch (error) {
    const reason = error instanceof Error ? error.message.replace(/, \w+( '.*')?$/, '') : String(error)
    throw new ConfigError(
      `config ${source}`,
      [{ code: 'CONFIG_UNREADABLE', key: 'file', expected: 'a readable JSON file', got: reason }],
      { cause: error },
    )
  }
  const raw = parseJson(content, source)
  if (typeof raw !== 'object' || raw === null || Array.isArray(raw)) {
    throw new ConfigError(`config ${source}`, [
      { code: 'CONFIG_VALUE', key: 'the file', expected: 'an object', got: show(raw) },
    ])
  }
  return { name: `config ${source}`, raw }
}

function decodeBase64(source: string): string | null {
  if (!/^[\w-]{8,}={0,2}$/.test(source)) return null
  const decoded = Buffer.from(source, 'base64url').toString('utf8')
  return /^\s*\{[\s\S]*\}\s*$/.test(decoded) ? decoded : null
}
