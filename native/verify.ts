// What a device checks of a program before it takes it: operands against the op table's own shape rules, scratch memory, and that
// collectives overlap only where no peer reads. Record bounds and arena bounds are the decoder's part.
import { type Instruction, type Program, ProgramError, type TensorRecord } from '../kernels/abi/program.js'
import type { Backend } from '../kernels/ops/backend.js'
import { byteLength, int, type OpDefinition, OpError, sameShape, showType } from '../kernels/ops/definition.js'
import { opNamed } from '../kernels/ops/index.js'

export interface VerifyOptions {
  readonly rank: number
  readonly ranks: number
  /** What will run the program. */
  readonly backend: Backend
}

/** Throws {@link ProgramError} naming the first instruction that does not fit. */
export function verifyProgram(program: Program, options: VerifyOptions): void {
  if (program.ranks !== options.ranks) fail('ranks', options.ranks, program.ranks)
  program.instructions.forEach((instruction, i) => {
    verifyInstruction(program, instruction, `instruction ${i} (${instruction.op})`, options)
  })
}

function fail(what: string, expected: unknown, got: unknown): never {
  throw new ProgramError(`program: ${what}, expected ${expected}, got ${got}`)
}

function verifyInstruction(program: Program, instruction: Instruction, name: string, options: VerifyOptions): void {
  const op = opNamed(instruction.op)
  const at = (what: string, index: number | null): TensorRecord | null =>
    index === null ? null : (program.tensors[index] ?? fail(`${what} of ${name}`, 'a tensor of the program', index))
  const inputs = instruction.inputs.map((index) => at('input', index))
  const outputs = instruction.outputs.map((index) => at('output', index))
  const inferred = inferOutputs(op, inputs, instruction, name)
  if (outputs.length > inferred.length) fail(`outputs of ${name}`, `at most ${inferred.length}`, outputs.length)
  outputs.forEach((output, i) => {
    const type = inferred[i]!
    if (output && (output.dtype !== type.dtype || !sameShape(output.shape, type.shape))) {
      fail(`output ${op.outputs[i]} of ${name}`, showType(type), showType(output))
    }
  })
  if (instruction.scalars.length !== op.scalars.length) {
    fail(`scalars of ${name}`, op.scalars.length, instruction.scalars.length)
  }
  for (const slot of instruction.scalars) {
    if (!(slot < program.scalars.length)) fail(`scalar of ${name}`, `below ${program.scalars.length}`, slot)
  }
  const needed = options.backend.workspace(op, inputs, inferred, instruction.attributes)
  const workspace = at('workspace', instruction.workspace)
  const bytes = workspace ? byteLength(workspace) : 0
  if (bytes < needed) fail(`workspace of ${name}`, `at least ${needed} bytes`, bytes)
  if ('ranks' in op.attributes) verifyCollective(instruction, name, inputs[0], outputs[0], options)
}

function inferOutputs(
  op: OpDefinition,
  inputs: readonly (TensorRecord | null)[],
  instruction: Instruction,
  name: string,
): ReturnType<OpDefinition['infer']> {
  try {
    return op.infer(inputs, instruction.attributes)
  } catch (error) {
    if (!(error instanceof OpError)) throw error
    throw new ProgramError(`program: ${name}: ${error.message}`, { cause: error })
  }
}

interface Region {
  readonly start: number
  readonly end: number
}

/** An operand may share memory with the other only as the slice that no peer touches, or, where each rank keeps to its part, as all of it. */
function verifyCollective(
  instruction: Instruction,
  name: string,
  input: TensorRecord | null | undefined,
  output: TensorRecord | null | undefined,
  { rank, ranks }: VerifyOptions,
): void {
  const declared = int(instruction.attributes, 'ranks')
  if (declared !== ranks) fail(`attribute ranks of ${name}`, ranks, declared)
  if (!input || !output || input.arena !== output.arena) return
  const whole = (tensor: TensorRecord): Region => ({
    start: tensor.byteOffset,
    end: tensor.byteOffset + byteLength(tensor),
  })
  const slice = (tensor: TensorRecord): Region => {
    const bytes = byteLength(tensor) / ranks
    return { start: tensor.byteOffset + rank * bytes, end: tensor.byteOffset + (rank + 1) * bytes }
  }
  const sliced = 'whole' in instruction.attributes && int(instruction.attributes, 'whole') === 1
  const part = (tensor: TensorRecord): Region => (sliced ? slice(tensor) : whole(tensor))
  const [mine, theirs, allowed] =
    instruction.op === 'reduce_scatter'
      ? [part(output), whole(input), slice(input)]
      : instruction.op === 'all_gather'
        ? // A shard that is no slice of a whole lies where it lies on every rank.
          [part(input), whole(output), sliced || ranks === 1 ? slice(output) : null]
        : [whole(output), whole(input), instruction.op === 'all_to_all' && ranks > 1 ? null : whole(input)]
  const overlap = mine.start < theirs.end && theirs.start < mine.end
  const same = allowed && mine.start === allowed.start && mine.end === allowed.end && input.dtype === output.dtype
  if (overlap && !same)
    fail(`memory of ${name}`, 'operands apart or this rank’s own slice', 'an overlap that peers read')
}
