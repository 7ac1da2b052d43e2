// Hugging Face folders: what is written is read back, every variant of names and files is understood, and what does not fit is listed.
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { CheckpointError } from '../../../runtime/checkpoint/error.js'
import { SafetensorsFile, type TensorData, writeSafetensors } from '../../../runtime/checkpoint/safetensors.js'
import { ModelError } from '../../../runtime/nn/error.js'
import { GPT2 } from '../../../runtime/nn/models/gpt2.js'
import { modelFromFolder, readModelFolder, writeModelFolder } from '../../../runtime/nn/models/huggingface.js'
import { namedParameters } from '../../../runtime/nn/module.js'
import { formulaWeights } from '../../support/weights.js'

const root = mkdtempSync(join(tmpdir(), 'huggingface-'))
test.after.always(() => rmSync(root, { recursive: true }))

const config = { vocab_size: 7, n_positions: 4, n_embd: 4, n_layer: 2, n_head: 2, n_inner: 6, eos_token_id: 6 }
const model = new GPT2(config)
const weights = Object.fromEntries(
  Object.entries(formulaWeights(model)).map(([name, values]) => [name, Float32Array.from(values)]),
)
const wte = 'transformer.wte.weight'

let folders = 0
/** A folder of the model as this project writes it, to be changed by a test. */
function fresh(): string {
  const path = join(root, String(folders++))
  writeModelFolder(path, model, (name) => weights[name]!)
  return path
}

const stored = (): TensorData[] =>
  namedParameters(model).map(({ name, parameter: { shape } }) => ({ name, dtype: 'F32', shape, data: weights[name]! }))

/** A folder whose weights are these tensors. */
function folderWith(tensors: readonly TensorData[], changes: Record<string, unknown> = {}): string {
  const path = fresh()
  writeSafetensors(join(path, 'model.safetensors'), tensors)
  const json = JSON.parse(readFileSync(join(path, 'config.json'), 'utf8'))
  writeFileSync(join(path, 'config.json'), JSON.stringify({ ...json, ...changes }))
  return path
}

/** All weights of a folder by parameter name. */
function load(path: string): Record<string, Float32Array> {
  const { model, weights } = modelFromFolder(path)
  const loaded = Object.fromEntries(
    namedParameters(model).map(({ name, parameter }) => {
      const target = new Float32Array(parameter.shape.reduce((a, b) => a * b, 1))
      weights.read(name, 0, target)
      return [name, target]
    }),
  )
  weights.close()
  return loaded
}

test('what is written is read back, and the files are as from_pretrained wants them', (t) => {
  const path = fresh()
  t.deepEqual(load(path), weights)
  const json = JSON.parse(readFileSync(join(path, 'config.json'), 'utf8'))
  t.like(json, { ...config, model_type: 'gpt2', architectures: ['GPT2LMHeadModel'], activation_function: 'gelu_new' })
  const file = new SafetensorsFile(join(path, 'model.safetensors'))
  t.deepEqual(file.metadata, { format: 'pt' })
  t.deepEqual(file.tensor('transformer.h.1.attn.c_attn.weight').shape, [4, 12])
  t.false(file.tensors.has('lm_head.weight'))
  file.close()
  t.like(modelFromFolder(path).model.config, model.config)
  t.is(readModelFolder(path).tokenizerPath, undefined)
  writeFileSync(join(path, 'tokenizer.json'), '{}')
  t.is(readModelFolder(path).tokenizerPath, join(path, 'tokenizer.json'))
})

test('weights are read in ranges, from plain data', (t) => {
  const { weights: read } = modelFromFolder(fresh())
  t.deepEqual(structuredClone(read.sources), read.sources)
  const part = new Float32Array(3)
  read.read(wte, 5, part)
  t.deepEqual(part, weights[wte]!.subarray(5, 8))
  t.throws(() => read.read('wte', 0, part), {
    instanceOf: CheckpointError,
    message: /parameter wte, expected one of the model/,
  })
  read.close()
})

test('names of the base model, buffers of old files and a tied head that is stored are understood', (t) => {
  const base = stored().map((tensor) => ({ ...tensor, name: tensor.name.replace('transformer.', '') }))
  const mask = { name: 'h.0.attn.bias', dtype: 'BOOL', shape: [1, 1, 4, 4], data: new Uint8Array(16) } as const
  t.deepEqual(load(folderWith([...base, mask, { ...mask, name: 'h.1.attn.masked_bias', shape: [16] }])), weights)
  const head = { ...stored()[0]!, name: 'lm_head.weight' }
  t.deepEqual(load(folderWith([...stored(), head])), weights)
  t.deepEqual(load(folderWith([...stored().slice(1), head])), weights)
})

test('an untied head is a parameter', (t) => {
  const head: TensorData = {
    name: 'lm_head.weight',
    dtype: 'F32',
    shape: [7, 4],
    data: Float32Array.from({ length: 28 }, (_, i) => i),
  }
  const loaded = load(folderWith([...stored(), head], { tie_word_embeddings: false }))
  t.deepEqual(loaded, { ...weights, 'lm_head.weight': head.data as Float32Array })
  t.throws(() => modelFromFolder(folderWith(stored(), { tie_word_embeddings: false })), {
    message: /lm_head.weight: missing/,
  })
  t.throws(() => modelFromFolder(folderWith([...stored(), head])), {
    instanceOf: CheckpointError,
    message: /lm_head.weight: expected equal to transformer.wte.weight, to which config.json ties it, got other values/,
  })
})

