// Training data: sources of samples, the order they are taken in, and the tokenizers that make them.
export * from './error.js'
export * from './open.js'
export * from './sampler.js'
export * from './slot.js'
export * from './source.js'
export * from './tokenizer.js'
