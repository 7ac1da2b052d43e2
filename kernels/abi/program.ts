// The bytes of a program: header, tensors, instructions, debug table. Written by the compiler, read by every executor.
// All numbers are little-endian; every record starts on an 8-byte border. `layout` below is the one definition of offsets:
// the C header `abi.h` is generated from it and from the op table (see generate.ts).
import { createHash } from 'node:crypto'
import type { AttributeKind, Attributes, AttributeValue, DType } from '../ops/definition.js'
import { dtypeNumbers } from '../ops/elementwise.js'
import { opNamed, opOfCode, ops } from '../ops/index.js'

export const abiVersion = 1
export const programMagic = 0x47505444

/** Element types by their number in programs. */
export const dtypes: readonly DType[] = dtypeNumbers

/**
 * The memory of one rank, by category; the position is the arena's number in programs.
 * `io` is shared with JavaScript (tokens, targets, loss, norm); all others are native.
 */
export const arenaNames = [
  'parameters',
  'gradients',
  'optimizer',
  'activations',
  'buckets',
  'gathered',
  'workspace',
  'io',
] as const
export type ArenaName = (typeof arenaNames)[number]

/** Byte offsets of fields, shared with C. */
export const layout = {
  headerBytes: 128,
  header: {
    magic: 0,
    version: 4,
    opTableHash: 8,
    fingerprint: 16,
    tensorCount: 48,
    instructionCount: 52,
    scalarCount: 56,
    ranks: 60,
    tensorsOffset: 64,
    instructionsOffset: 72,
    debugOffset: 80,
    debugBytes: 88,
    totalBytes: 96,
  },
  maxDims: 6,
  tensorBytes: 72,
  tensor: { arena: 0, dtype: 4, rank: 8, offset: 16, dims: 24 },
  instructionHeadBytes: 24,
  instruction: { bytes: 0, opcode: 4, attributeWords: 6, inputs: 8, outputs: 9, scalars: 10, workspace: 12, debug: 16 },
  absent: 0xffffffff,
} as const

/** Where a tensor lies. */
export interface TensorRecord {
  readonly arena: ArenaName
  readonly byteOffset: number
  readonly dtype: DType
  readonly shape: readonly number[]
}

export interface Instruction {
  readonly op: string
  /** Indices into `tensors`; null for an absent optional operand. */
  readonly inputs: readonly (number | null)[]
  readonly outputs: readonly (number | null)[]
  /** Indices into `scalars`. */
  readonly scalars: readonly number[]
  readonly attributes: Attributes
  /** A u8 tensor of scratch memory. */
  readonly workspace: number | null
  readonly debug: InstructionDebug
}

/** What a person is told about an instruction. */
export interface InstructionDebug {
  /** `forward`, `backward`, `communication` or `update`. */
  readonly phase: string
  /** Path of the module that asked for it, e.g. `transformer.h.0.attn`. */
  readonly module?: string
  /** The user's source line. */
  readonly source?: string
  readonly flops: number
  readonly bytes: number
}

/** A flat program for one rank; the same for every rank of a communicator. */
export interface Program {
  readonly name: string
  readonly ranks: number
  readonly scalars: readonly string[]
  readonly tensors: readonly TensorRecord[]
  readonly instructions: readonly Instruction[]
  /** Named tensors that the host reads or writes, by index. */
  readonly bindings: Readonly<Record<string, number>>
  /** Bytes that the program needs of each arena. */
  readonly arenas: Readonly<Record<ArenaName, number>>
  /** Values that change the meaning of the bits: instruction set, choices of kernels. */
  readonly environment?: Readonly<Record<string, string>>
}

/** A program's bytes are not what this build can run. */
export class ProgramError extends Error {
  override readonly name = 'ProgramError'
  readonly code = 'PROGRAM_FORMAT'
}

/** 64-bit hash of the op table: opcodes, operands, attributes, scalars. */
export const opTableHash: bigint = (() => {
  const rows = ops.map((op) => [op.opcode, op.name, op.inputs, op.outputs, Object.entries(op.attributes), op.scalars])
  return createHash('sha256').update(JSON.stringify(rows)).digest().readBigUInt64LE(0)
})()

const align8 = (n: number): number => (n + 7) & ~7

function attributeWords(
  op: string,
  attributes: Attributes,
): { words: number; write(view: DataView, at: number): void } {
  const kinds = Object.entries(opNamed(op).attributes)
  const attribute = (name: string, kind: AttributeKind): AttributeValue => {
    const value = attributes[name] ?? (kind === 'option' ? 0 : undefined)
    if (value === undefined)
      throw new ProgramError(`program: attribute ${name} of ${op}, expected a value, got nothing`)
    return value
  }
  const words = kinds.reduce(
    (n, [name, kind]) => n + (kind === 'ints' ? 1 + (attribute(name, kind) as number[]).length : 1),
    0,
  )
  return {
    words,
    write(view, start) {
      let at = start
      for (const [name, kind] of kinds) {
        const value = attribute(name, kind)
        if (kind === 'float') view.setFloat64(at, value as number, true)
        else if (kind !== 'ints') view.setBigInt64(at, BigInt(value as number), true)
        else {
          view.setBigInt64(at, BigInt((value as readonly number[]).length), true)
          for (const n of value as readonly number[]) {
            at += 8
            view.setBigInt64(at, BigInt(n), true)
          }
        }
        at += 8
      }
    },
  }
}

