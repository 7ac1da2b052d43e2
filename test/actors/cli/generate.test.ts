// `generate`: from checkpoints and Hugging Face folders, by bytes and by tokenizer.json, the same text for the same seed.
import { cpSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { failsWith, linesOf, run, tiny, workshop } from './command.js'

/** A word-level tokenizer of the 256 words w0 to w255. */
const words = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: { type: 'WhitespaceSplit' },
  post_processor: null,
  decoder: null,
  model: {
    type: 'WordLevel',
    vocab: Object.fromEntries(Array.from({ length: 256 }, (_, i) => [`w${i}`, i])),
    unk_token: 'w0',
  },
}

test('bytes: deterministic for a seed, other for another; temperature 0 and top-k 1 take the likeliest; long prompts slide', async (t) => {
  const { data, at } = workshop(t)
  const trained = await run('train', ...tiny, '--data', data, '--steps', '60', '--save', at('out'), '--json')
  t.is(trained.code, 0, trained.stderr)
  const write = async (...args: readonly string[]): Promise<string> => {
    const { code, stdout, stderr } = await run('generate', '--model', at('out'), '--prompt', 'line ', ...args)
    t.is(code, 0, stderr)
    t.true(stdout.startsWith('line '), stdout)
    return stdout
  }
  const seeded = await write('--tokens', '24', '--seed', '3')
  t.is(await write('--tokens', '24', '--seed', '3'), seeded)
  t.not(await write('--tokens', '24', '--seed', '4'), seeded)
  const likeliest = await write('--tokens', '24', '--temperature', '0')
  t.is(likeliest.length, 'line '.length + 24 + 1)
  t.is(await write('--tokens', '24', '--top-k', '1', '--seed', '9'), likeliest)
  t.is(await write('--tokens', '24', '--top-p', '0', '--seed', '8'), likeliest)
  t.is(await write('--tokens', '0'), 'line \n')
  t.is(
    await write('--tokens', '8', '--temperature', '0', '--device', 'reference'),
    await write('--tokens', '8', '--temperature', '0'),
  )
  const long = 'line 12 of 99 '.repeat(10)
  const { stdout } = await run('generate', '--model', at('out', 'global_step60'), '--prompt', long, '--tokens', '5')
  t.true(stdout.startsWith(long) && stdout.length >= long.length + 2)
})

test('tokenizer.json of the --init folder is used for training, goes with checkpoints, and generate speaks its words', async (t) => {
  const { at } = workshop(t)
  const text = at('words.txt')
  writeFileSync(text, Array.from({ length: 600 }, (_, i) => `w${(i * 7) % 256}`).join(' '))
  const made = await run('train', ...tiny, '--data', text, '--steps', '0', '--save', at('made'))
  t.is(made.code, 0, made.stderr)
  cpSync(at('made', 'global_step0'), at('hf'), { recursive: true })
  writeFileSync(at('hf', 'tokenizer.json'), JSON.stringify(words))
  const train = ['train', '--init', at('hf'), '--data', text, '--threads', '1', '--json']
  const trained = await run(...train, '--eval-data', text, '--steps', '2', '--save', at('out'))
  t.is(trained.code, 0, trained.stderr)
  t.is(linesOf(trained).find(({ type }) => type === 'eval')?.['tokens'], Math.floor((600 - 1) / 16) * 16)
  for (const model of [at('hf'), at('out')]) {
    const { code, stdout, stderr } = await run('generate', '--model', model, '--prompt', 'w7 w14', '--tokens', '6')
    t.is(code, 0, stderr)
    t.regex(stdout, /^w7 w14( ?w\d+){6}\n$/)
  }
})

test('a vocabulary too small for bytes, without tokenizer.json, is one error', async (t) => {
  const { at } = workshop(t)
  const ids = at('ids.bin')
  writeFileSync(ids, new Uint8Array(new Uint16Array(200).buffer))
  const made = await run('train', ...tiny, '--vocab', '50', '--data', ids, '--steps', '0', '--save', at('out'))
  t.is(made.code, 0, made.stderr)
  failsWith(
    t,
    await run('generate', '--model', at('out'), '--prompt', 'x'),
    /tokenizer, expected tokenizer\.json.*got a vocabulary of 50/,
  )
  failsWith(
    t,
    await run('generate', '--model', at('nowhere'), '--prompt', 'x'),
    /--model, expected .*nowhere, which is not there/,
  )
})
