// Runs single ops on a device: one instruction in a program of its own. Operands lie apart in one arena that is full of NaN
// before the run, so that an element that a kernel forgets is seen, and so is one that it writes where no operand lies.
import { type ArenaName, arenaNames, encodeProgram, type TensorRecord } from '../../kernels/abi/program.js'
import { cpuBackend } from '../../kernels/cpu/backend.js'
import { gpuBackend } from '../../kernels/gpu/backend.js'
import type { Backend } from '../../kernels/ops/backend.js'
import { byteLength, elements, type OpDefinition } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import { referenceBackend } from '../../kernels/reference/backend.js'
import { type ReferenceTensor, viewOf } from '../../kernels/reference/index.js'
import {
  type ArenaSizes,
  createGroup,
  type DeviceGroup,
  type DeviceName,
  openRank,
  type RankDevice,
} from '../../native/index.js'
import type { OpCase } from './op-cases.js'
import type { Operand } from './tensors.js'

/** Which output lies over which input's memory. */
export type InPlace = readonly [input: number, output: number]

/** What a device is to the compiler. */
export const backendOf = (device: DeviceName, threads: number): Backend =>
  device === 'cuda' ? gpuBackend() : device === 'cpu' ? cpuBackend(threads) : referenceBackend

const operandsArena: ArenaName = 'activations'

/** A place for each operand, at least one stretch of the alignment free between them. */
class Layout {
  readonly records: TensorRecord[] = []
  bytes: number
  constructor(readonly border: number) {
    this.bytes = border
  }

  place(type: Pick<TensorRecord, 'shape' | 'dtype'>): number {
    this.records.push({ arena: operandsArena, byteOffset: this.bytes, dtype: type.dtype, shape: type.shape })
    this.bytes += (Math.ceil(byteLength(type) / this.border) + 1) * this.border
    return this.records.length - 1
  }
}

function layoutOf(backend: Backend, op: OpDefinition, c: OpCase, inputs: readonly Operand[], inPlace?: InPlace) {
  const layout = new Layout(backend.alignment)
  const types = op.infer(inputs, c.attributes)
  const inputIndices = inputs.map((input) => input && layout.place(input))
  const outputIndices = types.map((type, o) => {
    const shared = (op.aliases ?? []).find(([, output]) => output === o) ?? (inPlace?.[1] === o ? inPlace : undefined)
    const source = shared && inputIndices[shared[0]]
    if (typeof source !== 'number') return layout.place(type)
    layout.records.push({ ...type, arena: operandsArena, byteOffset: layout.records[source]!.byteOffset })
    return layout.records.length - 1
  })
  return { types, layout, inputIndices, outputIndices }
}

/** What a group must have for these cases. */
function arenasFor(cases: readonly { c: OpCase; inputs: readonly Operand[] }[], backend: Backend): ArenaSizes {
  const sizes = Object.fromEntries(arenaNames.map((name) => [name, 0])) as Record<ArenaName, number>
  for (const { c, inputs } of cases) {
    const op = opNamed(c.op)
    const { layout, types } = layoutOf(backend, op, c, inputs)
    sizes[operandsArena] = Math.max(sizes[operandsArena], layout.bytes)
    sizes.workspace = Math.max(sizes.workspace, backend.workspace(op, inputs, types, c.attributes))
  }
  return sizes
}

/** One open rank of a device for calls of single ops. Close it. */
export class SingleOps {
  readonly #group: DeviceGroup
  readonly #device: RankDevice
  readonly #arenas: ArenaSizes
  readonly #backend: Backend
  readonly #ranks: number

  /** For these cases and no others. */
  constructor(
    device: DeviceName,
    cases: readonly { c: OpCase; inputs: readonly Operand[] }[],
    options: { readonly isa?: string; readonly threads: number; readonly rank: number; readonly ranks: number },
  ) {
    const { isa, threads, rank, ranks } = options
    this.#backend = backendOf(device, threads)
    this.#ranks = ranks
    const arenas = arenasFor(cases, this.#backend)
    this.#arenas = arenas
    this.#group = createGroup({ device, ranks, arenas, ...(isa && { isa }) })
    this.#device = openRank(this.#group.token, { rank, threads })
    this.#device.allocate(operandsArena)
    this.#device.allocate('workspace')
    this.#device.write('workspace', 0, new Uint8Array(arenas.workspace).fill(0xff))
  }

  /** The op's outputs. Throws if the kernel fails or writes beside its operands. */
  async run(c: OpCase, inputs: readonly Operand[], inPlace?: InPlace): Promise<ReferenceTensor[]> {
    const op = opNamed(c.op)
    const { types, layout, inputIndices, outputIndices } = layoutOf(this.#backend, op, c, inputs, inPlace)
    const memory = new ArrayBuffer(layout.bytes)
    const bytes = new Uint8Array(memory).fill(0xff)
    inputIndices.forEach((index, i) => {
      if (index === null) return
      const { data } = inputs[i]!
      bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), layout.records[index]!.byteOffset)
    })
    const untouched = bytes.slice()
    const needed = this.#backend.workspace(op, inputs, types, c.attributes)
    const workspace: TensorRecord[] = needed
      ? [{ arena: 'workspace', byteOffset: 0, dtype: 'u8', shape: [needed] }]
      : []
    const program = encodeProgram({
      name: c.title,
      ranks: this.#ranks,
      scalars: op.scalars,
      tensors: [...layout.records, ...workspace],
      instructions: [
        {
          op: c.op,
          inputs: inputIndices,
          outputs: outputIndices,
          scalars: op.scalars.map((_, i) => i),
          attributes: c.attributes,
          workspace: needed ? layout.records.length : null,
          debug: { phase: 'forward', flops: 0, bytes: 0 },
        },
      ],
      bindings: {},
      arenas: this.#arenas,
    })
    this.#device.write(operandsArena, 0, bytes)
    await this.#device.run(
      this.#device.load(program),
      Float64Array.from(op.scalars, (role) => c.roles[role]!),
    )
    this.#device.read(operandsArena, 0, bytes)

    const written = outputIndices.map((index) => layout.records[index]!)
    for (const record of written) {
      const end = record.byteOffset + byteLength(record)
      untouched.set(bytes.subarray(record.byteOffset, end), record.byteOffset)
    }
    if (Buffer.compare(bytes, untouched) !== 0) {
      const stray = bytes.findIndex((byte, at) => byte !== untouched[at])
      throw new Error(`${c.title}: writes, expected only outputs, got byte ${stray}`)
    }
    return written.map((record) => ({
      shape: record.shape,
      dtype: record.dtype,
      data: viewOf(record.dtype, memory, record.byteOffset, elements(record.shape)),
    }))
  }

  async close(): Promise<void> {
    await this.#device.close()
    await this.#group.close()
  }
}
