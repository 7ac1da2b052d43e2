// The optimizer's step and attention, against PyTorch's fused AdamW and scaled_dot_product_attention.
import { normChunk } from '../../kernels/ops/optimizer.js'
import { candidates } from '../support/tensors.js'
import { numbersOf } from './child.js'
import type { PyTorch } from './peers.js'
import { median, type Row } from './row.js'
import { type TimedProgram, timeProgram } from './single-op.js'

const rounds = 3

/** Times our program and PyTorch's request in turn. */
async function inTurn(
  program: TimedProgram,
  torch: PyTorch,
  request: Readonly<Record<string, string | number>>,
  { threads, repetitions }: { readonly threads: number; readonly repetitions: number },
): Promise<{ ours: number; peers: Record<string, number>; notes: string[] }> {
  const ours: number[] = []
  const theirs: number[] = []
  for (let round = 0; round < rounds; round++) {
    ours.push(...(await timeProgram(program, { threads, repetitions })))
    if (torch.name === null) continue
    theirs.push(...numbersOf(await torch.run('ops.py', { ...request, threads, repetitions }, threads), 'seconds'))
  }
  return {
    ours: median(ours),
    peers: torch.name === null ? {} : { [torch.name]: median(theirs) },
    notes: torch.name === null ? [torch.reason] : [],
  }
}

const perSecond = (amount: number, { ours, peers, notes }: Awaited<ReturnType<typeof inTurn>>) => ({
  higherIsBetter: true,
  ours: amount / ours,
  peers: Object.fromEntries(Object.entries(peers).map(([name, seconds]) => [name, amount / seconds])),
  notes,
})

export async function* adamRows(torch: PyTorch): AsyncGenerator<Row> {
  const count = Math.round(50e6 / normChunk) * normChunk
  const flat = { shape: [count], dtype: 'f32' } as const
  const attributes = { decoupled: 1, epsilon: 1e-8, weight_decay: 0.1, length: count, shards: 1, ranges: [0, count] }
  const program: TimedProgram = {
    tensors: {
      p: flat,
      g: flat,
      m: flat,
      v: { ...flat, values: [0.5] },
      control: { shape: [4], dtype: 'f64', values: [1, 1, 1, 0] },
    },
    ops: [{ op: 'adam', inputs: ['p', 'g', 'm', 'v', 'control'], outputs: ['p', 'm', 'v'], attributes }],
    scalars: {
      ...candidates({ learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, correction1: 0.1, correction2: 1e-3 }),
      seed: 0,
      step: 1,
    },
  }
  const copied: TimedProgram = {
    ...program,
    tensors: { ...program.tensors, copy: { ...flat, dtype: 'bf16' } },
    ops: [{ ...program.ops[0]!, inputs: [...program.ops[0]!.inputs, 'copy'], outputs: ['p', 'm', 'v', 'copy'] }],
  }
  for (const threads of [1, 2]) {
    const times = await inTurn(program, torch, { op: 'adam', count }, { threads, repetitions: 5 })
    yield {
      row: 'adam',
      case: `AdamW over 50 M parameters, ${threads} thread${threads > 1 ? 's' : ''}`,
      unit: 'M parameters/s',
      ...perSecond(count / 1e6, times),
    }
    const both = await inTurn(copied, torch, { op: 'adam_copy', count }, { threads, repetitions: 5 })
    yield {
      row: 'adam',
      case: `AdamW over 50 M parameters and their copy in bf16, ${threads} thread${threads > 1 ? 's' : ''}`,
      unit: 'M parameters/s',
      ...perSecond(count / 1e6, both),
    }
  }
}

export async function* attentionRows(torch: PyTorch): AsyncGenerator<Row> {
  const [heads, size, tokens, threads] = [12, 64, 4096, 2]
  const lengths = [256, 512, 1024, 2048, 4096]
  for (const [dtype, seq] of (['f32', 'bf16'] as const).flatMap((dtype) =>
    lengths.map((seq) => [dtype, seq] as const),
  )) {
    const batch = tokens / seq
    const attributes = { heads, causal: 1, scale: 1 / Math.sqrt(size), dropout: 0, op_id: 0 }
    const forward = { op: 'attention', inputs: ['qkv'], outputs: ['o', 'lse'], attributes }
    const backward = { op: 'attention_backward', inputs: ['do', 'qkv', 'o', 'lse'], outputs: ['dqkv'], attributes }
    const qkv = { shape: [batch, seq, 3 * heads * size], dtype } as const
    const gradient = { shape: [batch, seq, heads * size], dtype } as const
    const scalars = { seed: 0, step: 0, sample: 0 }
    for (const [op, title, program] of [
      ['attention', 'forward', { tensors: { qkv }, ops: [forward], scalars }],
      [
        'attention_training',
        'forward and backward',
        { tensors: { qkv, do: gradient }, ops: [forward, backward], scalars },
      ],
    ] as const) {
      const times = await inTurn(program, torch, { op, dtype, batch, seq, heads, size }, { threads, repetitions: 3 })
      yield {
        row: 'attention',
        case: `${title}, ${dtype}, ${batch} x ${seq} tokens, ${heads} heads of ${size}, ${threads} threads`,
        unit: 'k tokens/s',
        ...perSecond(tokens / 1e3, times),
      }
    }
  }
}
