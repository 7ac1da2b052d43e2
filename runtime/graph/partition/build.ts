// One rank's graph under construction: state inputs on demand, values of the source graph mapped, ZeRO-3 gathers, placements noted.
import { type DType, dtypeBytes, elements, type TensorType } from '../../../kernels/ops/definition.js'
import { stepState } from '../../../kernels/ops/step.js'
import { type Graph, GraphBuilder, type Node, type Origin, type Value } from '../ir.js'
import { planGathers } from './gathers.js'
import type { Unit } from './layout.js'
import { masterState, type Sharding } from './sharding.js'

/** A graph whose values may be told where to lie: within another value's memory. */
export interface PlacedGraph {
  readonly graph: Graph
  readonly placements: ReadonlyMap<Value, Placement>
}

export interface Placement {
  readonly base: Value
  readonly byteOffset: number
}

/** Called around each node that {@link Build.body} copies. */
export interface NodeHooks {
  before(node: Node): void
  after(node: Node): void
}

export function groupBy<T, K>(items: readonly T[], key: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>()
  for (const item of items) {
    const group = groups.get(key(item))
    if (group) group.push(item)
    else groups.set(key(item), [item])
  }
  return groups
}

export const communication: Origin = { phase: 'communication' }
export const update: Origin = { phase: 'update' }

/** Inputs of kind `state` are named `<arena>/<tensor>/<unit>`; those named `io/<name>` are read and written by the host. */
export class Build {
  readonly builder = new GraphBuilder()
  readonly #placements = new Map<Value, Placement>()
  readonly #values = new Map<Value, Value>()
  readonly #inputs = new Map<string, Value>()
  /** The whole unit that parameters are slices of at present (ZeRO-3). */
  readonly #gathered = new Map<Unit, Value>()

  constructor(readonly sharding: Sharding) {}

  #input(name: string, type: TensorType): Value {
    const existing = this.#inputs.get(name)
    if (existing) return existing
    const value = this.builder.input(name, 'state', type)
    this.#inputs.set(name, value)
    return value
  }

  #state(name: string, length: number, dtype: DType): Value {
    return this.#input(name, { shape: [length], dtype })
  }

  /** What steps hand on: kernels/ops/step.ts. */
  get step(): Value {
    return this.#input('optimizer/step', stepState)
  }
  /** What the forward reads. */
  parameter(unit: Unit): Value {
    return this.#state(`parameters/${unit.name}`, this.sharding.lengthIn('parameters', unit), unit.dtype)
  }
  /** What the update works on: the f32 master, or the parameter itself. */
  master(unit: Unit): Value {
    return this.sharding.hasMaster(unit) ? this.state(masterState, unit) : this.parameter(unit)
  }
  gradient(unit: Unit): Value {
    const { sharding } = this
    return this.#state(`gradients/${unit.name}`, sharding.lengthIn('gradients', unit), sharding.accumulatorDType(unit))
  }
  state(name: string, unit: Unit): Value {
    return this.#state(`optimizer/${name}/${unit.name}`, this.sharding.lengthIn('optimizer', unit), 'f32')
  }
  /** Of an optimizer on the host: its gradients, the control of the step and the weights that go back to the device. */
  readonly host = {
    gradient: (unit: Unit): Value =>
      this.#state(
        `optimizer/incoming/${unit.name}`,
        this.sharding.lengthIn('gradients', unit),
        this.sharding.accumulatorDType(unit),
      ),
    control: (): Value => this.#state('optimizer/control', 4, 'f64'),
    weights: (unit: Unit): Value =>
      unit.dtype === 'f32'
        ? this.master(unit)
        : this.#state(`optimizer/outgoing/${unit.name}`, this.sharding.lengthIn('optimizer', unit), unit.dtype),
  }
  /** Room on the device for a slice of any unit; there are a few of them. */
  landing(number: number): Value {
    const bytes = this.sharding.layout.units.map((unit) => unit.shard * dtypeBytes[unit.dtype])
    return this.#state(`buckets/landing.${number}`, Math.max(...bytes), 'u8')
  }
  persistent(unit: Unit): Value {
    return this.#state(`gathered/${unit.name}`, unit.length, unit.dtype)
  }

  map(value: Value): Value {
    return this.#values.get(value)!
  }

  /** Asks that `value` lie in `base`. A value that lies elsewhere already (input, view, placed before) is copied there. */
  place(value: Value, base: Value, byteOffset: number): void {
    const fixed = !value.node || this.#placements.has(value) || ['slice', 'reshape'].includes(value.node.op)
    const target = fixed ? this.builder.emit('copy', [value], {}, value.node?.origin ?? update)[0]! : value
    this.#placements.set(target, { base, byteOffset })
  }

  /** Copies a value to `base`, which is of its type or bytes. */
  copy(value: Value, base: Value, origin: Origin = update): Value {
    const [copied] = this.builder.emit('copy', [value], {}, origin)
    this.place(copied!, base, 0)
    return copied!
  }

  /** Makes a value readable by the host under `name`. Large ones stay where they are; the plan binds them. */
  expose(name: string, value: Value): void {
    if (elements(value.type.shape) <= 16) {
      const slot = this.builder.input(`io/${name}`, 'state', value.type)
      this.place(value, slot, 0)
    }
    this.builder.output(name, value)
  }

  /** Copies a graph's nodes, with gathers before and reductions behind them as the stage asks. */
  body(graph: Graph, reduction?: NodeHooks): void {
    const { layout, options } = this.sharding
    const slots = new Map(layout.parameters.map((slot) => [slot.name, slot]))
    const gathers = options.ranks > 1 && options.stage === 3 ? planGathers(graph, layout, options.gathers) : []
    const byIssue = groupBy(gathers, (residency) => residency.issue)
    const names = new Map<Value, string>()
    for (const { name, kind, value } of graph.inputs) {
      if (kind === 'parameter') names.set(value, name)
      else if (kind === 'state') this.#values.set(value, this.step)
      else this.#values.set(value, this.builder.input(`io/${name}`, kind, value.type))
    }
    // Views of a unit are made where they are read, so that they follow the unit's present memory.
    const views = new Map<string, { full: Value; view: Value }>()
    const read = (value: Value): Value => {
      const name = names.get(value)
      if (name === undefined) return this.map(value)
      const { unit, start, shape } = slots.get(name)!
      const full = this.#whole(unit)
      const known = views.get(name)
      if (known?.full === full) return known.view
      const [view] = this.builder.emit('slice', [full], { start, shape }, { phase: 'forward', module: name })
      views.set(name, { full, view: view! })
      return view!
    }
    graph.nodes.forEach((node, at) => {
      for (const { unit } of byIssue.get(at) ?? []) {
        const { ranks } = options
        this.#gathered.set(
          unit,
          this.builder.emit(
            'all_gather',
            [this.parameter(unit)],
            { ranks, whole: 0 },
            { ...communication, module: unit.name },
          )[0]!,
        )
      }
      const inputs = node.inputs.map((value) => value && read(value))
      reduction?.before(node)
      this.builder.emit(node.op, inputs, node.attributes, node.origin, node.scalars).forEach((value, i) => {
        this.#values.set(node.outputs[i]!, value)
      })
      reduction?.after(node)
    })
  }

  #whole(unit: Unit): Value {
    const { ranks, stage } = this.sharding.options
    if (ranks === 1 || stage < 3) return this.parameter(unit)
    return unit.persistent ? this.persistent(unit) : this.#gathered.get(unit)!
  }

  finish(): PlacedGraph {
    return { graph: this.builder.finish(), placements: this.#placements }
  }
}
