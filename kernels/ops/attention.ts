// Scaled dot-product attention over one packed buffer qkv_BT3HD, in tiles: memory is linear in the sequence length.
// Legend: B batch, T sequence, H heads, D head size. Source of the tiling: FlashAttention-2 (arXiv 2307.08691).
import {
  type Attributes,
  dtypeBytes,
  elements,
  expectDtype,
  expectFloat,
  expectType,
  int,
  type OpDefinition,
  OpError,
  required,
  statistic,
  streamCost,
  type TensorType,
} from './definition.js'

const attributes = {
  heads: 'int',
  causal: 'int',
  scale: 'float',
  dropout: 'float',
  op_id: 'int',
} as const

const scalars = ['seed', 'step', 'sample']

/**
 * o = dropout(softmax(scale * q k^T)) v per head, and the log-sum-exp of each row of scaled scores over the keys it sees. qkv is
 * [B, T, 3 * H * D] with q, k and v of all heads side by side. A dropped probability is 0, a kept one is multiplied by 1 / (1 - p);
 * key, counter and threshold are those of `dropout`, with element = (h * T + query) * T + key of sample `sample` + b.
 */
export const attention: OpDefinition = {
  name: 'attention',
  opcode: 40,
  inputs: ['qkv'],
  outputs: ['o', 'lse'],
  attributes,
  scalars,
  infer: (inputs, attrs) => {
    const qkv = required('attention', inputs, 0, 'qkv')
    expectFloat('attention', 'qkv', qkv)
    const heads = int(attrs, 'heads')
    const [batch, sequence, width] = qkv.shape
    if (qkv.shape.length !== 3 || width! % (3 * heads) !== 0) {
      throw new OpError(
        'attention',
        'shape of qkv',
        `[batch, sequence, 3 * heads (${heads}) * head size]`,
        String(qkv.shape),
      )
    }
    return [
      { shape: [batch!, sequence!, width! / 3], dtype: qkv.dtype },
      { shape: [batch!, heads, sequence!], dtype: statistic(qkv.dtype) },
    ]
  },
  gradient: (builder, call, [dy]) => [
    dy
      ? builder.emit(
          'attention_backward',
          [dy, call.inputs[0]!, call.outputs[0]!, call.outputs[1]!],
          call.attributes,
        )[0]!
      : null,
  ],
  cost: (inputs, outputs, attrs) => {
    const [, sequence] = outputs[0]!.shape as [number, number, number]
    const pairs = int(attrs, 'causal') ? (sequence + 1) / 2 : sequence
    return { flops: 4 * elements(outputs[0]!.shape) * pairs, bytes: streamCost(inputs, outputs).bytes }
  },
  workspace: (inputs, _outputs, attrs, threads) => {
    const { sequence, padded, size } = tiles(inputs[0]!, attrs)
    return 4 * threads * ((padded + sequence + 96) * size + stripElements + 16)
  },
}

/** The gradient of {@link attention}: scores are recomputed from qkv and the log-sum-exp, never stored. */
export const attentionBackward: OpDefinition = {
  name: 'attention_backward',
  opcode: 41,
  inputs: ['do', 'qkv', 'o', 'lse'],
  outputs: ['dqkv'],
  attributes,
  scalars,
  infer: (inputs) => {
    const qkv = required('attention_backward', inputs, 1, 'qkv')
    const o = required('attention_backward', inputs, 2, 'o')
    const lse = required('attention_backward', inputs, 3, 'lse')
    expectFloat('attention_backward', 'qkv', qkv)
    expectDtype('attention_backward', 'o', o, qkv.dtype)
    expectType('attention_backward', 'do', required('attention_backward', inputs, 0, 'do'), o)
    expectDtype('attention_backward', 'lse', lse, statistic(qkv.dtype))
    return [qkv]
  },
  cost: (inputs, outputs, attrs) => {
    const [, sequence] = inputs[2]!.shape as [number, number, number]
    const pairs = int(attrs, 'causal') ? (sequence + 1) / 2 : sequence
    return { flops: 10 * elements(inputs[2]!.shape) * pairs, bytes: streamCost(inputs, outputs).bytes }
  },
  workspace: (inputs, _outputs, attrs, threads) => {
    const { sequence, padded, size } = tiles(inputs[1]!, attrs)
    const halves = dtypeBytes[inputs[1]!.dtype] === 2 ? (sequence + 2 * 256) * size + 96 * 272 : 0
    return (
      4 * threads * ((2 * padded + 3 * sequence) * size + 2 * stripElements + 2 * 96 * 272 + sequence + halves + 16)
    )
  },
}

/** A packed strip of at most 8 rows of one head, 1,040 elements apart (ROW_STRIDE of kernels/cpu/attention.cpp). */
const stripElements = 8 * 1040

/**
 * The sizes behind a thread's scratch: packed copies of one head's q, k, v and do in whole panels and vectors. With them go the sums
 * of 96 queries or, backward, two blocks of 96 x 272 scores; of 16 bits, those in pairs too, and the sums of gradients of all queries
 * and of 256 keys.
 */
function tiles(qkv: TensorType, attrs: Attributes): { sequence: number; padded: number; size: number } {
  const [, sequence, width] = qkv.shape as [number, number, number]
  const headSize = width / 3 / int(attrs, 'heads')
  return { sequence, padded: Math.ceil(sequence / 32) * 32, size: Math.ceil(headSize / 16) * 16 }
}

export const attentions = [attention, attentionBackward]
