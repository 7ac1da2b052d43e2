// Scaled dot-product attention over one packed buffer qkv_BT3HD, in tiles: memory is linear in the sequence length.
// Legend: B batch, T sequence, H heads, D head size. Source of the tiling: FlashAttention-2 (arXiv 2307.08691).
import { elements, expectFloat, expectShape, int, type OpDefinition, OpError, required, streamCost } from './definition.js'

const attributes = {
  heads: 'int',
  causal: 'int',
  scale: 'float',
  dropout: 'float',
  op_id: 'int',
} as const

const scalars = ['seed', 'step', 'sample']

/**
 * o = dropout(softmax(scale * q k^T)) v per head, and the log-sum-exp of each row of scores. qkv is [B, T, 3 * H * D]
 * with q, k and v of all heads side by side. Dropout draws Philox word `element % 4` of counter
 * (op_id, step, sample + b, element / 4), element = (h * T + query) * T + key.
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
      throw new OpError('attention', 'shape of qkv', `[batch, sequence, 3 * heads (${heads}) * head size]`, String(qkv.shape))
    }
    return [
      { shape: [batch!, sequence!, width! / 3], dtype: qkv.dtype },
      { shape: [batch!, heads, sequence!], dtype: qkv.dtype === 'f64' ? 'f64' : 'f32' },
    ]
  },
  gradient: (builder, call, [dy]) => [
    dy
      ? builder.emit('attention_backward', [dy, call.inputs[0]!, call.outputs[0]!, call.outputs[1]!], call.attributes)[0]!
      : null,
  ],
  cost: (inputs, outputs, attrs) => {
    const [, sequence, width] = outputs[0]!.shape as [number, number, number]
    const pairs = int(attrs, 'causal') ? (sequence + 1) / 2 : sequence
    return { flops: 4 * elements(outputs[0]!.shape) * pairs, bytes: streamCost(inputs, outputs).bytes + 0 * width }
  },
  workspace: (inputs, _outputs, attrs, threads) => {
    const [, sequence, width] = inputs[0]!.shape as [number, number, number]
    return attentionWorkspace(sequence, width / 3 / int(attrs, 'heads'), threads)
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
    expectShape('attention_backward', 'do', required('attention_backward', inputs, 0, 'do'), o.shape)
    return [qkv]
  },
  cost: (inputs, outputs, attrs) => {
    const [, sequence] = inputs[2]!.shape as [number, number, number]
    const pairs = int(attrs, 'causal') ? (sequence + 1) / 2 : sequence
    return { flops: 10 * elements(inputs[2]!.shape) * pairs, bytes: streamCost(inputs, outputs).bytes }
  },
  workspace: (inputs, _outputs, attrs, threads) => {
    const [batch, sequence, width] = inputs[1]!.shape as [number, number, number]
    const heads = int(attrs, 'heads')
    return attentionWorkspace(sequence, width / 3 / heads, threads) + batch * heads * sequence * 4
  },
}

/** Per thread: transposed or padded copies of one head's q, k, v and their gradients, and a few 128 x 128 tiles of scores. */
function attentionWorkspace(sequence: number, headSize: number, threads: number): number {
  const padded = Math.ceil(sequence / 128) * 128
  const size = Math.ceil(headSize / 16) * 16
  return threads * (8 * padded * size + 6 * 128 * 128 + 4 * padded) * 4
}

export const attentions = [attention, attentionBackward]
