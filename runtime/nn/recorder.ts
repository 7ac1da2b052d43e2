// What a running trace writes to: the graph so far, the module whose `forward` runs, and the numbers of dropout ops.
// There is at most one per thread, because `forward` is synchronous. Every op gets its module, block and the user's source line.
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Attributes, TensorType } from '../../kernels/ops/definition.js'
import { GraphBuilder, GraphError, type Origin, type Value } from '../graph/ir.js'
import { type Module, type NamedModule, namedModules, namedParameters, type Parameter } from './module.js'

export class Recorder {
  readonly builder = new GraphBuilder()
  readonly #parameters = new Map<Parameter, Value>()
  readonly #running: NamedModule[] = []
  #lastOpId = 0

  constructor(
    readonly model: Module,
    /** Whether dropout exists in this graph. */
    readonly training: boolean,
    /** The dtype of parameters and of float inputs. */
    readonly dtype: 'f32' | 'f64',
  ) {
    for (const { name, parameter } of namedParameters(model)) {
      this.#parameters.set(parameter, this.builder.input(name, 'parameter', { shape: parameter.shape, dtype }))
    }
  }

  input(name: string, type: TensorType): Value {
    const isFloat = type.dtype === 'f32' || type.dtype === 'f64'
    return this.builder.input(name, 'input', isFloat ? { shape: type.shape, dtype: this.dtype } : type)
  }

  /** The graph input of a parameter. Throws {@link GraphError} where the model does not hold it. */
  parameter(parameter: Parameter): Value {
    const value = this.#parameters.get(parameter)
    if (value) return value
    const origin = this.#origin()
    const shape = parameter.shape.join(', ')
    throw new GraphError(
      `trace: parameter [${shape}], expected one that is a property of the model's modules, got one that no path reaches`,
      origin,
    )
  }

  emit(op: string, inputs: readonly (Value | null)[], attributes: Attributes): Value[] {
    return this.builder.emit(op, inputs, attributes, this.#origin())
  }

  /** Throws {@link GraphError} naming the running module and the user's line. */
  fail(message: string): never {
    throw new GraphError(message, this.#origin())
  }

  /** A stable number for an op that draws random numbers: its position among them in trace order, from 1. */
  nextOpId(): number {
    this.#lastOpId += 1
    return this.#lastOpId
  }

  /** Runs `body` with this recorder as the thread's, every module's `forward` announcing itself. */
  record<T>(body: () => T): T {
    if (active) this.fail('trace: call of trace(), expected none inside another, got one')
    const restore = namedModules(this.model).map((named) => this.#intercept(named))
    active = this
    try {
      return body()
    } finally {
      active = null
      for (const undo of restore) undo()
    }
  }

  #intercept(named: NamedModule): () => void {
    const { module } = named
    const own = Object.getOwnPropertyDescriptor(module, 'forward')
    const forward: (...inputs: never[]) => unknown = module.forward
    Object.defineProperty(module, 'forward', {
      configurable: true,
      writable: true,
      value: (...inputs: never[]): unknown => {
        this.#running.push(named)
        try {
          return forward.apply(module, inputs)
        } finally {
          this.#running.pop()
        }
      },
    })
    return () => {
      if (own) Object.defineProperty(module, 'forward', own)
      else Reflect.deleteProperty(module, 'forward')
    }
  }

  #origin(): Origin {
    const running = this.#running.at(-1)
    const source = sourceLine()
    return {
      phase: 'forward',
      ...(running?.name && { module: running.name }),
      ...(running?.block && { block: running.block }),
      ...(!running && { loss: true }),
      ...(source && { source }),
    }
  }
}

let active: Recorder | null = null

/** The recorder of the running trace. Throws {@link GraphError} outside of one; `op` is what needs it. */
export function recorderFor(op: string): Recorder {
  if (active) return active
  const source = sourceLine()
  throw new GraphError(`${op}: call, expected inside of trace(), got one outside`, source ? { op, source } : { op })
}

const runtimeFolder = fileURLToPath(new URL('..', import.meta.url))
const packageFolder = fileURLToPath(new URL('../..', import.meta.url))
const modelsFolder = fileURLToPath(new URL('models/', import.meta.url))

/**
 * `file:line` of the innermost frame that wrote a model: outside of `runtime`, relative to the working directory, or in one of our
 * own models, relative to the package.
 */
function sourceLine(): string | undefined {
  const { prepareStackTrace, stackTraceLimit } = Error
  const holder: { stack?: unknown } = {}
  try {
    Error.stackTraceLimit = 64
    Error.prepareStackTrace = (_error, frames) => frames
    Error.captureStackTrace(holder, sourceLine)
    for (const frame of holder.stack as NodeJS.CallSite[]) {
      const name = frame.getFileName()
      if (!name || name.startsWith('node:')) continue
      const file = name.startsWith('file:') ? fileURLToPath(name) : name
      if (file.startsWith(modelsFolder)) return `${relative(packageFolder, file)}:${frame.getLineNumber()}`
      if (!file.startsWith(runtimeFolder)) return `${relative(process.cwd(), file)}:${frame.getLineNumber()}`
    }
    return undefined
  } finally {
    Error.stackTraceLimit = stackTraceLimit
    if (prepareStackTrace) Error.prepareStackTrace = prepareStackTrace
    else Reflect.deleteProperty(Error, 'prepareStackTrace')
  }
}
