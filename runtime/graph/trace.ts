// From a model to a graph: its `forward` runs once on symbolic tensors, and what it does is written down.
// Equal models and options give equal graphs.
import type { TensorType } from '../../kernels/ops/definition.js'
import type { Module } from '../nn/module.js'
import { Recorder } from '../nn/recorder.js'
import { Tensor } from '../nn/tensor.js'
import { type Graph, GraphError } from './ir.js'

export interface TraceOptions<M extends Module, Name extends string> {
  /** What the host fills before each run, in this order. */
  readonly inputs: Readonly<Record<Name, TensorType>>
  /** Whether dropout exists in the graph. */
  readonly training: boolean
  /** The dtype of all parameters and float inputs; default `f32`. */
  readonly dtype?: 'f32' | 'f64'
  /** Computes the graph's outputs, by name. */
  readonly body: (model: M, inputs: Readonly<Record<Name, Tensor>>) => Readonly<Record<string, Tensor>>
}

/**
 * The graph of `body`. Its inputs are all parameters of the model in definition order, by name, then `inputs`.
 * Throws {@link GraphError} naming the module and the user's source line where operands do not fit, for a tensor of another trace
 * and for a parameter that is no property of the model.
 */
export function trace<M extends Module, Name extends string>(model: M, options: TraceOptions<M, Name>): Graph {
  const recorder = new Recorder(model, options.training, options.dtype ?? 'f32')
  const names = Object.keys(options.inputs) as Name[]
  const inputs = Object.fromEntries(
    names.map((name) => [name, new Tensor(recorder, recorder.input(name, options.inputs[name]))]),
  ) as Record<Name, Tensor>
  const outputs = recorder.record(() => options.body(model, inputs))
  if (Object.keys(outputs).length === 0) throw new GraphError('trace: outputs, expected at least one tensor, got none')
  for (const [name, tensor] of Object.entries(outputs)) {
    if (!(tensor instanceof Tensor)) {
      throw new GraphError(`trace: output ${name}, expected a tensor, got ${typeof tensor}`)
    }
    recorder.builder.output(name, tensor.valueFor(recorder, `output ${name}`))
  }
  return recorder.builder.finish()
}
