// The table of all ops: what programs, backends and passes agree on.
import { activations } from './activation.js'
import { attentions } from './attention.js'
import { collectives } from './collective.js'
import { crossEntropies } from './cross-entropy.js'
import type { OpDefinition } from './definition.js'
import { dropouts } from './dropout.js'
import { elementwise } from './elementwise.js'
import { embeddings } from './embedding.js'
import { fills } from './fill.js'
import { linears } from './linear.js'
import { norms } from './norm.js'
import { optimizers } from './optimizer.js'
import { softmaxes } from './softmax.js'
import { steps } from './step.js'

export const ops: readonly OpDefinition[] = [
  ...elementwise,
  ...activations,
  ...linears,
  ...norms,
  ...attentions,
  ...softmaxes,
  ...crossEntropies,
  ...dropouts,
  ...embeddings,
  ...fills,
  ...optimizers,
  ...steps,
  ...collectives,
]

const byName = new Map(ops.map((op) => [op.name, op]))
const byOpcode = new Map(ops.map((op) => [op.opcode, op]))

/** The op of that name. Throws if there is none: names come from the compiler, not from users. */
export function opNamed(name: string): OpDefinition {
  const op = byName.get(name)
  if (!op) throw new Error(`op table: name, expected one of ${[...byName.keys()].join(', ')}, got ${name}`)
  return op
}

/** The op of that opcode, or undefined where this build has none. */
export const opOfCode = (opcode: number): OpDefinition | undefined => byOpcode.get(opcode)
