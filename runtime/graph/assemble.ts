// From placed graphs and their memory plan to flat programs: a tensor record for every operand, an instruction for every node that
// is not a view.
import {
  encodeProgram,
  type Instruction,
  type Program,
  programHash,
  type TensorRecord,
} from '../../kernels/abi/program.js'
import { opNamed } from '../../kernels/ops/index.js'
import type { Node, Value } from './ir.js'
import type { PlacedGraph } from './partition/build.js'
import type { ProgramPlan } from './plan.js'

/** A program with its bytes and fingerprint. */
export interface CompiledProgram {
  readonly program: Program
  readonly bytes: Uint8Array
  /** 64 hexadecimal digits. */
  readonly hash: string
}

export function assemble(
  name: string,
  placed: PlacedGraph,
  plan: ProgramPlan,
  options: { readonly ranks: number; readonly environment: Readonly<Record<string, string>> },
): CompiledProgram {
  const { graph, placements } = placed
  const tensors: TensorRecord[] = []
  const indices = new Map<string, number>()
  const indexOf = (record: TensorRecord): number => {
    const key = `${record.arena} ${record.byteOffset} ${record.dtype} ${record.shape}`
    const known = indices.get(key)
    if (known !== undefined) return known
    indices.set(key, tensors.length)
    return tensors.push(record) - 1
  }
  const tensorOf = (value: Value): number => {
    const { arena, byteOffset } = plan.addresses.get(value)!
    return indexOf({ arena, byteOffset, dtype: value.type.dtype, shape: value.type.shape })
  }

  const read = new Set<Value>(graph.outputs.map((output) => output.value))
  for (const node of graph.nodes) for (const value of node.inputs) if (value) read.add(value)
  const scalars: string[] = []
  const scalarOf = (scalar: string): number => {
    const known = scalars.indexOf(scalar)
    return known >= 0 ? known : scalars.push(scalar) - 1
  }

  const instruction = (node: Node): Instruction => {
    const op = opNamed(node.op)
    const types = node.inputs.map((value) => value?.type ?? null)
    const cost = op.cost(
      types,
      node.outputs.map((value) => value.type),
      node.attributes,
    )
    // An output that nobody reads is not asked for, unless the memory itself is the point.
    const wanted = (value: Value, o: number): boolean =>
      read.has(value) ||
      placements.has(value) ||
      op.aliases?.some(([, output]) => output === o) === true ||
      node.outputs.length === 1
    const scratch = plan.workspaces.get(node)
    return {
      op: node.op,
      inputs: node.inputs.map((value) => value && tensorOf(value)),
      outputs: node.outputs.map((value, o) => (wanted(value, o) ? tensorOf(value) : null)),
      scalars: node.scalars.map(scalarOf),
      attributes: node.attributes,
      workspace: scratch
        ? indexOf({ arena: 'workspace', byteOffset: scratch.byteOffset, dtype: 'u8', shape: [scratch.bytes] })
        : null,
      debug: {
        phase: node.origin.phase,
        ...(node.origin.module !== undefined && { module: node.origin.module }),
        ...(node.origin.source !== undefined && { source: node.origin.source }),
        ...cost,
      },
    }
  }

  const instructions = graph.nodes.filter((node) => !opNamed(node.op).view).map(instruction)
  const bindings: Record<string, number> = {}
  for (const { name: input, value } of graph.inputs) {
    if (input.startsWith('io/')) bindings[input.slice(3)] = tensorOf(value)
  }
  for (const { name: output, value } of graph.outputs) bindings[output] = tensorOf(value)
  const { ranks, environment } = options
  const program: Program = { name, ranks, scalars, tensors, instructions, bindings, arenas: plan.arenas, environment }
  const bytes = encodeProgram(program)
  return { program, bytes, hash: programHash(bytes) }
}

/** The program as text, a line per instruction. */
export function printProgram({ program, hash }: CompiledProgram): string {
  const show = (index: number | null): string => {
    if (index === null) return '-'
    const { arena, byteOffset, dtype, shape } = program.tensors[index]!
    return `${arena}+${byteOffset}:${dtype}[${shape.join('x')}]`
  }
  const lines = program.instructions.map((instruction, i) => {
    const { op, inputs, outputs, attributes, debug } = instruction
    const settings = Object.entries(attributes)
      .map(([key, value]) => `${key}=${typeof value === 'number' ? value : `[${value.length} numbers]`}`)
      .join(' ')
    const where = [debug.phase, debug.module, debug.source].filter(Boolean).join(' ')
    return `${String(i).padStart(4)} ${op} ${outputs.map(show).join(', ')} <- ${inputs.map(show).join(', ')} {${settings}} ; ${where}`
  })
  return `program ${program.name} for ${program.ranks} ranks, ${hash}\n${lines.join('\n')}\n`
}
