// Bytes of scratch memory that an op's GPU kernel works in, beside its operands. An op without a rule needs none.
import {
  type Attributes,
  byteLength,
  dtypeBytes,
  elements,
  int,
  lastDim,
  rowsOf,
  type TensorType,
} from '../ops/definition.js'

export type WorkspaceRule = (
  inputs: readonly (TensorType | null)[],
  outputs: readonly TensorType[],
  attributes: Attributes,
) => number

/** Parts of a workspace begin on borders of 256 bytes. */
const whole = (bytes: number): number => Math.ceil(bytes / 256) * 256

/** What a matrix product may use for split sums (`product_workspace` of products.h). */
const productBytes = 64 << 20
const product: WorkspaceRule = () => productBytes

/** Row losses in float64, one chunk of `rows` rows of logits padded to 128 classes, and f32 sums of a dw of 16 bits over several chunks. */
const head: WorkspaceRule = (inputs, outputs, attributes) => {
  const [x, weight] = inputs as [TensorType, TensorType]
  const [all, classes] = [rowsOf(x.shape), elements(weight.shape) / lastDim(x.shape)]
  const rows = Math.min(int(attributes, 'rows'), all)
  const dw = outputs[2]
  const sums = dw && dw.dtype !== 'f32' && rows < all ? elements(dw.shape) * 4 : 0
  const logits = rows * Math.ceil(classes / 128) * 128 * dtypeBytes[x.dtype]
  return whole(all * 8) + whole(logits) + whole(sums) + productBytes
}

export const gpuWorkspace: Readonly<Record<string, WorkspaceRule>> = {
  linear: product,
  linear_input_gradient: product,
  linear_weight_gradient: product,
  linear_activation: product,
  linear_input_gradient_activation: product,
  cross_entropy: (inputs) => rowsOf(inputs[0]!.shape) * 8,
  linear_cross_entropy: head,
  linear_cross_entropy_gradients: head,
  /** The other ranks' slices, where they are added onto a base or in f32. */
  reduce_scatter: ([source, base], [shard], attributes) => {
    const ranks = int(attributes, 'ranks')
    if (!base && shard!.dtype === source!.dtype) return 0
    return (ranks - 1) * whole(byteLength(source!) / ranks)
  },
  barrier: () => 256,
}
