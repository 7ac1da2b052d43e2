// What users compose models from.
export type { ActivationKind } from '../../kernels/ops/activation.js'
export {
  type AttentionLayerOptions,
  Block,
  type BlockOptions,
  CausalSelfAttention,
  MLP,
  type MLPOptions,
} from './block.js'
export { ModelError } from './error.js'
export * as functional from './functional.js'
export type { LanguageModel, Reduction } from './language-model.js'
export { Dropout, Embedding, LayerNorm, Linear, type LinearOptions } from './layers.js'
export { GPT2, type GPT2Config } from './models/gpt2.js'
export {
  type ModelFolder,
  modelFromFolder,
  readModelFolder,
  type WeightSource,
  Weights,
  writeModelFolder,
} from './models/huggingface.js'
export {
  countParameters,
  type Initializer,
  Module,
  type NamedModule,
  type NamedParameter,
  namedModules,
  namedParameters,
  Parameter,
} from './module.js'
export { Tensor, type TensorLike } from './tensor.js'
