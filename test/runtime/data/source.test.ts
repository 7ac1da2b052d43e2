// Every kind of data from files made here: which ids a sample holds, and one clear error for each way that data can be bad.
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { writeSafetensors } from '../../../runtime/checkpoint/safetensors.js'
import { DataError, type DataErrorCode } from '../../../runtime/data/error.js'
import { type OpenOptions, openSource } from '../../../runtime/data/open.js'
import type { Source } from '../../../runtime/data/source.js'
import { byteTokenizer } from '../../../runtime/data/tokenizer.js'

const options: OpenOptions = { vocabulary: 256, positions: 4 }

function folderOf(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'data-'))
  t.teardown(() => {
    rmSync(folder, { recursive: true })
  })
  return folder
}

function file(t: ExecutionContext, name: string, content: string | NodeJS.ArrayBufferView): string {
  const path = join(folderOf(t), name)
  writeFileSync(path, content)
  return path
}

function rows(source: Source, indices: readonly number[]): { inputs: number[]; targets: number[] } {
  const inputs = new Int32Array(indices.length * source.seq)
  const targets = new Int32Array(indices.length * source.seq)
  source.read(indices, inputs, targets)
  return { inputs: [...inputs], targets: [...targets] }
}

const text = (ids: readonly number[]): string => byteTokenizer.decode(ids)

async function fails(
  t: ExecutionContext,
  code: DataErrorCode,
  message: RegExp,
  paths: string | string[],
  changes: Partial<OpenOptions> = {},
): Promise<void> {
  const error = await t.throwsAsync(openSource([paths].flat(), { ...options, ...changes }), { instanceOf: DataError })
  t.is(error.code, code)
  t.regex(error.message, message)
}

test('text: sample i is bytes i * seq to i * seq + seq inclusive', async (t) => {
  const source = await openSource([file(t, 'a.txt', 'abcdefghijkl')], options)
  t.is(source.samples, 2)
  t.is(source.seq, 4)
  const { inputs, targets } = rows(source, [1, 0])
  t.is(text(inputs), 'efghabcd')
  t.is(text(targets), 'fghibcde')
})

test('the number of samples is floor((n - 1) / seq)', async (t) => {
  for (const [length, samples] of [
    [5, 1],
    [8, 1],
    [9, 2],
    [12, 2],
    [13, 3],
  ] as const) {
    t.is((await openSource([file(t, 'a.txt', 'x'.repeat(length))], options)).samples, samples)
  }
})

test('streams of 16 and 32 bits give back any ids', async (t) => {
  const folder = folderOf(t)
  const ids = fc.array(fc.integer({ min: 0, max: 65535 }), { minLength: 3, maxLength: 60 })
  await fc.assert(
    fc.asyncProperty(
      ids,
      fc.constantFrom(2, 4) as fc.Arbitrary<2 | 4>,
      fc.integer({ min: 1, max: 2 }),
      async (tokens, tokenBytes, seq) => {
        const path = join(folder, 'x.bin')
        const buffer = Buffer.alloc(tokens.length * tokenBytes)
        tokens.forEach((id, i) => {
          buffer.writeUIntLE(id, i * tokenBytes, tokenBytes)
        })
        writeFileSync(path, buffer)
        const source = await openSource([path], { vocabulary: 65536, positions: 2, seq, tokenBytes })
        const { inputs, targets } = rows(
          source,
          Array.from({ length: source.samples }, (_, i) => i),
        )
        t.deepEqual(inputs, tokens.slice(0, source.samples * seq))
        t.deepEqual(targets, tokens.slice(1, source.samples * seq + 1))
      },
    ),
    { numRuns: 50 },
  )
})

test('folders are walked in the order of names; hidden, binary and linked entries are left out and told', async (t) => {
  const folder = folderOf(t)
  mkdirSync(join(folder, 'b'))
  writeFileSync(join(folder, 'c.md'), 'CC')
  writeFileSync(join(folder, 'b', 'z.txt'), 'BB')
  writeFileSync(join(folder, 'a.txt'), 'aa')
  writeFileSync(join(folder, 'B.txt'), 'bb')
  writeFileSync(join(folder, '.hidden'), 'HH')
  writeFileSync(join(folder, 'x.png'), Buffer.from([1, 0, 2]))
  writeFileSync(join(folder, 'long.txt'), 'L'.repeat(10_000))
  symlinkSync(join(folder, 'a.txt'), join(folder, 'link.txt'))
  const source = await openSource([folder, join(folder, 'a.txt')], { ...options, positions: 10_010 - 1 })
  t.is(text(rows(source, [0]).inputs), `bbaaBBCC${'L'.repeat(10_000)}a`)
  t.is(source.notices.length, 1)
  t.regex(source.notices[0]!, /1 binary files and 2 hidden/)
})

test('a tokenizer makes the ids of text', async (t) => {
  const pairs = { vocabSize: 1000, encode: (s: string) => [...s].map((c) => c.codePointAt(0)! + 500), decode: () => '' }
  const source = await openSource([file(t, 'a.txt', 'abcde'), file(t, 'b.txt', 'fgh')], {
    ...options,
    vocabulary: 1000,
    tokenizer: pairs,
  })
  t.deepEqual(rows(source, [0]), { inputs: [597, 598, 599, 600], targets: [598, 599, 600, 601] })
  t.is(source.handle.tokens.length, 8)
})

test('text that is not UTF-8 is told when it is tokenised', async (t) => {
  const source = await openSource([file(t, 'a.txt', Buffer.from([97, 255, 98, 99, 100, 101]))], {
    ...options,
    tokenizer: byteTokenizer,
  })
  t.regex(source.notices.join(), /not UTF-8/)
  t.is(text(rows(source, [0]).inputs), 'a\ufffd')
})

