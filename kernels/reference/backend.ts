// The reference as the compiler sees it: it works in JavaScript's own memory.
import type { Backend } from '../ops/backend.js'
import { referenceFusions } from './fusions.js'

export const referenceBackend: Backend = {
  fusions: referenceFusions,
  alignment: 64,
  overlaps: false,
  tokenOrder: true,
  workspace: () => 0,
  logitRows: (rows) => rows,
  slowPath: () => null,
}
