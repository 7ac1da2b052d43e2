// Text to token ids and back: bytes, or what a Hugging Face tokenizer.json says. Ids that are no valid text decode to U+FFFD.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { DataError, unreadable } from './error.js'

export interface Tokenizer {
  /** Ids are below this. */
  readonly vocabSize: number
  encode(text: string): number[]
  decode(ids: ArrayLike<number>): string
}

/** One id for each byte of UTF-8. */
export const byteTokenizer: Tokenizer = {
  vocabSize: 256,
  encode: (text) => Array.from(Buffer.from(text, 'utf8')),
  decode: (ids) => Buffer.from(Uint8Array.from(ids, (id) => (id < 256 ? id : 0xff))).toString('utf8'),
}

/** Decoding that gives back what was encoded. */
const exact = { skip_special_tokens: false, clean_up_tokenization_spaces: false }

/** Whether a folder brings its own tokenizer. */
export const hasTokenizer = (folder: string): boolean => existsSync(join(folder, 'tokenizer.json'))

/**
 * The tokenizer of a Hugging Face folder (tokenizer.json, and tokenizer_config.json where there is one). It adds no special tokens
 * and decodes to the exact text. Throws {@link DataError} where a file is missing or is not a tokenizer.
 */
export function loadTokenizer(folder: string): Tokenizer {
  const file = join(folder, 'tokenizer.json')
  const configFile = join(folder, 'tokenizer_config.json')
  const model = readJson(file)
  const config = existsSync(configFile) ? readJson(configFile) : {}
  let tokenizer: HuggingFaceTokenizer
  try {
    tokenizer = new HuggingFaceTokenizer(model, config)
  } catch (error) {
    const details = { file, expected: 'a Hugging Face tokenizer', got: (error as Error).message }
    throw new DataError('DATA_FORMAT', file, details, { cause: error })
  }
  let largest = -1
  for (const id of tokenizer.get_vocab(true).values()) largest = Math.max(largest, id)
  return {
    vocabSize: largest + 1,
    encode: (text) => (text === '' ? [] : tokenizer.encode(text, { add_special_tokens: false }).ids),
    decode: (ids) => {
      const runs: number[][] = [[]]
      for (let i = 0; i < ids.length; i++) {
        if (tokenizer.id_to_token(ids[i]!) === undefined) runs.push([])
        else runs.at(-1)!.push(ids[i]!)
      }
      return runs.map((run) => (run.length === 0 ? '' : tokenizer.decode(run, exact))).join('\ufffd')
    },
  }
}

function readJson(file: string): object {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw unreadable(file, error)
  }
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value
    throw new Error(`a ${typeof value}`)
  } catch (error) {
    throw new DataError(
      'DATA_FORMAT',
      file,
      { file, expected: 'a JSON object', got: (error as Error).message },
      { cause: error },
    )
  }
}

/** Most characters of one piece of {@link pieces}. */
const pieceLength = 1 << 16

/**
 * Cuts text where tokenizers cut it anyway: before a space between two letters. Encoding piece by piece then gives the tokens of the
 * whole text for byte-level tokenizers (GPT-2, cl100k and their kin) and keeps memory small. Without such a place in a piece's
 * second half it is cut at its end, never inside a surrogate pair. `length` is at least 2.
 */
export function* pieces(text: string, length = pieceLength): Generator<string> {
  for (let start = 0; start < text.length; ) {
    let end = Math.min(start + length, text.length)
    if (end < text.length) {
      const half = start + Math.ceil((end - start) / 2)
      let cut = end
      while (cut > half && !(text[cut] === ' ' && isLetter(text[cut - 1]) && isLetter(text[cut + 1]))) cut--
      if (cut > half) end = cut
      else if (isLowSurrogate(text.charCodeAt(end))) end--
    }
    yield text.slice(start, end)
    start = end
  }
}

const isLetter = (character: string | undefined): boolean => character !== undefined && /\p{L}/u.test(character)
const isLowSurrogate = (code: number): boolean => code >= 0xdc00 && code <= 0xdfff
