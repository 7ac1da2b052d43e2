// Tokenizers: bytes against Buffer, and a small GPT-2-like tokenizer.json made here, whose merges are few enough to follow by hand.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { DataError } from '../../../runtime/data/error.js'
import { byteTokenizer, hasTokenizer, loadTokenizer, pieces, type Tokenizer } from '../../../runtime/data/tokenizer.js'

/** GPT-2's printable stand-ins for the 256 bytes, in the order of its vocabulary. */
function byteAlphabet(): string[] {
  const printable = [...range(33, 126), ...range(161, 172), ...range(174, 255)]
  const others = range(0, 255).filter((byte) => !printable.includes(byte))
  return [...printable, ...others.map((_, i) => 256 + i)].map((code) => String.fromCharCode(code))
}
const range = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i)

const merges = ['Ġ t', 'h e', 'Ġt he', 'a n', 'an d']

function folderWith(t: ExecutionContext, files: Record<string, string>): string {
  const folder = mkdtempSync(join(tmpdir(), 'tokenizer-'))
  t.teardown(() => {
    rmSync(folder, { recursive: true })
  })
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content)
  return folder
}

function small(t: ExecutionContext): Tokenizer {
  const words = [...byteAlphabet(), ...merges.map((merge) => merge.replace(' ', ''))]
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true }
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [
      {
        id: 300,
        content: '<|endoftext|>',
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
      },
    ],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: byteLevel,
    decoder: byteLevel,
    model: { type: 'BPE', vocab: Object.fromEntries(words.map((word, i) => [word, i])), merges },
  }
  return loadTokenizer(folderWith(t, { 'tokenizer.json': JSON.stringify(json) }))
}

test('bytes: any text comes back, ids are its UTF-8', (t) => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (text) => {
      const ids = byteTokenizer.encode(text)
      t.deepEqual(ids, [...new TextEncoder().encode(text)])
      t.is(byteTokenizer.decode(ids), text)
    }),
  )
})

test('bytes that are no text decode to U+FFFD', (t) => {
  t.is(byteTokenizer.decode([104, 255, 105]), 'h\ufffdi')
  t.is(byteTokenizer.decode([0xf0, 0x9f]), '\ufffd')
  t.is(byteTokenizer.decode([104, 300]), 'h\ufffd')
})

test('tokenizer.json: merges, special tokens, exact text back, vocabulary from the largest id', (t) => {
  const tokenizer = small(t)
  t.is(tokenizer.vocabSize, 301)
  const the = 256 + 2
  t.deepEqual(tokenizer.encode('a the'), [64, the])
  t.deepEqual(tokenizer.encode('<|endoftext|>a'), [300, 64])
  const text = 'And the theory\n\n  of thé 😀 <|endoftext|> x '
  t.is(tokenizer.decode(tokenizer.encode(text)), text)
  t.deepEqual(tokenizer.encode(''), [])
  t.is(tokenizer.decode([]), '')
  t.is(tokenizer.decode(tokenizer.encode('😀').slice(0, 2)), '\ufffd')
  t.is(tokenizer.decode([64, 290, 64]), 'a\ufffda')
})

test('pieces are the text; for a byte-level tokenizer their tokens are those of the whole', (t) => {
  const tokenizer = small(t)
  const words = fc.array(
    fc.constantFrom('the', 'and', 'theory', ' ', '\n\n', '  ', '😀', 'é.', "'s", '12', ' a b c '),
    { maxLength: 60 },
  )
  fc.assert(
    fc.property(words, fc.integer({ min: 2, max: 50 }), (list, length) => {
      const text = list.join(' ')
      const parts = [...pieces(text, length)]
      t.is(parts.join(''), text)
      t.true(parts.every((part) => part.length <= length && !/^[\udc00-\udfff]/.test(part)))
    }),
  )
  const prose = 'the theory of the land and the sea, and what\n\nthe  others said 123 times. '.repeat(20)
  const parts = [...pieces(prose, 100)]
  t.true(parts.length > 10)
  t.deepEqual(
    parts.flatMap((part) => tokenizer.encode(part)),
    tokenizer.encode(prose),
  )
})

test('missing and broken tokenizers are one error that names the file', (t) => {
  const none = folderWith(t, {})
  t.false(hasTokenizer(none))
  t.is(t.throws(() => loadTokenizer(none), { instanceOf: DataError }).code, 'DATA_UNREADABLE')
  for (const content of ['{', '3', '{}', '{"model": {"type": "BPE"}}', '{"model": {"type": "Odd"}, "decoder": null}']) {
    const folder = folderWith(t, { 'tokenizer.json': content })
    t.true(hasTokenizer(folder))
    const error = t.throws(() => loadTokenizer(folder), { instanceOf: DataError }, content)
    t.is(error.code, 'DATA_FORMAT')
    t.true(error.details.file.endsWith('tokenizer.json'))
  }
})
