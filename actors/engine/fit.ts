// What a plan leaves out to fit: on the GPU logits at a time, under `--memory-limit` values of the forward, which the backward then
// computes again; cheap values first, then whole blocks from the first on, no more than needed. Recomputing changes no bit of the results.
import type { Backend } from '../../kernels/ops/backend.js'
import { int, rowsOf } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import type { CompiledProgram } from '../../runtime/graph/assemble.js'
import { type Compilation, planTotals, type Recompute } from '../../runtime/graph/compile.js'
import { cheapOps } from '../../runtime/graph/passes/recompute.js'
import { formatBytes } from '../../runtime/observe/index.js'
import type { ChosenDevice } from './device.js'
import { EngineError } from './errors.js'
import type { PlanChoices, Planner } from './planner.js'

export interface Fitted {
  readonly choices: PlanChoices
  readonly compilation: Compilation
}

/**
 * The plan as asked for, with as few chunks of logits as the machine has room for. With a `limit`, in bytes, for the ranks that share a
 * memory together: the least recomputation with which they fit, where `blocks` of the model can be checkpointed. Throws
 * {@link EngineError} `ENGINE_MEMORY` saying how much is missing.
 */
export function fitPlan(
  planner: Planner,
  asked: PlanChoices,
  device: ChosenDevice,
  { limit, blocks }: { readonly limit?: number | undefined; readonly blocks: number },
): Fitted {
  const bytes = limit ?? device.capacity ?? Number.POSITIVE_INFINITY
  const plan = (recompute: Recompute): Fitted => {
    const choices = { ...asked, recompute }
    const compilation = planner(choices)
    const logitChunks = device.planned.logits ? fewestChunks(compilation, device.backend, bytes / device.sharers) : 1
    if (logitChunks === 1) return { choices, compilation }
    return { choices: { ...choices, logitChunks }, compilation: planner({ ...choices, logitChunks }) }
  }
  if (limit === undefined) return plan(asked.recompute)

  let least = Number.POSITIVE_INFINITY
  const attempt = ({ cheap, blocks: count }: Recompute): Fitted | null => {
    const fitted = plan({ cheap, blocks: Math.max(count, asked.recompute.blocks) })
    const total = device.sharers * planTotals(fitted.compilation.plan).total
    least = Math.min(least, total)
    return total <= limit ? fitted : null
  }
  for (let count = 0; count <= cheapOps.length; count++) {
    const fitted = attempt({ cheap: cheapOps.slice(0, count), blocks: 0 })
    if (fitted) return fitted
  }
  const checkpointing = (count: number): Fitted | null => attempt({ cheap: cheapOps, blocks: count })
  // The last block's activations are read at once: checkpointing it may cost more than it saves.
  let [below, fits] = [0, checkpointing(Math.max(0, blocks - 1)) ?? checkpointing(blocks)]
  if (!fits) {
    const message = `initialize: memory limit, expected at most ${formatBytes(limit)} ${device.planned.where}, got a plan of ${formatBytes(least)} with everything recomputed: ${formatBytes(least - limit)} too much`
    throw new EngineError('ENGINE_MEMORY', message, { limit, bytes: least, missing: least - limit })
  }
  while (fits.choices.recompute.blocks - below > 1) {
    const middle = Math.floor((below + fits.choices.recompute.blocks) / 2)
    const fitted = checkpointing(middle)
    if (fitted) fits = fitted
    else below = middle
  }
  return fits
}

/** More chunks than this save little; each costs another pass over the gradient of the head's weight. */
const mostChunks = 16
const heads: ReadonlySet<string> = new Set(['linear_cross_entropy', 'linear_cross_entropy_gradients'])

/**
 * The fewest chunks of logits, from 1 to 16, with which the arenas of a rank are at most `bytes`; 16 where that is still too much. Of
 * a plan only the scratch memory depends on them.
 */
export function fewestChunks(
  { programs, plan }: Compilation,
  backend: (logitChunks: number) => Backend,
  bytes: number,
): number {
  const scratch = ({ program }: CompiledProgram, chunks: number): number => {
    const most = { own: 0, collective: 0 }
    for (const { op: name, inputs, attributes, workspace } of program.instructions) {
      const op = opNamed(name)
      const lane = 'ranks' in op.attributes ? 'collective' : 'own'
      let [size] = workspace === null ? [0] : (program.tensors[workspace]!.shape as [number])
      if (heads.has(name)) {
        const types = inputs.map((index) => (index === null ? null : program.tensors[index]!))
        const classes = types[1]!.shape[int(attributes, 'transposed') ? 1 : 0]!
        const chosen = { ...attributes, rows: backend(chunks).logitRows(rowsOf(types[0]!.shape), classes) }
        size = backend(chunks).workspace(op, types, op.infer(types, chosen), chosen)
      }
      most[lane] = Math.max(most[lane], size)
    }
    return most.own + most.collective
  }
  const compiled = Object.values(programs)
  const rest = planTotals(plan).total - plan.arenas.workspace
  let chunks = 1
  while (chunks < mostChunks && rest + Math.max(...compiled.map((program) => scratch(program, chunks))) > bytes)
    chunks += 1
  return chunks
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
