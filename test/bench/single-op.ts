// Times single ops on a device: programs of few instructions that are run again and again, each instruction by its own clock.
import {
  type ArenaName,
  arenaNames,
  encodeProgram,
  type Instruction,
  type TensorRecord,
} from '../../kernels/abi/program.js'
import {
  type Attributes,
  byteLength,
  type DType,
  dtypeBytes,
  elements,
  type TensorType,
} from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import { viewOf } from '../../kernels/reference/index.js'
import type { ReferenceArray } from '../../kernels/reference/kernel.js'
import { storedAs } from '../../kernels/reference/storage.js'
import { type ArenaSizes, createGroup, type DeviceName, openRank } from '../../native/index.js'
import { backendOf } from '../support/single-op.js'

/** An instruction whose operands are named: equal names are the same tensor. */
export interface TimedOp {
  readonly op: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes: Attributes
}

export interface TimedProgram {
  /** Types of what no op makes, with values that are repeated where noise will not do. */
  readonly tensors: Readonly<Record<string, TensorType & { readonly values?: readonly number[] }>>
  readonly ops: readonly TimedOp[]
  readonly scalars: Readonly<Record<string, number>>
}

/** Values in (-1, 1), the same every time, a block of which is repeated. */
const block: Float32Array = (() => {
  let state = 1
  return Float32Array.from({ length: 1 << 16 }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  })
})()

/** `values`, or noise, again and again up to `count` elements. */
function filled(count: number, dtype: DType, values: ArrayLike<number> = block): ReferenceArray {
  const data = viewOf(dtype, new ArrayBuffer(count * dtypeBytes[dtype]), 0, count)
  data.set(Array.prototype.slice.call(values, 0, count).map(storedAs(dtype)))
  for (let done = values.length; done < count; done *= 2) data.copyWithin(done, 0, Math.min(done, count - done))
  return data
}

export interface Timing {
  readonly device?: DeviceName
  readonly threads?: number
  /** Runs that count, after one that warms up. */
  readonly repetitions: number
}

/** Seconds that all ops together take, for each run. */
export async function timeProgram(program: TimedProgram, timing: Timing): Promise<number[]> {
  return (await timeOps(program, timing)).map((seconds) => seconds.reduce((sum, value) => sum + value, 0))
}

/** Seconds that each op takes, for each run. */
export async function timeOps(
  { tensors, ops, scalars }: TimedProgram,
  { device: name = 'cpu', threads = 1, repetitions }: Timing,
): Promise<number[][]> {
  const backend = backendOf(name, threads)
  const aligned = (size: number): number => Math.ceil(size / backend.alignment) * backend.alignment
  const records: TensorRecord[] = []
  const indices = new Map<string, number>()
  let bytes = 0
  let workspaceBytes = 0
  const place = (name: string, { shape, dtype }: TensorType): number => {
    const record: TensorRecord = { arena: 'activations', byteOffset: bytes, dtype, shape }
    bytes += aligned(byteLength(record))
    indices.set(name, records.length)
    return records.push(record) - 1
  }
  for (const [name, type] of Object.entries(tensors)) place(name, type)
  const scalarNames = Object.keys(scalars)
  const drafts = ops.map(({ op, inputs, outputs, attributes }) => {
    const definition = opNamed(op)
    const operands = definition.inputs.map((_, i) => (inputs[i] === undefined ? null : indices.get(inputs[i])!))
    const types = definition.infer(
      operands.map((index) => (index === null ? null : records[index]!)),
      attributes,
    )
    const results = outputs.map((name, o) => indices.get(name) ?? place(name, types[o]!))
    const scratch = backend.workspace(
      definition,
      operands.map((index) => (index === null ? null : records[index]!)),
      types,
      attributes,
    )
    workspaceBytes = Math.max(workspaceBytes, scratch)
    return {
      op,
      inputs: operands,
      outputs: results,
      attributes,
      scalars: definition.scalars.map((role) => scalarNames.indexOf(role)),
      scratch,
    }
  })
  const workspace = records.push({ arena: 'workspace', byteOffset: 0, dtype: 'u8', shape: [workspaceBytes] }) - 1
  const instructions = drafts.map(
    ({ scratch, ...draft }): Instruction => ({
      ...draft,
      workspace: scratch ? workspace : null,
      debug: { phase: 'forward', flops: 0, bytes: 0 },
    }),
  )
  const sizes: Partial<Record<ArenaName, number>> = { activations: bytes, workspace: workspaceBytes }
  const arenas = Object.fromEntries(arenaNames.map((name) => [name, sizes[name] ?? 0])) as ArenaSizes
  const program = encodeProgram({
    name: 'bench',
    ranks: 1,
    scalars: scalarNames,
    tensors: records,
    instructions,
    bindings: {},
    arenas,
  })

  const group = createGroup({ device: name, ranks: 1, arenas })
  try {
    const device = openRank(group.token, { rank: 0, threads })
    device.allocate('activations')
    device.allocate('workspace')
    for (const [name, { values, dtype, shape }] of Object.entries(tensors)) {
      const data = filled(elements(shape), dtype, values)
      device.write('activations', records[indices.get(name)!]!.byteOffset, data)
    }
    const handle = device.load(program)
    const settings = Float64Array.from(Object.values(scalars))
    const taken: number[][] = []
    for (let i = 0; i <= repetitions; i++) {
      const { seconds } = await device.run(handle, settings, { profile: true })
      if (i > 0) taken.push(ops.map((_, at) => seconds![2 * at + 1]! - seconds![2 * at]!))
    }
    await device.close()
    return taken
  } finally {
    await group.close()
  }
}
