// Kernels one by one at the sizes of training: attention over sequence lengths, and what streams memory. FLOP and bytes are those of the op
// table: each operand read or written once.
import { byteLength, type TensorType } from '../../kernels/ops/definition.js'
import { opNamed } from '../../kernels/ops/index.js'
import { normChunk } from '../../kernels/ops/optimizer.js'
import type { DeviceName } from '../../native/index.js'
import { orderInputs, orderScratch, slotArrays, slotBytes } from '../../runtime/data/slot.js'
import { median } from '../bench/row.js'
import { type TimedOp, type TimedProgram, timeOps } from '../bench/single-op.js'
import { candidates } from '../support/tensors.js'
import type { Tell } from './work.js'

export interface KernelsRequest {
  readonly device: DeviceName
  /** Divides the sizes. */
  readonly smaller: number
}

export interface KernelFinding {
  readonly kernel: string
  readonly ms: number
  readonly flops: number
  readonly bytes: number
}

const repetitions = 10
const bf16 = 'bf16' as const
const f32 = 'f32' as const

/** FLOP and bytes of an op whose operands have these types. */
function costOf({ op, attributes }: TimedOp, inputs: readonly (TensorType | null)[]): { flops: number; bytes: number } {
  const definition = opNamed(op)
  return definition.cost(inputs, definition.infer(inputs, attributes), attributes)
}

export async function kernels({ device, smaller }: KernelsRequest, tell: Tell): Promise<void> {
  /** Times a program and tells of its op number `at`. Returns milliseconds. */
  const timed = async (
    kernel: string,
    program: TimedProgram,
    types: readonly (TensorType | null)[],
    at = 0,
  ): Promise<number> => {
    const runs = await timeOps(program, { device, repetitions })
    const ms = median(runs.map((run) => run[at]!)) * 1e3
    tell({ kernel, ms, ...costOf(program.ops[at]!, types) } satisfies KernelFinding)
    return ms
  }

  const tokens = 16384 / smaller
  for (const size of [64, 128]) {
    for (let seq = 1024; seq <= tokens; seq *= 2) {
      const heads = 2048 / size
      const attributes = { heads, causal: 1, scale: 1 / Math.sqrt(size), dropout: 0, op_id: 0 }
      const qkv: TensorType = { shape: [tokens / seq, seq, 3 * heads * size], dtype: bf16 }
      const o: TensorType = { shape: [tokens / seq, seq, heads * size], dtype: bf16 }
      const lse: TensorType = { shape: [tokens / seq, heads, seq], dtype: f32 }
      const program: TimedProgram = {
        tensors: { qkv, do: o },
        ops: [
          { op: 'attention', inputs: ['qkv'], outputs: ['o', 'lse'], attributes },
          { op: 'attention_backward', inputs: ['do', 'qkv', 'o', 'lse'], outputs: ['dqkv'], attributes },
        ],
        scalars: { seed: 0, step: 0, sample: 0 },
      }
      await timed(`attention, head ${size}, T ${seq}, forward`, program, [qkv])
      await timed(`attention, head ${size}, T ${seq}, backward`, program, [o, qkv, o, lse], 1)
    }
  }

  for (const width of [768, 1600]) {
    const x: TensorType = { shape: [65536 / smaller, width], dtype: bf16 }
    const weight: TensorType = { shape: [width], dtype: bf16 }
    const statistic: TensorType = { shape: [65536 / smaller], dtype: f32 }
    const program: TimedProgram = {
      tensors: { x, weight, bias: weight, dy: x, residual: x },
      ops: [
        {
          op: 'layer_norm',
          inputs: ['x', 'weight', 'bias'],
          outputs: ['y', 'mean', 'rstd'],
          attributes: { epsilon: 1e-5 },
        },
        {
          op: 'layer_norm_backward',
          inputs: ['dy', 'x', 'weight', 'mean', 'rstd', 'residual'],
          outputs: ['dx', 'dw', 'db'],
          attributes: {},
        },
      ],
      scalars: {},
    }
    await timed(`layer norm of ${width}, forward`, program, [x, weight, weight])
    await timed(`layer norm of ${width}, backward`, program, [x, x, weight, statistic, statistic, x], 1)
  }

  const length = Math.round(2 ** 26 / smaller / normChunk) * normChunk
  const [flat, half]: [TensorType, TensorType] = [
    { shape: [length], dtype: f32 },
    { shape: [length], dtype: bf16 },
  ]
  const control: TensorType = { shape: [4], dtype: 'f64' }
  const adamAttributes = { decoupled: 1, epsilon: 1e-8, weight_decay: 0.1, length, shards: 1, ranges: [0, length] }
  const adam = (outputs: readonly string[], masters: boolean): TimedProgram => ({
    tensors: {
      p: masters ? flat : half,
      g: half,
      m: flat,
      v: { ...flat, values: [0.5] },
      control: { ...control, values: [1, 1, 1, 0] },
      ...(masters && { copy: half }),
    },
    ops: [
      {
        op: 'adam',
        inputs: ['p', 'g', 'm', 'v', 'control', ...(masters ? ['copy'] : [])],
        outputs,
        attributes: adamAttributes,
      },
    ],
    scalars: {
      ...candidates({ learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, correction1: 0.1, correction2: 1e-3 }),
      seed: 1234,
      step: 1,
    },
  })
  const states = [half, flat, flat, control]
  await timed('AdamW with its copy in bf16', adam(['p', 'm', 'v', 'copy'], true), [flat, ...states, half])
  await timed('AdamW in bf16, rounded stochastically', adam(['p', 'm', 'v'], false), [half, ...states])
  const norm: TimedProgram = {
    tensors: { g: half },
    ops: [{ op: 'norm_chunks', inputs: ['g'], outputs: ['sums'], attributes: { length, shards: 1 } }],
    scalars: {},
  }
  await timed('norm of the gradients', norm, [half])

  await table(65536 / smaller, timed)
  await head(device, 16384 / smaller, tell)
}

