// The CPU as the compiler sees it.
import type { Backend } from '../ops/backend.js'
import { cpuFusions } from './fusions.js'
import { cpuWorkspace } from './workspace.js'

/** Bytes of logits that exist at a time. */
const logitBytes = 64 << 20

/** With so many threads for each rank. */
export const cpuBackend = (threads: number): Backend => ({
  fusions: cpuFusions,
  // A cache line, and the width of the widest vector.
  alignment: 64,
  overlaps: false,
  tokenOrder: false,
  workspace: (op, inputs, outputs, attributes) => cpuWorkspace[op.name]?.(inputs, outputs, attributes, threads) ?? 0,
  // A multiple of 128, and at least that.
  logitRows: (rows, classes) => Math.min(rows, Math.max(128, Math.floor(logitBytes / 4 / classes / 128) * 128)),
  slowPath: () => null,
})
