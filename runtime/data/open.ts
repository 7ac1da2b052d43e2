// Opens training data of every kind and checks it once: text (as bytes, or tokenised), token streams (.bin), and rows of `input_ids`
// (.safetensors). After opening, every id is known to be inside the vocabulary and every sample to be whole.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { CheckpointError } from '../checkpoint/error.js'
import { SafetensorsFile } from '../checkpoint/safetensors.js'
import { DataError } from './error.js'
import { empty, readShared, readTexts, shared, type TextFile } from './files.js'
import { type TokenArray, TokenSource } from './source.js'
import { pieces, type Tokenizer } from './tokenizer.js'

export interface OpenOptions {
  /** Ids of the model; data with a larger one is refused. */
  readonly vocabulary: number
  /** Positions of the model: the most tokens that a sample may have, and their number in streams unless `seq` says else. */
  readonly positions: number
  /** Tokens of a sample, where the user asks for a number of his own. */
  readonly seq?: number
  /** For text; without one, text is bytes. */
  readonly tokenizer?: Tokenizer
  /** Bytes of one id in `.bin` files: 2 (the default) or 4. */
  readonly tokenBytes?: 2 | 4
  /** Fewest samples that the run can work with, for example its ranks; 1 by default. */
  readonly minimumSamples?: number
}

/** Bytes of text that are decoded at a time. */
const decodedAtOnce = 1 << 24

/** Ids of one file, or of a part of it. */
interface Segment {
  readonly file: string
  readonly tokens: TokenArray
}

/**
 * Opens files and folders as one source; several are joined in the order given. All must be of one kind. Throws {@link DataError}
 * (or the checkpoint reader's error for a damaged safetensors file), naming the file, what it should hold and what it does.
 */
export async function openSource(paths: readonly string[], options: OpenOptions): Promise<TokenSource> {
  const first = paths[0]
  if (first === undefined) {
    throw new DataError('DATA_UNREADABLE', 'paths', { file: '', expected: 'at least one file or folder', got: 'none' })
  }
  const kind = kindOf(first)
  const odd = paths.find((path) => kindOf(path) !== kind)
  if (odd !== undefined) {
    const details = { file: odd, expected: `${kind} like ${first}`, got: kindOf(odd) }
    throw new DataError('DATA_FORMAT', odd, details)
  }
  if (options.seq !== undefined && options.seq > options.positions)
    throw tooLong('sequence length', first, options.seq, options)

  const name = paths.length === 1 ? first : `${first} and ${paths.length - 1} more`
  const notices: string[] = []
  if (kind === 'rows of input_ids') return openRows(paths, name, options)
  const segments =
    kind === 'a token stream'
      ? paths.map((path) => readStream(path, options.tokenBytes ?? 2))
      : await readText(paths, options.tokenizer, notices)
  for (const segment of segments) checkVocabulary(segment, options.vocabulary, (index) => `token ${index}`)

  const tokens = joined(segments, name)
  const seq = options.seq ?? options.positions
  const samples = Math.max(0, Math.floor((tokens.length - 1) / seq))
  const minimum = options.minimumSamples ?? 1
  if (samples < minimum) {
    const details = {
      file: name,
      expected: `at least ${minimum * seq + 1} tokens (${minimum} samples of ${seq} and one more)`,
      got: `${tokens.length}`,
    }
    throw new DataError('DATA_TOO_SHORT', name, details)
  }
  return new TokenSource({ name, tokens, samples, seq, stride: seq, vocabulary: options.vocabulary }, notices)
}

function kindOf(path: string): string {
  if (path.endsWith('.bin')) return 'a token stream'
  return path.endsWith('.safetensors') ? 'rows of input_ids' : 'text'
}

function readStream(file: string, tokenBytes: 2 | 4): Segment {
  const bytes = readShared(file)
  if (bytes.length === 0) throw empty(file, `a stream of ${tokenBytes}-byte tokens`)
  if (bytes.length % tokenBytes !== 0) {
    const details = {
      file,
      expected: `a multiple of ${tokenBytes} bytes (tokens of ${8 * tokenBytes} bits)`,
      got: `${bytes.length} bytes`,
    }
    throw new DataError('DATA_FORMAT', file, details)
  }
  return { file, tokens: tokenBytes === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer) }
}

async function readText(
  paths: readonly string[],
  tokenizer: Tokenizer | undefined,
  notices: string[],
): Promise<Segment[]> {
  const texts = readTexts(paths, notices)
  if (!tokenizer) return texts.map(({ file, bytes }) => ({ file, tokens: bytes }))
  const segments: Segment[] = []
  for (const text of texts) segments.push(await tokenise(text, tokenizer, notices))
  return segments
}

