// The fused instructions that the CPU backend has.
import { type FusionName, fusionNames } from '../ops/fusion.js'

export const cpuFusions: readonly FusionName[] = fusionNames
