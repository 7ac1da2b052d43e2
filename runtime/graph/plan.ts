// The memory plan: an address for every value of every program, before anything runs. Values that live at different times share bytes;
// outputs take over an input's memory where the op allows it and nobody reads that input again. Pure: graphs in, offsets out.
import { type ArenaName, arenaNames } from '../../kernels/abi/program.js'
import type { Backend } from '../../kernels/ops/backend.js'
import { byteLength, type DType, dtypeBytes, int } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import { type Graph, GraphError, type Node, type Value } from './ir.js'
import type { PlacedGraph } from './partition/build.js'

/** A tensor that outlives a run, named `<arena>/<rest>`. */
export interface FixedTensor {
  readonly name: string
  readonly bytes: number
  readonly dtype: DType
}

export interface FixedSlot {
  readonly arena: ArenaName
  readonly byteOffset: number
  readonly bytes: number
  readonly dtype: DType
}

/** Where a value lies. */
export interface Address {
  readonly arena: ArenaName
  readonly byteOffset: number
}

export interface Scratch {
  readonly byteOffset: number
  readonly bytes: number
}

export interface ProgramPlan {
  readonly addresses: ReadonlyMap<Value, Address>
  /** Scratch memory of each node, in the arena `workspace`. */
  readonly workspaces: ReadonlyMap<Node, Scratch>
  /** Bytes of each arena that this program needs, fixed tensors included. */
  readonly arenas: Readonly<Record<ArenaName, number>>
}

export interface MemoryPlan {
  /** Bytes of each arena of one rank: enough for every program. */
  readonly arenas: Readonly<Record<ArenaName, number>>
  /** Those that lie in the host's memory beside a device. */
  readonly hostArenas: readonly ArenaName[]
  readonly fixed: ReadonlyMap<string, FixedSlot>
  readonly programs: Readonly<Record<string, ProgramPlan>>
}

const aligned =
  ({ alignment }: Backend) =>
  (bytes: number): number =>
    Math.ceil(bytes / alignment) * alignment

export function planMemory(
  programs: Readonly<Record<string, PlacedGraph>>,
  fixedTensors: readonly FixedTensor[],
  backend: Backend,
  hostArenas: readonly ArenaName[] = [],
): MemoryPlan {
  const align = aligned(backend)
  const base = Object.fromEntries(arenaNames.map((name) => [name, 0])) as Record<ArenaName, number>
  const fixed = new Map<string, FixedSlot>()
  for (const { name, bytes, dtype } of fixedTensors) {
    const arena = name.slice(0, name.indexOf('/')) as ArenaName
    fixed.set(name, { arena, byteOffset: base[arena], bytes, dtype })
    base[arena] += align(bytes)
  }
  const plans: Record<string, ProgramPlan> = {}
  const arenas = { ...base }
  for (const [name, program] of Object.entries(programs)) {
    const plan = planProgram(program, fixed, base, backend)
    plans[name] = plan
    for (const arena of arenaNames) arenas[arena] = Math.max(arenas[arena], plan.arenas[arena])
  }
  return { arenas, hostArenas, fixed, programs: plans }
}

/** A stretch of memory that one or more values share. */
interface Block {
  arena: ArenaName
  bytes: number
  /** Fixed blocks have their offset from the start; others get one. */
  byteOffset: number | null
  /** First and last node that touches it. */
  from: number
  to: number
  /** The block that took this one in. */
  merged: Block | null
}

const owner = (block: Block): Block => (block.merged ? owner(block.merged) : block)

function arenaOf(node: Node): ArenaName {
  if (node.op === 'bucket') return 'buckets'
  // Those of f64 are chunk sums of the norm.
  if (node.op === 'all_gather' && node.outputs[0]!.type.dtype !== 'f64') return 'gathered'
  return 'activations'
}