/** Tokens of one file, a piece at a time: memory stays small and the thread awake to its messages. */
async function tokenise({ file, bytes }: TextFile, tokenizer: Tokenizer, notices: string[]): Promise<Segment> {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  const parts: Segment[] = []
  let replaced = false
  let rest = ''
  for (let at = 0; at < bytes.length; at += decodedAtOnce) {
    const last = at + decodedAtOnce >= bytes.length
    const text = decoder.decode(bytes.slice(at, at + decodedAtOnce), { stream: !last })
    replaced ||= text.includes('\ufffd')
    const cuts = [...pieces(rest + text)]
    rest = last ? '' : (cuts.pop() ?? '')
    for (const piece of cuts) {
      parts.push({ file, tokens: Uint32Array.from(tokenizer.encode(piece)) })
      await nextTurn()
    }
  }
  if (replaced) notices.push(`${file} has bytes that are not UTF-8; they are read as U+FFFD`)
  return { file, tokens: joined(parts, file) }
}

async function openRows(paths: readonly string[], name: string, options: OpenOptions): Promise<TokenSource> {
  const tables = paths.map((path) => readRows(path, options))
  const { seq } = tables[0]!
  const uneven = tables.findIndex((table) => table.seq !== seq)
  if (uneven >= 0) {
    const file = paths[uneven]!
    const got = `${tables[uneven]!.seq + 1}`
    throw new DataError('DATA_FORMAT', `input_ids of ${file}`, {
      file,
      expected: `rows of ${seq + 1} ids like ${paths[0]}`,
      got,
    })
  }
  const tokens = joined(tables, name)
  const samples = tokens.length / (seq + 1)
  const minimum = options.minimumSamples ?? 1
  if (samples < minimum) {
    throw new DataError('DATA_TOO_SHORT', name, { file: name, expected: `at least ${minimum} rows`, got: `${samples}` })
  }
  return new TokenSource({ name, tokens, samples, seq, stride: seq + 1, vocabulary: options.vocabulary })
}

function readRows(file: string, options: OpenOptions): Segment & { readonly seq: number } {
  const table = new SafetensorsFile(file)
  try {
    const { dtype, shape } = table.tensor('input_ids')
    const [rows, width] = shape
    if (rows === undefined || width === undefined || shape.length !== 2 || !/^[IU]\d+$/.test(dtype)) {
      const got = `${dtype}[${shape.join(', ')}]`
      throw new DataError('DATA_FORMAT', `input_ids of ${file}`, { file, expected: 'integers of shape [N, T]', got })
    }
    if (rows === 0 || width < 2) {
      const got = `[${shape.join(', ')}]`
      throw new DataError('DATA_EMPTY', `input_ids of ${file}`, { file, expected: 'at least one row of two ids', got })
    }
    const seq = width - 1
    if (seq > options.positions) throw tooLong(`input_ids of ${file}`, file, seq, options)
    if (options.seq !== undefined && options.seq !== seq) {
      const expected = `rows of ${options.seq + 1} ids for sequence length ${options.seq}`
      throw new DataError('DATA_FORMAT', `input_ids of ${file}`, { file, expected, got: `${width}` })
    }
    const tokens = new Int32Array(shared(rows * width * 4, file).buffer)
    table.readIntegers('input_ids', 0, tokens)
    const segment = { file, tokens, seq }
    checkVocabulary(
      segment,
      options.vocabulary,
      (i) => `row ${Math.floor(i / width)}, position ${i % width} of input_ids`,
    )
    return segment
  } catch (error) {
    if (!(error instanceof CheckpointError) || error.code !== 'CHECKPOINT_MISSING') throw error
    const details = {
      file,
      expected: 'a tensor named input_ids',
      got: [...table.tensors.keys()].slice(0, 5).join(', ') || 'none',
    }
    throw new DataError('DATA_FORMAT', file, details, { cause: error })
  } finally {
    table.close()
  }
}

function tooLong(what: string, file: string, seq: number, { positions }: OpenOptions): DataError {
  const details = { file, expected: `at most ${positions} tokens, the model's positions`, got: `${seq}` }
  return new DataError('DATA_FORMAT', what, details)
}

function checkVocabulary({ file, tokens }: Segment, vocabulary: number, place: (index: number) => string): void {
  if (tokens instanceof Uint8Array && vocabulary >= 256) return
  for (let i = 0; i < tokens.length; i++) {
    const id = tokens[i]!
    if (id >= 0 && id < vocabulary) continue
    const details = { file, expected: `an id from 0 to ${vocabulary - 1} (vocabulary ${vocabulary})`, got: `${id}` }
    throw new DataError('DATA_VOCABULARY', `${place(i)} of ${file}`, details)
  }
}

/** All ids in one shared array: of the segments' own type, as it is if there is only one that is shared already. */
function joined(segments: readonly Segment[], name: string): TokenArray {
  const only = segments[0]
  if (segments.length === 1 && only && only.tokens.buffer instanceof SharedArrayBuffer) return only.tokens
  const length = segments.reduce((sum, { tokens }) => sum + tokens.length, 0)
  const Kind = (only?.tokens.constructor ?? Uint32Array) as new (memory: SharedArrayBuffer) => TokenArray
  const bytes = only?.tokens.BYTES_PER_ELEMENT ?? 4
  const all = new Kind(shared(length * bytes, name).buffer)
  let at = 0
  for (const { tokens } of segments) {
    all.set(tokens, at)
    at += tokens.length
  }
  return all
}
