// Hugging Face folders in and out: config.json, model.safetensors (whole or in shards with an index), tokenizer.json.
// A folder must hold exactly the model's parameters, in any float dtype; names with and without the base model's prefix are known.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { elements, sameShape } from '../../../kernels/ops/definition.js'
import { CheckpointError } from '../../checkpoint/error.js'
import { SafetensorsFile, type StoredTensor, writeSafetensors } from '../../checkpoint/safetensors.js'
import { ModelError } from '../error.js'
import type { LanguageModel } from '../language-model.js'
import { namedParameters, tiedNames } from '../module.js'
import { GPT2 } from './gpt2.js'

/** How one family of models is told apart, made and named. */
interface Architecture {
  /** `model_type` of config.json. */
  readonly modelType: string
  create(config: Readonly<Record<string, unknown>>): LanguageModel
  /** The prefix that files of the base model leave out of parameters' names. */
  readonly prefix: string
  /** Parts of the model outside the prefix. */
  readonly heads: readonly string[]
  /** Tensors in files that are constants, not parameters. */
  readonly constants: RegExp
}

const architectures: readonly Architecture[] = [
  {
    modelType: 'gpt2',
    create: (config) => new GPT2(config),
    prefix: 'transformer.',
    heads: ['lm_head.'],
    constants: /(^|\.)h\.\d+\.attn\.(bias|masked_bias)$/,
  },
]

/** Where a parameter's values lie: plain data, so that ranks can read their own parts. */
export interface WeightSource {
  readonly file: string
  readonly tensor: string
}

export interface ModelFolder {
  readonly path: string
  readonly config: Readonly<Record<string, unknown>>
  /** The files' tensors by their names in the files. */
  readonly tensors: ReadonlyMap<string, StoredTensor & { readonly file: string }>
  /** tokenizer.json, where there is one. */
  readonly tokenizerPath?: string
}

/** Values of parameters, read from files in ranges of elements and converted to f32. */
export class Weights {
  readonly #files = new Map<string, SafetensorsFile>()

  constructor(
    /** By parameter name. */
    readonly sources: Readonly<Record<string, WeightSource>>,
  ) {}

  /** Fills `target` with the parameter's elements from `start` on. Throws CheckpointError naming file and tensor. */
  read(parameter: string, start: number, target: Float32Array): void {
    const source = this.sources[parameter]
    if (!source) {
      const message = `weights: parameter ${parameter}, expected one of the model, got none of that name`
      throw new CheckpointError('CHECKPOINT_MISSING', message, { tensor: parameter })
    }
    let file = this.#files.get(source.file)
    if (!file) {
      file = new SafetensorsFile(source.file)
      this.#files.set(source.file, file)
    }
    file.readFloats(source.tensor, start, target)
  }

  close(): void {
    for (const file of this.#files.values()) file.close()
    this.#files.clear()
  }
}

/** Reads and checks what a folder holds, without any values. Throws {@link CheckpointError} naming the file that is at fault. */
export function readModelFolder(path: string): ModelFolder {
  const config = readJson(join(path, 'config.json'))
  const tensors = new Map<string, StoredTensor & { file: string }>()
  for (const [file, names] of weightFiles(path)) {
    const opened = new SafetensorsFile(file)
    opened.close()
    for (const name of names ?? opened.tensors.keys()) {
      const tensor = opened.tensors.get(name)
      if (!tensor) fail('CHECKPOINT_MISSING', file, `tensor ${name}`, 'to be there, as the index says', 'none')
      tensors.set(name, { ...tensor, file })
    }
  }
  const tokenizerPath = join(path, 'tokenizer.json')
  return { path, config, tensors, ...(existsSync(tokenizerPath) && { tokenizerPath }) }
}

/**
 * The model of a folder and where its weights lie. A tied weight that is stored twice must be equal in both places.
 * @throws ModelError for a config.json that cannot be followed, CheckpointError listing tensors that are missing, extra or of
 * another shape.
 */
export function modelFromFolder(path: string): { model: LanguageModel; weights: Weights; folder: ModelFolder } {
  const folder = readModelFolder(path)
  const file = join(path, 'config.json')
  const architecture = architectures.find(({ modelType }) => modelType === folder.config.model_type)
  if (!architecture) {
    const known = architectures.map(({ modelType }) => modelType).join(', ')
    throw new ModelError(
      `model folder: model_type of ${file}, expected one of ${known}, got ${folder.config.model_type}`,
      {
        key: 'model_type',
        file,
      },
    )
  }
  let model: LanguageModel
  try {
    model = architecture.create(folder.config)
  } catch (error) {
    if (!(error instanceof ModelError)) throw error
    throw new ModelError(`${error.message} (${file})`, { ...error.details, file }, { cause: error })
  }
  return { model, weights: new Weights(matchTensors(folder, architecture, model)), folder }
}

/**
 * Writes config.json and model.safetensors as Hugging Face's `from_pretrained` reads them, in f32, tied weights once.
 * `read` gives a parameter's values, all its elements in row-major order; it is asked for one parameter after another.
 */
export function writeModelFolder(path: string, model: LanguageModel, read: (parameter: string) => Float32Array): void {
  const configPath = join(path, 'config.json')
  try {
    mkdirSync(path, { recursive: true })
    writeFileSync(configPath, modelConfig(model))
  } catch (error) {
    fail('CHECKPOINT_IO', configPath, 'writing', 'success', (error as Error).message)
  }
  const tensors = namedParameters(model).map(({ name, parameter: { shape } }) => {
    return { name, dtype: 'F32' as const, shape, data: () => read(name) }
  })
  writeSafetensors(join(path, 'model.safetensors'), tensors, modelMetadata)
}

/** Dtypes as config.json spells them. */
const torchDTypes = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' } as const

/** The text of config.json; `weights` is the dtype of the folder's weights. */
export function modelConfig(model: LanguageModel, weights: keyof typeof torchDTypes = 'f32'): string {
  const dtype = torchDTypes[weights]
  return `${JSON.stringify({ ...model.config, dtype, torch_dtype: dtype }, null, 2)}\n`
}

/** What `from_pretrained` demands of a safetensors file's metadata. */
export const modelMetadata: Readonly<Record<string, string>> = { format: 'pt' }

/** The files of weights, each with the names that are taken from it (all, where undefined). */
function weightFiles(path: string): Map<string, string[] | undefined> {
  const whole = join(path, 'model.safetensors')
  if (existsSync(whole)) return new Map([[whole, undefined]])
  const index = join(path, 'model.safetensors.index.json')
  if (!existsSync(index)) {
    const other = existsSync(join(path, 'pytorch_model.bin'))
      ? 'only pytorch_model.bin (save it again as safetensors)'
      : 'neither'
    fail('CHECKPOINT_MISSING', path, 'weights', 'model.safetensors or model.safetensors.index.json', other)
  }
  const map = readJson(index).weight_map
  if (typeof map !== 'object' || map === null) {
    fail('CHECKPOINT_FORMAT', index, 'weight_map', 'names of files by tensor', typeof map)
  }
  const files = new Map<string, string[]>()
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== 'string' || file !== basename(file)) {
      fail('CHECKPOINT_FORMAT', index, `weight_map of ${name}`, 'a file of the folder', String(file))
    }
    const names = files.get(join(path, file))
    if (names) names.push(name)
    else files.set(join(path, file), [name])
  }
  return files
}

