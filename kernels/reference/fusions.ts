// The fused instructions that the reference backend has: all, so that it can run every program that the CPU runs.
import { type FusionName, fusionNames } from '../ops/fusion.js'

export const referenceFusions: readonly FusionName[] = fusionNames