type Timed = (kernel: string, program: TimedProgram, types: readonly (TensorType | null)[]) => Promise<number>

/** The gradient of a table of tokens onto that of a tied head, the order of the tokens told or sorted on the device. */
async function table(tokens: number, timed: Timed): Promise<void> {
  const [rows, width] = [50304, 768]
  const shape = { rows: 1, micro: 1, sequence: tokens, ordered: true }
  const { inputs, targets, order } = slotArrays(shape, new SharedArrayBuffer(slotBytes(shape)))
  let state = 7
  for (let i = 0; i < tokens; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    inputs[i] = Math.floor((state / 2 ** 32) * rows)
  }
  orderInputs(shape, { inputs, targets, order }, orderScratch(shape, rows))
  const ids: TensorType = { shape: [tokens], dtype: 'i32' }
  const dy: TensorType = { shape: [tokens, width], dtype: bf16 }
  const base: TensorType = { shape: [rows, width], dtype: f32 }
  for (const told of [true, false]) {
    const operands = ['ids', 'dy', 'dw', ...(told ? ['order'] : [])]
    const program: TimedProgram = {
      tensors: { ids: { ...ids, values: [...inputs] }, order: { ...ids, values: [...order!] }, dy, dw: base },
      ops: [{ op: 'embedding_backward', inputs: operands, outputs: ['dw'], attributes: { rows, wide: 1 } }],
      scalars: {},
    }
    const name = `gradient of a table, ${told ? 'told the order' : 'sorting'}`
    await timed(name, program, [ids, dy, base, ...(told ? [ids] : [])])
  }
}

/** The head with its loss and its gradients. */
async function head(device: DeviceName, rows: number, tell: Tell): Promise<void> {
  const [features, classes] = [768, 50304]
  const x: TensorType = { shape: [rows, features], dtype: bf16 }
  const weight: TensorType = { shape: [classes, features], dtype: bf16 }
  const logits: TensorType = { shape: [rows, classes], dtype: bf16 }
  const program = {
    tensors: {
      x,
      weight,
      targets: { shape: [rows], dtype: 'i32' as const, values: [1, 5, 7, 50000] },
      dloss: { shape: [1], dtype: f32, values: [1] },
    },
    ops: [
      {
        op: 'linear_cross_entropy_gradients',
        inputs: ['x', 'weight', 'targets', 'dloss'],
        outputs: ['loss', 'dx', 'dw'],
        attributes: { transposed: 0, scale: 1 / rows, rows, wide: 1 },
      },
    ],
    scalars: {},
  }
  const flops = 6 * rows * features * classes
  const times = await timeOps(program, { device, repetitions })
  const ms = median(times.map(([seconds]) => seconds!)) * 1e3
  tell({ kernel: 'head with its gradients', ms, flops, bytes: 2 * byteLength(logits) } satisfies KernelFinding)
}