/** The source of each parameter, from tensors under any of their names. */
function matchTensors(
  folder: ModelFolder,
  { prefix, heads, constants }: Architecture,
  model: LanguageModel,
): Record<string, WeightSource> {
  const tied = tiedNames(model)
  const parameters = namedParameters(model)
  const expected = new Map(parameters.map(({ name, parameter }) => [name, parameter.shape]))
  const sources: Record<string, WeightSource> = {}
  const copies: { name: string; original: string; source: WeightSource }[] = []
  const problems: string[] = []
  for (const [tensor, { file, shape, dtype }] of folder.tensors) {
    if (constants.test(tensor)) continue
    const isFull = [prefix, ...heads].some((start) => tensor.startsWith(start))
    const name = isFull ? tensor : prefix + tensor
    const original = tied.get(name)
    const misfit = misfitOf(expected.get(original ?? name), shape, dtype)
    if (misfit) {
      problems.push(`${tensor}: ${misfit}`)
    } else if (original) {
      copies.push({ name, original, source: { file, tensor } })
    } else if (sources[name]) {
      problems.push(`${tensor}: stored twice, also as ${sources[name].tensor}`)
    } else {
      sources[name] = { file, tensor }
    }
  }
  const missing = parameters.map(({ name }) => name).filter((name) => !sources[name])
  for (const name of missing) {
    const copy = copies.find(({ original }) => original === name)
    if (copy) sources[name] = copy.source
    else if (!problems.some((problem) => problem.startsWith(`${name}:`))) problems.push(`${name}: missing`)
  }
  if (problems.length === 0) {
    for (const { name, original, source } of copies) {
      if (!equalTensors(sources[original]!, source, elements(expected.get(original)!))) {
        problems.push(`${name}: expected equal to ${original}, to which config.json ties it, got other values`)
      }
    }
  }
  if (problems.length > 0) {
    const shown = problems.slice(0, 5).join('; ')
    const more = problems.length > 5 ? `; and ${problems.length - 5} more` : ''
    fail(
      'CHECKPOINT_MISMATCH',
      folder.path,
      'tensors',
      `the ${expected.size} parameters of its config.json`,
      shown + more,
    )
  }
  return sources
}

/** Why a stored tensor cannot be a parameter of shape `expected`; null where it can. */
function misfitOf(expected: readonly number[] | undefined, shape: readonly number[], dtype: string): string | null {
  if (!expected) return 'not of the model'
  if (!sameShape(shape, expected)) return `expected [${expected.join(', ')}], got [${shape.join(', ')}]`
  return ['F32', 'F16', 'BF16', 'F64'].includes(dtype) ? null : `expected a float dtype, got ${dtype}`
}

function equalTensors(a: WeightSource, b: WeightSource, count: number): boolean {
  if (a === b) return true
  const weights = new Weights({ a, b })
  try {
    const [x, y] = [new Float32Array(Math.min(count, 1 << 20)), new Float32Array(Math.min(count, 1 << 20))]
    for (let at = 0; at < count; at += x.length) {
      const length = Math.min(x.length, count - at)
      weights.read('a', at, x.subarray(0, length))
      weights.read('b', at, y.subarray(0, length))
      if (Buffer.compare(new Uint8Array(x.buffer, 0, 4 * length), new Uint8Array(y.buffer, 0, 4 * length)) !== 0) {
        return false
      }
    }
    return true
  } finally {
    weights.close()
  }
}

function readJson(path: string): Record<string, unknown> {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    return fail('CHECKPOINT_MISSING', path, 'reading', 'success', (error as Error).message)
  }
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    fail('CHECKPOINT_FORMAT', path, 'content', 'JSON', (error as Error).message)
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    return fail('CHECKPOINT_FORMAT', path, 'content', 'a JSON object', 'another value')
  }
  return json as Record<string, unknown>
}

function fail(
  code: ConstructorParameters<typeof CheckpointError>[0],
  file: string,
  what: string,
  expected: string,
  got: string,
): never {
  throw new CheckpointError(code, `model folder: ${what} of ${file}, expected ${expected}, got ${got}`, { file })
}
