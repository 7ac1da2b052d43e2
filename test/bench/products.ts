// Matrix products of training, in the three forms of a linear layer, in f32 and bf16, against Debian's OpenBLAS (f32) and oneDNN. The last
// row of each group is the geometric mean of its speeds.
import { numbersOf } from './child.js'
import type { ProductPeer } from './peers.js'
import { median, type Row } from './row.js'
import { type TimedProgram, timeOps } from './single-op.js'

/** x is [M, K], the weight [N, K], y [M, N]: layers of GPT-2 124M at 1,024 tokens, one of the char model, a part of GPT-2's head. */
const shapes: Readonly<Record<string, readonly [M: number, N: number, K: number]>> = {
  qkv: [1024, 2304, 768],
  proj: [1024, 768, 768],
  mlp_up: [1024, 3072, 768],
  mlp_down: [1024, 768, 3072],
  char_mlp_up: [2048, 1536, 384],
  head: [256, 50304, 768],
}

type Form = 'forward' | 'input_gradient' | 'weight_gradient'
const forms: readonly Form[] = ['forward', 'input_gradient', 'weight_gradient']

const dtypes = ['f32', 'bf16'] as const

function programOf(form: Form, dtype: (typeof dtypes)[number], M: number, N: number, K: number): TimedProgram {
  const matrix = (...shape: number[]) => ({ shape, dtype })
  const attributes = { transposed: 0 }
  const x = matrix(M, K)
  const weight = matrix(N, K)
  const dy = matrix(M, N)
  switch (form) {
    case 'forward':
      return {
        tensors: { x, weight },
        ops: [{ op: 'linear', inputs: ['x', 'weight'], outputs: ['y'], attributes }],
        scalars: {},
      }
    case 'input_gradient':
      return {
        tensors: { dy, weight },
        ops: [{ op: 'linear_input_gradient', inputs: ['dy', 'weight'], outputs: ['dx'], attributes }],
        scalars: {},
      }
    case 'weight_gradient':
      return {
        tensors: { x, dy },
        ops: [{ op: 'linear_weight_gradient', inputs: ['x', 'dy'], outputs: ['dw'], attributes }],
        scalars: {},
      }
  }
}

const rounds = 3

/** Seconds of one product after another as in training, after one that warms up. The peers' loops are such too. */
async function backToBack(program: TimedProgram, threads: number, repetitions: number): Promise<number[]> {
  const ops = Array.from({ length: repetitions + 1 }, () => program.ops[0]!)
  const [seconds] = await timeOps({ ...program, ops }, { threads, repetitions: 1 })
  return seconds!.slice(1)
}

export async function* productRows(peers: readonly ProductPeer[], notes: readonly string[]): AsyncGenerator<Row> {
  for (const dtype of dtypes) {
    const able = peers.filter((peer) => peer.dtypes.includes(dtype))
    for (const threads of [1, 2]) {
      const group = `${dtype}, ${threads} thread${threads > 1 ? 's' : ''}`
      const rows: Row[] = []
      for (const [name, [M, N, K]] of Object.entries(shapes)) {
        for (const form of forms) {
          const repetitions = M * N * K > 5e9 ? 2 : 5
          const flops = 2 * M * N * K
          const ours: number[] = []
          const theirs = new Map<string, number[]>(able.map((peer) => [peer.name, []]))
          for (let round = 0; round < rounds; round++) {
            ours.push(...(await backToBack(programOf(form, dtype, M, N, K), threads, repetitions)))
            for (const peer of able) {
              const request = [form, dtype, M, N, K, repetitions]
              theirs.get(peer.name)!.push(...numbersOf(await peer.run(request, threads), 'seconds'))
            }
          }
          const speed = (times: readonly number[]): number => flops / median(times) / 1e9
          rows.push({
            row: 'products',
            case: `${name} ${M} x ${N} x ${K} ${form}, ${group}`,
            unit: 'GFLOP/s',
            higherIsBetter: true,
            ours: speed(ours),
            peers: Object.fromEntries([...theirs].map(([peer, times]) => [peer, speed(times)])),
            notes,
          })
          yield rows.at(-1)!
        }
      }
      const mean = (values: readonly number[]): number =>
        Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length)
      yield {
        ...rows[0]!,
        case: `mean of all, ${group}`,
        ours: mean(rows.map((row) => row.ours)),
        peers: Object.fromEntries(able.map(({ name }) => [name, mean(rows.map((row) => row.peers[name]!))])),
      }
    }
  }
}