test('bf16 and f64 become f32', (t) => {
  const bf16 = stored().map((tensor): TensorData => {
    const words = new Uint16Array((tensor.data as Float32Array).buffer)
    return { ...tensor, dtype: 'BF16', data: words.filter((_, i) => i % 2 === 1) }
  })
  const loaded = load(folderWith(bf16))
  for (const [name, values] of Object.entries(weights)) {
    const cut = new Float32Array(Uint32Array.from(new Uint32Array(values.buffer), (bits) => bits & 0xffff0000).buffer)
    t.deepEqual(loaded[name], cut)
  }
  const f64 = stored().map(
    (tensor): TensorData => ({ ...tensor, dtype: 'F64', data: Float64Array.from(tensor.data as Float32Array) }),
  )
  t.deepEqual(load(folderWith(f64)), weights)
})

test('shards are found by their index', (t) => {
  const path = fresh()
  const shards = [stored().slice(0, 9), stored().slice(9)]
  const map = shards.flatMap((shard, i) => shard.map(({ name }) => [name, `part-${i}.safetensors`]))
  shards.forEach((shard, i) => {
    writeSafetensors(join(path, `part-${i}.safetensors`), shard)
  })
  rmSync(join(path, 'model.safetensors'))
  const index = join(path, 'model.safetensors.index.json')
  writeFileSync(index, JSON.stringify({ metadata: {}, weight_map: Object.fromEntries(map) }))
  t.deepEqual(load(path), weights)
  const refuse = (changed: [string, string][], message: RegExp): void => {
    writeFileSync(index, JSON.stringify({ weight_map: Object.fromEntries([...map, ...changed]) }))
    t.throws(() => readModelFolder(path), { instanceOf: CheckpointError, message })
  }
  refuse([[wte, 'part-1.safetensors']], /tensor transformer.wte.weight of .*part-1.safetensors, expected to be there/)
  refuse([[wte, 'part-2.safetensors']], /open .*part-2.safetensors, expected success, got ENOENT/)
  refuse([[wte, '../part-0.safetensors']], /weight_map of transformer.wte.weight of .*, expected a file of the folder/)
})

test('tensors that do not fit are listed in one error', (t) => {
  const [first, second, ...rest] = stored()
  const path = folderWith([
    { ...first!, shape: [4, 7] },
    ...rest,
    { name: 'score.weight', dtype: 'F32', shape: [1], data: new Float32Array(1) },
  ])
  t.throws(() => modelFromFolder(path), {
    instanceOf: CheckpointError,
    code: 'CHECKPOINT_MISMATCH',
    message: `model folder: tensors of ${path}, expected the 28 parameters of its config.json, got transformer.wte.weight: expected [7, 4], got [4, 7]; score.weight: not of the model; ${second!.name}: missing`,
  })
  t.throws(() => modelFromFolder(folderWith([])), { message: /transformer\.wte\.weight: missing; .*; and 23 more$/ })
  const twice = [...stored(), { ...second!, name: 'wpe.weight' }]
  t.throws(() => modelFromFolder(folderWith(twice)), { message: /wpe.weight: stored twice, also as/ })
  const integers = { ...second!, dtype: 'I32' } as const
  t.throws(() => modelFromFolder(folderWith([first!, integers, ...rest])), {
    message: /expected a float dtype, got I32/,
  })
})

test('folders without a usable config or weights are one clear error', (t) => {
  t.throws(() => modelFromFolder(join(root, 'absent')), {
    instanceOf: CheckpointError,
    code: 'CHECKPOINT_MISSING',
    message: /^model folder: reading of .*absent\/config.json/,
  })
  const path = fresh()
  writeFileSync(join(path, 'config.json'), '{"model_type": "bert"}')
  t.throws(() => modelFromFolder(path), {
    instanceOf: ModelError,
    message: /model_type of .*config.json, expected one of gpt2, got bert/,
  })
  writeFileSync(join(path, 'config.json'), '{"model_type"')
  t.throws(() => modelFromFolder(path), {
    instanceOf: CheckpointError,
    message: /content of .*config.json, expected JSON/,
  })
  writeFileSync(join(path, 'config.json'), '{"model_type": "gpt2", "n_head": 5}')
  t.throws(() => modelFromFolder(path), {
    instanceOf: ModelError,
    message: /^GPT2: n_embd, expected a multiple of n_head \(5\), got 768 \(.*config.json\)$/,
  })
  const empty = fresh()
  rmSync(join(empty, 'model.safetensors'))
  t.throws(() => modelFromFolder(empty), {
    message: /weights of .*, expected model.safetensors or .*index.json, got neither$/,
  })
  writeFileSync(join(empty, 'pytorch_model.bin'), '')
  t.throws(() => modelFromFolder(empty), { message: /got only pytorch_model.bin \(save it again as safetensors\)$/ })
  cpSync(fresh(), join(root, 'file'), { recursive: true })
  t.throws(() => writeModelFolder(join(root, 'file', 'config.json'), model, (name) => weights[name]!), {
    instanceOf: CheckpointError,
    code: 'CHECKPOINT_IO',
    message: /^model folder: writing of .*, expected success, got EEXIST/,
  })
})
