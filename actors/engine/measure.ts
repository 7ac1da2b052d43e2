// Where the time of a step went: the instructions that ranks measured, as spans of a trace and summed by phase. Pure.
import type { Program } from '../../kernels/abi/program.js'
import type { DType } from '../../kernels/ops/definition.js'
import type { Compilation } from '../../runtime/graph/compile.js'
import type { TimingEvent, TraceSpan } from '../../runtime/observe/index.js'
import type { StepReport } from '../rank/protocol.js'

/** Every instruction that the ranks measured in a step. */
export function spansOf({ programs }: Compilation, reports: readonly StepReport[], step: number): TraceSpan[] {
  return reports.flatMap(({ profile = [] }, rank) =>
    profile.flatMap(({ program, seconds }) =>
      programs[program]!.program.instructions.map(({ op, inputs, debug }, i) => {
        const dtype = dtypeOf(programs[program]!.program, inputs)
        return {
          name: op,
          category: debug.phase,
          rank,
          startSeconds: seconds[2 * i]!,
          endSeconds: seconds[2 * i + 1]!,
          flops: debug.flops,
          bytes: debug.bytes,
          ...(dtype && { dtype }),
          details: {
            step,
            ...(debug.module && { module: debug.module }),
            ...(debug.source && { source: debug.source }),
          },
        }
      }),
    ),
  )
}

/** Of the first operand that holds floats. */
function dtypeOf({ tensors }: Program, inputs: readonly (number | null)[]): DType | undefined {
  const dtypes = inputs.flatMap((index) => (index === null ? [] : tensors[index]!.dtype))
  return dtypes.find((dtype) => dtype !== 'i32' && dtype !== 'u8')
}

/** Milliseconds of a step by phase, the mean over `ranks`. */
export function timingOf(spans: readonly TraceSpan[], ranks: number, step: number): TimingEvent {
  const milliseconds = (phase: string): number =>
    spans.reduce((sum, span) => sum + (span.category === phase ? span.endSeconds - span.startSeconds : 0), 0) *
    (1e3 / ranks)
  return {
    type: 'timing',
    step,
    forward_ms: milliseconds('forward'),
    backward_ms: milliseconds('backward'),
    communication_ms: milliseconds('communication'),
    update_ms: milliseconds('update'),
  }
}
