// Scaled dot-product attention over one packed buffer qkv_BT3HD, in tiles: memory is linear in the sequence length.
// Legend: B batch, T sequence, H heads, D head size. Source of the tiling: FlashAttention-2 (arXiv 2307.08691).
import {
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
}

export const attentions = [attention, attentionBackward]