function planProgram(
  { graph, placements }: PlacedGraph,
  fixed: ReadonlyMap<string, FixedSlot>,
  base: Readonly<Record<ArenaName, number>>,
  backend: Backend,
): ProgramPlan {
  const align = aligned(backend)
  const places = new Map<Value, { block: Block; offset: number }>()
  const place = (value: Value): { block: Block; offset: number } => {
    const found = places.get(value)
    if (!found) throw new GraphError(`plan: value %${value.id}, expected one made before its use, got none`)
    return found
  }
  for (const { name, value } of graph.inputs) {
    const slot = fixed.get(name)
    if (!slot || slot.bytes < byteLength(value.type)) {
      throw new GraphError(
        `plan: tensor ${name}, expected ${byteLength(value.type)} bytes, got ${slot?.bytes ?? 'none'}`,
      )
    }
    places.set(value, { block: { ...slot, from: 0, to: 0, merged: null }, offset: 0 })
  }

  // What shares memory by meaning: views, updates in place, placements; a base that a placed gradient adds onto comes along.
  const placed = new Map(placements)
  for (const node of graph.nodes.toReversed()) {
    node.outputs.forEach((value, o) => {
      const at = placed.get(value)
      const pair = opNamed(node.op).inPlace?.find(([, output]) => output === o)
      const source = pair && opNamed(node.op).inputs[pair[0]] === 'base?' ? node.inputs[pair[0]] : null
      if (at && source?.node && !placed.has(source) && !opNamed(source.node.op).view) placed.set(source, at)
    })
  }
  graph.nodes.forEach((node, at) => {
    const op = opNamed(node.op)
    node.outputs.forEach((value, o) => {
      const target = placed.get(value)
      const alias = op.aliases?.find(([, output]) => output === o)
      if (target && places.has(target.base)) {
        const { block, offset } = place(target.base)
        places.set(value, { block, offset: offset + target.byteOffset })
      } else if (target && placements.has(value)) {
        throw new GraphError(`plan: place of %${value.id}, expected memory made before it, got %${target.base.id}`)
      } else if (op.view) {
        const { block, offset } = place(node.inputs[0]!)
        const start = node.op === 'slice' ? int(node.attributes, 'start') : 0
        places.set(value, { block, offset: offset + start * dtypeBytes[value.type.dtype] })
      } else if (alias) {
        places.set(value, place(node.inputs[alias[0]]!))
      } else {
        const block: Block = {
          arena: arenaOf(node),
          bytes: align(byteLength(value.type)),
          byteOffset: null,
          from: at,
          to: at,
          merged: null,
        }
        places.set(value, { block, offset: 0 })
      }
    })
    for (const value of node.inputs) if (value) place(value).block.to = Math.max(place(value).block.to, at)
    for (const value of node.outputs) place(value).block.to = Math.max(place(value).block.to, at)
  })
  if (backend.overlaps) keepBuckets(graph, (value) => place(value).block)
  for (const { value } of graph.outputs) place(value).block.to = graph.nodes.length

  // Outputs written over inputs that die there.
  graph.nodes.forEach((node, at) => {
    for (const [i, o] of opNamed(node.op).inPlace ?? []) {
      const [input, output] = [node.inputs[i], node.outputs[o]!]
      if (!input) continue
      const [source, target] = [place(input), place(output)]
      const [from, to] = [owner(source.block), owner(target.block)]
      const fresh =
        target.block.from === at && target.block.merged === null && !placed.has(output) && target.offset === 0
      const whole =
        from.byteOffset === null &&
        source.offset === 0 &&
        from.bytes === to.bytes &&
        from.arena === to.arena &&
        input.type.dtype === output.type.dtype
      const dies =
        from.to === at && node.inputs.every((other, j) => j === i || !other || owner(place(other).block) !== from)
      if (from === to || to.byteOffset !== null || !fresh || !whole || !dies) continue
      to.merged = from
      from.to = Math.max(from.to, to.to)
    }
  })

  const blocks = new Set<Block>()
  for (const { block } of places.values()) if (owner(block).byteOffset === null) blocks.add(owner(block))
  const arenas = { ...base }
  for (const arena of arenaNames) {
    const done: Block[] = []
    const pending = [...blocks]
      .filter((block) => block.arena === arena)
      .sort((a, b) => b.bytes - a.bytes || a.from - b.from)
    for (const block of pending) {
      const busy = done
        .filter((other) => other.from <= block.to && block.from <= other.to)
        .sort((a, b) => a.byteOffset! - b.byteOffset!)
      let start = base[arena]
      for (const other of busy) {
        if (other.byteOffset! - start >= block.bytes) break
        start = Math.max(start, other.byteOffset! + other.bytes)
      }
      block.byteOffset = start
      arenas[arena] = Math.max(arenas[arena], start + block.bytes)
      done.push(block)
    }
  }

  const scratch = scratchOf(graph, backend)
  arenas.workspace = scratch.bytes

  const addresses = new Map<Value, Address>()
  for (const [value, { block, offset }] of places) {
    const { arena, byteOffset } = owner(block)
    addresses.set(value, { arena, byteOffset: byteOffset! + offset })
  }
  return { addresses, workspaces: scratch.workspaces, arenas }
}

/**
 * Where collectives run beside what follows them, the memory of buckets that are sent together is for others only from the next that are sent
 * on: by then they are done, and nothing waits for them.
 */
function keepBuckets(graph: Graph, blockOf: (value: Value) => Block): void {
  let [before, now]: [Block[], Block[]] = [[], []]
  let together = false
  graph.nodes.forEach((node, at) => {
    const op = opNamed(node.op)
    if (op.view) return
    const operands = 'ranks' in op.attributes ? node.inputs : []
    const buckets = operands
      .flatMap((value) => (value ? blockOf(value) : []))
      .filter(({ arena }) => arena === 'buckets')
    if (buckets.length > 0 && !together) [before, now] = [now, []]
    together = buckets.length > 0
    if (!together) return
    for (const block of before) block.to = Math.max(block.to, at)
    now.push(...buckets)
  })
}

/** All nodes share scratch memory, but collectives, which may run beside the others, have their own behind it. */
function scratchOf(
  graph: Graph,
  backend: Backend,
): { readonly workspaces: ReadonlyMap<Node, Scratch>; readonly bytes: number } {
  const workspaces = new Map<Node, Scratch>()
  let byteOffset = 0
  for (const collective of [false, true]) {
    let most = 0
    for (const node of graph.nodes) {
      const op = opNamed(node.op)
      if ('ranks' in op.attributes !== collective) continue
      const types = node.inputs.map((value) => value?.type ?? null)
      const outputs = node.outputs.map((value) => value.type)
      const bytes = aligned(backend)(backend.workspace(op, types, outputs, node.attributes))
      if (bytes > 0) workspaces.set(node, { byteOffset, bytes })
      most = Math.max(most, bytes)
    }
    byteOffset += most
  }
  return { workspaces, bytes: byteOffset }
}
