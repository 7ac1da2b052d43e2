// `--memory-limit`: how much the backward must compute again for the plan to fit. Cheap values first, then whole blocks from the first
// on, no more than needed. Nothing of it changes a bit of the results.
import { type Compilation, planTotals, type Recompute } from '../../runtime/graph/compile.js'
import { cheapOps } from '../../runtime/graph/passes/recompute.js'
import { formatBytes } from '../../runtime/observe/index.js'
import { EngineError } from './errors.js'

export interface Fitted {
  readonly recompute: Recompute
  readonly compilation: Compilation
}

/**
 * The least recomputation with which the arenas of all ranks together are at most `limit` bytes. `blocks` of the model can be
 * checkpointed. Throws {@link EngineError} `ENGINE_MEMORY` saying how much is missing.
 */
export function fitMemory(
  compileWith: (recompute: Recompute) => Compilation,
  { limit, ranks, blocks }: { readonly limit: number; readonly ranks: number; readonly blocks: number },
): Fitted {
  let least = Number.POSITIVE_INFINITY
  const attempt = (recompute: Recompute): Fitted | null => {
    const compilation = compileWith(recompute)
    const bytes = ranks * planTotals(compilation.plan).total
    least = Math.min(least, bytes)
    return bytes <= limit ? { recompute, compilation } : null
  }
  for (let count = 0; count <= cheapOps.length; count++) {
    const fitted = attempt({ cheap: cheapOps.slice(0, count), blocks: 0 })
    if (fitted) return fitted
  }
  const checkpointing = (count: number): Fitted | null => attempt({ cheap: cheapOps, blocks: count })
  // The last block's activations are read at once: checkpointing it may cost more than it saves.
  let [below, fits] = [0, checkpointing(Math.max(0, blocks - 1)) ?? checkpointing(blocks)]
  if (!fits) {
    const message = `initialize: memory limit, expected at most ${formatBytes(limit)} on ${ranks} ranks, got a plan of ${formatBytes(least)} with everything recomputed: ${formatBytes(least - limit)} too much`
    throw new EngineError('ENGINE_MEMORY', message, { limit, bytes: least, missing: least - limit })
  }
  while (fits.recompute.blocks - below > 1) {
    const middle = Math.floor((below + fits.recompute.blocks) / 2)
    const fitted = checkpointing(middle)
    if (fitted) fits = fitted
    else below = middle
  }
  return fits
}

/** `GELU and the like, norms, 3 of 12 blocks`, for people; null: nothing. */
export function describeRecompute({ cheap, blocks }: Recompute, ofBlocks: number): string | null {
  const parts = [
    ...(cheap.includes('activation') ? ['activation functions'] : []),
    ...(cheap.includes('layer_norm') ? ['norms'] : []),
    ...(blocks > 0 ? [`${Math.min(blocks, ofBlocks)} of ${ofBlocks} blocks`] : []),
  ]
  return parts.length > 0 ? parts.join(', ') : null
}
