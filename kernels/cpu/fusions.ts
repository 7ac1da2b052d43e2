// The fused instructions that the CPU backend has.
import { type FusionName, fusionNames } from '../ops/fusion.js'

/** All but the sums over rows: what they would read is in the cache still. */
export const cpuFusions: readonly FusionName[] = fusionNames.filter((name) => !name.endsWith('_sum'))