/** The program's bytes. Equal programs give equal bytes. */
export function encodeProgram(program: Program): Uint8Array {
  const { header: h, tensor: t, instruction: s } = layout
  const debug = Buffer.from(
    JSON.stringify({
      name: program.name,
      scalars: program.scalars,
      bindings: program.bindings,
      arenas: program.arenas,
      environment: program.environment ?? {},
      instructions: program.instructions.map((i) => i.debug),
    }),
  )
  const sizes = program.instructions.map((i) => {
    const operands = i.inputs.length + i.outputs.length + i.scalars.length
    return layout.instructionHeadBytes + align8(4 * operands) + 8 * attributeWords(i.op, i.attributes).words
  })
  const tensorsOffset = layout.headerBytes
  const instructionsOffset = tensorsOffset + program.tensors.length * layout.tensorBytes
  const debugOffset = instructionsOffset + sizes.reduce((a, b) => a + b, 0)
  const total = align8(debugOffset + debug.length)
  const bytes = new Uint8Array(total)
  const view = new DataView(bytes.buffer)
  const u64 = (at: number, n: number): void => view.setBigUint64(at, BigInt(n), true)

  program.tensors.forEach((tensor, i) => {
    const at = tensorsOffset + i * layout.tensorBytes
    if (tensor.shape.length > layout.maxDims) {
      throw new ProgramError(
        `program: dims of a tensor, expected at most ${layout.maxDims}, got ${tensor.shape.length}`,
      )
    }
    view.setUint32(at + t.arena, arenaNames.indexOf(tensor.arena), true)
    view.setUint32(at + t.dtype, dtypes.indexOf(tensor.dtype), true)
    view.setUint32(at + t.rank, tensor.shape.length, true)
    u64(at + t.offset, tensor.byteOffset)
    tensor.shape.forEach((dim, d) => {
      view.setBigInt64(at + t.dims + 8 * d, BigInt(dim), true)
    })
  })

  let at: number = instructionsOffset
  program.instructions.forEach((instruction, i) => {
    const attributes = attributeWords(instruction.op, instruction.attributes)
    view.setUint32(at + s.bytes, sizes[i]!, true)
    view.setUint16(at + s.opcode, opNamed(instruction.op).opcode, true)
    view.setUint16(at + s.attributeWords, attributes.words, true)
    view.setUint8(at + s.inputs, instruction.inputs.length)
    view.setUint8(at + s.outputs, instruction.outputs.length)
    view.setUint16(at + s.scalars, instruction.scalars.length, true)
    view.setUint32(at + s.workspace, instruction.workspace ?? layout.absent, true)
    view.setUint32(at + s.debug, i, true)
    const operands = [...instruction.inputs, ...instruction.outputs, ...instruction.scalars]
    operands.forEach((operand, o) => {
      view.setUint32(at + layout.instructionHeadBytes + 4 * o, operand ?? layout.absent, true)
    })
    attributes.write(view, at + layout.instructionHeadBytes + align8(4 * operands.length))
    at += sizes[i]!
  })
  bytes.set(debug, debugOffset)

  view.setUint32(h.magic, programMagic, true)
  view.setUint32(h.version, abiVersion, true)
  view.setBigUint64(h.opTableHash, opTableHash, true)
  view.setUint32(h.tensorCount, program.tensors.length, true)
  view.setUint32(h.instructionCount, program.instructions.length, true)
  view.setUint32(h.scalarCount, program.scalars.length, true)
  view.setUint32(h.ranks, program.ranks, true)
  u64(h.tensorsOffset, tensorsOffset)
  u64(h.instructionsOffset, instructionsOffset)
  u64(h.debugOffset, debugOffset)
  u64(h.debugBytes, debug.length)
  u64(h.totalBytes, total)
  bytes.set(createHash('sha256').update(bytes.subarray(h.tensorCount)).digest(), h.fingerprint)
  return bytes
}

