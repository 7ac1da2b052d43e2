// The fused forms that a backend may offer. A backend lists those that it has (kernels/cpu/fusions.ts, kernels/reference/fusions.ts);
// the fusion pass asks the list and nothing else.

/** Every fusion that the compiler knows how to make, by the form it makes. */
export const fusionNames = [
  /** `linear` adds a residual in its epilogue. */
  'linear_residual',
  /** `linear_activation`: product, bias and activation in one pass, the pre-activation kept. */
  'linear_activation',
  /** `linear_input_gradient_activation`: the activation's derivative in the product's epilogue. */
  'linear_input_gradient_activation',
  /** `layer_norm_backward` adds the gradient that flows past the norm. */
  'layer_norm_backward_residual',
  /** `layer_norm_backward` also adds up the rows of what it makes. */
  'layer_norm_backward_sum',
  /** `linear_input_gradient_activation` also adds up the rows of what it makes. */
  'linear_input_gradient_activation_sum',
  /** `dropout` adds a residual. */
  'dropout_residual',
  /** `embedding_backward` adds onto an existing gradient (tied weights). */
  'embedding_backward_base',
  /** `linear_cross_entropy` and its gradients: the head's logits never exist whole. */
  'linear_cross_entropy',
] as const

export type FusionName = (typeof fusionNames)[number]
