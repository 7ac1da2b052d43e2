// The GPU as the compiler sees it, with as many chunks of logits as the plan can afford to have few.
import type { Backend } from '../ops/backend.js'
import { dtypeBytes, int, lastDim } from '../ops/definition.js'
import { gpuFusions } from './fusions.js'
import { gpuWorkspace, tensorCoreHeads } from './workspace.js'

/** The fused head's rows of logits in so many chunks; each but the first adds onto the weight's gradient once more. */
export const gpuBackend = (logitChunks = 1): Backend => ({
  fusions: gpuFusions,
  alignment: 256,
  overlaps: true,
  tokenOrder: true,
  workspace: (op, inputs, outputs, attributes) => gpuWorkspace[op.name]?.(inputs, outputs, attributes) ?? 0,
  logitRows: (rows) => Math.min(rows, Math.ceil(rows / logitChunks / 128) * 128),
  slowPath: ({ name }, inputs, attributes) => {
    const qkv = inputs[['attention', 'attention_backward'].indexOf(name)]
    if (!qkv || dtypeBytes[qkv.dtype] !== 2) return null
    const size = lastDim(qkv.shape) / 3 / int(attributes, 'heads')
    if (tensorCoreHeads.includes(size)) return null
    return `attention with heads of ${size} runs without tensor cores; fast sizes are ${tensorCoreHeads.join(', ')}`
  },
})