/** The program in `bytes`. Throws {@link ProgramError} for another ABI version, another op table or damaged bytes. */
export function decodeProgram(bytes: Uint8Array): Program {
  const { header: h } = layout
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const fail = (what: string, expected: unknown, got: unknown): never => {
    throw new ProgramError(`program: ${what}, expected ${expected}, got ${got}`)
  }
  if (bytes.length < layout.headerBytes) fail('length', `at least ${layout.headerBytes} bytes`, bytes.length)
  if (view.getUint32(h.magic, true) !== programMagic) fail('magic number', programMagic, view.getUint32(h.magic, true))
  if (view.getUint32(h.version, true) !== abiVersion) fail('ABI version', abiVersion, view.getUint32(h.version, true))
  if (view.getBigUint64(h.opTableHash, true) !== opTableHash) fail('op table', 'that of this build', 'another')
  const u64 = (at: number): number => Number(view.getBigUint64(at, true))
  if (u64(h.totalBytes) !== bytes.length) fail('length', `${u64(h.totalBytes)} bytes`, bytes.length)
  const digest = createHash('sha256').update(bytes.subarray(h.tensorCount)).digest()
  if (!digest.equals(bytes.subarray(h.fingerprint, h.fingerprint + 32)))
    fail('fingerprint', 'that of its bytes', 'another')
  try {
    return readRecords(bytes, view, fail)
  } catch (cause) {
    // Bytes made with their own fingerprint: the view refuses to read outside them, and the debug table may be anything.
    if (cause instanceof ProgramError) throw cause
    throw new ProgramError(`program: records, expected them whole, got ${(cause as Error).message}`, { cause })
  }
}

function readRecords(
  bytes: Uint8Array,
  view: DataView,
  fail: (what: string, expected: unknown, got: unknown) => never,
): Program {
  const { header: h, tensor: t, instruction: s } = layout
  const u64 = (at: number): number => Number(view.getBigUint64(at, true))
  const debug = JSON.parse(
    Buffer.from(bytes.buffer, bytes.byteOffset + u64(h.debugOffset), u64(h.debugBytes)).toString(),
  )
  const scalars = view.getUint32(h.scalarCount, true)
  if (debug.scalars.length !== scalars) fail('names of scalars', scalars, debug.scalars.length)
  const tensors: TensorRecord[] = []
  for (let i = 0; i < view.getUint32(h.tensorCount, true); i++) {
    const at = u64(h.tensorsOffset) + i * layout.tensorBytes
    const rank = view.getUint32(at + t.rank, true)
    if (rank > layout.maxDims) fail(`dims of tensor ${i}`, `at most ${layout.maxDims}`, rank)
    const arena = view.getUint32(at + t.arena, true)
    const dtype = view.getUint32(at + t.dtype, true)
    tensors.push({
      arena: arenaNames[arena] ?? fail(`arena of tensor ${i}`, `below ${arenaNames.length}`, arena),
      dtype: dtypes[dtype] ?? fail(`dtype of tensor ${i}`, `below ${dtypes.length}`, dtype),
      byteOffset: u64(at + t.offset),
      shape: Array.from({ length: rank }, (_, d) => Number(view.getBigInt64(at + t.dims + 8 * d, true))),
    })
  }
  const instructions: Instruction[] = []
  let at = u64(h.instructionsOffset)
  for (let i = 0; i < view.getUint32(h.instructionCount, true); i++) {
    const opcode = view.getUint16(at + s.opcode, true)
    const op = opOfCode(opcode) ?? fail('opcode', 'one of the op table', opcode)
    const length = view.getUint32(at + s.bytes, true)
    if (length < layout.instructionHeadBytes) fail(`bytes of instruction ${i}`, 'those of its head at least', length)
    const words = view.getUint16(at + s.attributeWords, true)
    const counts = [view.getUint8(at + s.inputs), view.getUint8(at + s.outputs), view.getUint16(at + s.scalars, true)]
    let next = at + layout.instructionHeadBytes
    const [inputs, outputs, scalars] = counts.map((count) =>
      Array.from({ length: count }, () => {
        const index = view.getUint32(next, true)
        next += 4
        return index === layout.absent ? null : index
      }),
    ) as [(number | null)[], (number | null)[], number[]]
    next = at + layout.instructionHeadBytes + align8(next - at - layout.instructionHeadBytes)
    const attributes: Record<string, AttributeValue> = {}
    for (const [name, kind] of Object.entries(op.attributes)) {
      if (kind === 'float') attributes[name] = view.getFloat64(next, true)
      else if (kind !== 'ints') attributes[name] = Number(view.getBigInt64(next, true))
      else {
        const count = Number(view.getBigInt64(next, true))
        if (count < 0 || count >= words) fail(`list length of instruction ${i}`, `0 to ${words - 1}`, count)
        const list = next + 8
        attributes[name] = Array.from({ length: count }, (_, n) => Number(view.getBigInt64(list + 8 * n, true)))
        next += 8 * count
      }
      next += 8
    }
    const workspace = view.getUint32(at + s.workspace, true)
    instructions.push({
      op: op.name,
      inputs,
      outputs,
      scalars,
      attributes,
      workspace: workspace === layout.absent ? null : workspace,
      debug: debug.instructions[i],
    })
    at += length
  }
  return {
    name: debug.name,
    ranks: view.getUint32(h.ranks, true),
    scalars: debug.scalars,
    tensors,
    instructions,
    bindings: debug.bindings,
    arenas: debug.arenas,
    environment: debug.environment,
  }
}

/** The program's fingerprint: 64 hexadecimal digits over everything but magic, version and op table. */
export const programHash = (bytes: Uint8Array): string =>
  Buffer.from(bytes.subarray(layout.header.fingerprint, layout.header.fingerprint + 32)).toString('hex')
