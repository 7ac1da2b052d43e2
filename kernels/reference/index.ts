// The reference backend: every op that computes on one rank, by name. Views need no kernel; collectives belong to the executor.
import { activations } from './activation.js'
import { attentions } from './attention.js'
import { crossEntropies } from './cross-entropy.js'
import { dropouts } from './dropout.js'
import { elementwise } from './elementwise.js'
import { embeddings } from './embedding.js'
import { fills } from './fill.js'
import type { ReferenceKernel } from './kernel.js'
import { linears } from './linear.js'
import { norms } from './norm.js'
import { optimizers } from './optimizer.js'
import { softmaxes } from './softmax.js'
import { steps } from './step.js'

export const referenceKernels: ReadonlyMap<string, ReferenceKernel> = new Map(
  [
    elementwise,
    activations,
    linears,
    norms,
    attentions,
    softmaxes,
    crossEntropies,
    dropouts,
    embeddings,
    fills,
    optimizers,
    steps,
  ].flatMap((family) => Object.entries(family)),
)

export { KernelError, type ReferenceCall, type ReferenceKernel, type ReferenceTensor } from './kernel.js'
export { viewOf } from './storage.js'
