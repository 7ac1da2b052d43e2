// The fused instructions that the GPU backend has.
import { type FusionName, fusionNames } from '../ops/fusion.js'

export const gpuFusions: readonly FusionName[] = fusionNames
