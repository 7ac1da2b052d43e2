// The fused instructions that the GPU backend has: all but the sum over rows beside a norm's backward, which runs as an op of its own.
import { type FusionName, fusionNames } from '../ops/fusion.js'

export const gpuFusions: readonly FusionName[] = fusionNames.filter((name) => name !== 'layer_norm_backward_sum')