for (const dtype of ['I64', 'I32', 'U16'] as const) {
  test(`input_ids as ${dtype}: each row is a sample, targets shifted by one`, async (t) => {
    const path = join(folderOf(t), 'x.safetensors')
    const ids = [1, 2, 3, 4, 5, 6]
    const data =
      dtype === 'I64' ? BigInt64Array.from(ids, BigInt) : dtype === 'I32' ? Int32Array.from(ids) : Uint16Array.from(ids)
    writeSafetensors(path, [{ name: 'input_ids', dtype, shape: [2, 3], data }])
    const source = await openSource([path, path], options)
    t.is(source.seq, 2)
    t.is(source.samples, 4)
    t.deepEqual(rows(source, [3, 0]), { inputs: [4, 5, 1, 2], targets: [5, 6, 2, 3] })
  })
}

test('a handle is read on another thread without a copy', async (t) => {
  const { handle } = await openSource([file(t, 'a.txt', 'abcdefghi')], options)
  const worker = new Worker(
    'const { workerData, parentPort } = require("node:worker_threads"); workerData.tokens[0] = 90; parentPort.postMessage(workerData.samples)',
    { eval: true, workerData: handle },
  )
  const samples = await new Promise((resolve) => worker.once('message', resolve))
  await worker.terminate()
  t.is(samples, 2)
  t.is(handle.tokens[0], 90)
})

test('missing', (t) =>
  fails(t, 'DATA_UNREADABLE', /none\.txt, expected a readable file, got ENOENT/, '/tmp/no-folder/none.txt'))
test('missing stream', (t) => fails(t, 'DATA_UNREADABLE', /none\.bin.*ENOENT/, '/tmp/no-folder/none.bin'))
test('no paths', (t) => fails(t, 'DATA_UNREADABLE', /at least one file or folder/, []))
test('empty file', (t) =>
  fails(t, 'DATA_EMPTY', /a\.txt, expected text, got nothing \(0 bytes\)/, file(t, 'a.txt', '')))
test('empty stream', (t) => fails(t, 'DATA_EMPTY', /a\.bin.*0 bytes/, file(t, 'a.bin', '')))
test('folder without text', (t) => fails(t, 'DATA_EMPTY', /expected a folder with text files/, folderOf(t)))
test('too short', (t) =>
  fails(t, 'DATA_TOO_SHORT', /a\.txt, expected at least 5 tokens \(1 samples of 4.*, got 4/, file(t, 'a.txt', 'abcd')))
test('fewer samples than the run needs', (t) =>
  fails(t, 'DATA_TOO_SHORT', /at least 13 tokens \(3 samples of 4.*, got 12/, file(t, 'a.txt', 'abcdefghijkl'), {
    minimumSamples: 3,
  }))
test('a cut stream', (t) =>
  fails(t, 'DATA_FORMAT', /multiple of 4 bytes.*got 6 bytes/, file(t, 'a.bin', 'abcdef'), { tokenBytes: 4 }))
test('different kinds together', (t) =>
  fails(t, 'DATA_FORMAT', /a\.bin, expected text like .*a\.txt, got a token stream/, [
    file(t, 'a.txt', 'abcdef'),
    file(t, 'a.bin', 'ab'),
  ]))
test('a sequence longer than the model', (t) =>
  fails(t, 'DATA_FORMAT', /at most 4 tokens.*got 5/, file(t, 'a.txt', 'abcdefgh'), { seq: 5 }))

test('a token past the vocabulary names file, position, id and vocabulary', async (t) => {
  const path = file(t, 'a.bin', Uint16Array.from([1, 2, 3, 4, 5, 300, 7, 8]))
  await fails(
    t,
    'DATA_VOCABULARY',
    /token 5 of .*a\.bin, expected an id from 0 to 255 \(vocabulary 256\), got 300/,
    path,
  )
  await fails(t, 'DATA_VOCABULARY', /token 2 of .*a\.txt.*vocabulary 100\), got 122/, file(t, 'a.txt', 'aaz'), {
    vocabulary: 100,
  })
})

test('bad tables of ids', async (t) => {
  const path = join(folderOf(t), 'x.safetensors')
  const write = (name: string, shape: number[], ids: number[]): void =>
    writeSafetensors(path, [{ name, dtype: 'I64', shape, data: BigInt64Array.from(ids, BigInt) }])
  write('tokens', [1, 2], [1, 2])
  await fails(t, 'DATA_FORMAT', /x\.safetensors, expected a tensor named input_ids, got tokens/, path)
  write('input_ids', [4], [1, 2, 3, 4])
  await fails(t, 'DATA_FORMAT', /integers of shape \[N, T\], got I64\[4\]/, path)
  write('input_ids', [2, 1], [1, 2])
  await fails(t, 'DATA_EMPTY', /at least one row of two ids, got \[2, 1\]/, path)
  write('input_ids', [2, 3], [1, 2, 3, 4, -1, 6])
  await fails(t, 'DATA_VOCABULARY', /row 1, position 1 of input_ids of .*got -1/, path)
  write('input_ids', [1, 6], [1, 2, 3, 4, 5, 6])
  await fails(t, 'DATA_FORMAT', /at most 4 tokens, the model's positions, got 5/, path)
  write('input_ids', [1, 3], [1, 2, 3])
  await fails(t, 'DATA_FORMAT', /rows of 5 ids for sequence length 4, got 3/, path, { seq: 4 })
  await fails(t, 'DATA_TOO_SHORT', /at least 2 rows, got 1/, path, { minimumSamples: 2 })
  writeSafetensors(path, [{ name: 'input_ids', dtype: 'F32', shape: [1, 2], data: new Float32Array(2) }])
  await fails(t, 'DATA_FORMAT', /got F32\[1, 2\]/, path)
})
