// What the engine asks of a model of text: logits for use, a loss for training and evaluation.
import type { Module } from './module.js'
import type { Tensor } from './tensor.js'

/** `mean` over all rows for training; `sum` for evaluation, which divides by the tokens that it counted itself. */
export type Reduction = 'mean' | 'sum'

/** B sequences of T tokens; the vocabulary has V. */
export interface LanguageModel extends Module {
  /** The model's Hugging Face config.json. */
  readonly config: Readonly<Record<string, unknown>>
  readonly vocabSize: number
  /** The longest sequence that the model can see. */
  readonly maxPositions: number
  /** i32 ids [B, T] to logits [B, T, V]. Throws ModelError where T exceeds `maxPositions`. */
  forward(ids: Tensor): Tensor
  /** Cross-entropy of targets (i32 [B, T]; -1 masks) as a tensor of one element; `mean` by default. */
  loss(ids: Tensor, targets: Tensor, reduction?: Reduction): Tensor
}
