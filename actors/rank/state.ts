// A rank's plan of a step as data: which program runs on which rows with which scalars. Pure.
import type { Program } from '../../kernels/abi/program.js'
import { opNamed } from '../../kernels/ops/index.js'
import type { MicroStep } from '../../runtime/graph/partition/sharding.js'
import type { BatchShape, StepOrder } from './protocol.js'

export interface MicroRun {
  readonly program: MicroStep
  /** First row of the batch. */
  readonly row: number
  /** Number of the row's sample, counted from the start of training. */
  readonly sample: number
}

/** The micro-steps of a step for one rank: micro-batch k = m * world + rank takes rows k * micro and on. */
export function microRuns(shape: BatchShape, rank: number, world: number, order: StepOrder): MicroRun[] {
  const { accumulation, micro } = shape
  return Array.from({ length: accumulation }, (_, m) => {
    const row = (m * world + rank) * micro
    const first = m === 0
    const last = m === accumulation - 1
    return {
      program: first && last ? 'only' : first ? 'first' : last ? 'last' : 'middle',
      row,
      sample: order.sample + row,
    }
  })
}

/**
 * Whether a run that was aborted at an instruction left parameters and optimizer states as they were. An abort strikes between two
 * instructions or inside a collective.
 */
export function leftAlone(program: Program, instruction: number): boolean {
  const writes = program.instructions.findIndex(({ outputs }) =>
    outputs.some((i) => i !== null && ['parameters', 'optimizer'].includes(program.tensors[i]!.arena)),
  )
  if (writes < 0) return true
  const meets = 'ranks' in opNamed(program.instructions[writes]!.op).attributes
  return meets ? instruction < writes : instruction <= writes
}

/** A program's scalar slots filled by name. */
export function fillScalars(program: Program, values: Readonly<Record<string, number>>): Float64Array {
  return Float64Array.from(program.scalars, (name) => {
    const value = values[name]
    if (value === undefined) throw new Error(`program ${program.name}: scalar ${name}, expected a value, got none`)
    return value
  })
}
