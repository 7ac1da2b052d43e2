// Whole training steps of GPT-2 models: the command `deeptroupe train` against PyTorch in one process, on the same tokens in the same
// order. Every run is a process of its own; ours and the peer's take turns, and medians leave out the steps that warm up.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type ChildResult, numbersOf, runChild } from './child.js'
import type { PyTorch } from './peers.js'
import { median, type Row } from './row.js'

interface Case {
  readonly title: string
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly vocab: number
  readonly seq: number
  /** Rows of the global batch. */
  readonly batch: number
  readonly ranks: number
  /** Native threads of each rank. PyTorch gets as many threads as all ranks have together. */
  readonly threads: number
  readonly stage: number
  readonly steps: number
  readonly warm: number
  readonly rounds: number
  /** Whether torch.compile is tried as well. */
  readonly compile: boolean
}

const cases = {
  char: {
    title: 'GPT-2 6 x 384, 256 tokens x 16, ZeRO-2, 2 ranks x 1 thread',
    ...{ layers: 6, hidden: 384, heads: 6, vocab: 256, seq: 256, batch: 16, ranks: 2, threads: 1, stage: 2 },
    ...{ steps: 5, warm: 2, rounds: 3, compile: true },
  },
  gpt2: {
    title: 'GPT-2 124M, 512 tokens x 4, 1 rank x 2 threads',
    ...{ layers: 12, hidden: 768, heads: 12, vocab: 50304, seq: 512, batch: 4, ranks: 1, threads: 2, stage: 0 },
    ...{ steps: 3, warm: 1, rounds: 1, compile: true },
  },
  mini: {
    title: 'GPT-2 4 x 128, 64 tokens x 12, 1 rank x 1 thread',
    ...{ layers: 4, hidden: 128, heads: 4, vocab: 256, seq: 64, batch: 12, ranks: 1, threads: 1, stage: 0 },
    ...{ steps: 60, warm: 20, rounds: 3, compile: true },
  },
} satisfies Record<string, Case>

export type TrainingCase = keyof typeof cases

/** Ids of which small ones are the more frequent, the same every time: uint16, a stream of `count`. */
function tokenStream(count: number, vocab: number): Uint16Array {
  let state = 12345
  return Uint16Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) ** 2 * vocab)
  })
}

const command = fileURLToPath(new URL('../../actors/cli/main.js', import.meta.url))

function ours(one: Case, tokens: string, config: string): Promise<ChildResult> {
  const sizes = { layers: one.layers, hidden: one.hidden, heads: one.heads, vocab: one.vocab, seq: one.seq }
  const flags = { ...sizes, ranks: one.ranks, threads: one.threads, steps: one.steps, data: tokens, config }
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)])
  return runChild(process.execPath, [command, 'train', '--json', '--no-shuffle', ...args])
}

/** Times of the steps that count, the first and last loss, and memory, over all rounds. */
class Measured {
  readonly seconds: number[] = []
  losses: readonly number[] = []
  peakMiB = 0

  add(result: ChildResult, warm: number): void {
    this.seconds.push(...numbersOf(result, 'seconds').slice(warm))
    this.losses = numbersOf(result, 'loss')
    this.peakMiB = Math.max(this.peakMiB, result.peakMiB)
  }

  get note(): string {
    return `${this.losses[0]?.toFixed(3)} -> ${this.losses.at(-1)?.toFixed(3)}`
  }
}

/** PyTorch's ways to train in each dtype, eager or compiled. */
const variantsOf = (dtype: 'fp32' | 'bf16', compile: boolean): { precision: string; compile: boolean }[] =>
  (dtype === 'fp32' ? ['fp32'] : ['bf16', 'autocast']).flatMap((precision) => [
    { precision, compile: false },
    ...(compile ? [{ precision, compile: true }] : []),
  ])

/** A case in fp32, then in bf16. */
export async function* trainingRows(name: TrainingCase, torch: PyTorch, folder: string): AsyncGenerator<Row> {
  for (const dtype of ['fp32', 'bf16'] as const) yield* dtypeRows(name, dtype, torch, folder)
}

async function* dtypeRows(
  name: TrainingCase,
  dtype: 'fp32' | 'bf16',
  torch: PyTorch,
  folder: string,
): AsyncGenerator<Row> {
  const one: Case = cases[name]
  const tokens = join(folder, `${name}.bin`)
  const config = join(folder, `${name}.json`)
  writeFileSync(tokens, tokenStream(one.steps * one.batch * one.seq + 1, one.vocab))
  writeFileSync(
    config,
    JSON.stringify({
      train_batch_size: one.batch,
      bf16: { enabled: dtype === 'bf16' },
      gradient_clipping: 1,
      optimizer: { type: 'AdamW', params: { lr: 1e-3, betas: [0.9, 0.95], weight_decay: 0.1 } },
      zero_optimization: { stage: one.stage },
    }),
  )
  const own = new Measured()
  const peers = new Map<string, Measured>()
  for (let round = 0; round < one.rounds; round++) {
    own.add(await ours(one, tokens, config), one.warm)
    if (torch.name === null) continue
    for (const { precision, compile } of variantsOf(dtype, one.compile)) {
      const variant = [torch.name, ...(dtype === 'fp32' ? [] : [precision]), compile ? 'compiled' : 'eager'].join(' ')
      const threads = one.ranks * one.threads
      const measured = peers.get(variant) ?? new Measured()
      peers.set(variant, measured)
      measured.add(await torch.run('train_gpt2.py', { ...one, tokens, precision, compile, threads }, threads), one.warm)
    }
  }
  const speed = ({ seconds }: Measured): number => (one.batch * one.seq) / median(seconds)
  const values = (value: (measured: Measured) => number) =>
    Object.fromEntries([...peers].map(([variant, measured]) => [variant, value(measured)]))
  const losses = [`loss ${own.note}`, ...[...peers.values()].slice(0, 1).map((peer) => `peer's ${peer.note}`)]
  yield {
    row: `${name} ${dtype}`,
    case: one.title,
    unit: 'tokens/s',
    higherIsBetter: true,
    ours: speed(own),
    peers: values(speed),
    notes: [losses.join(', '), ...(torch.name === null ? [torch.reason] : [])],
  }
  yield {
    row: `${name} ${dtype} memory`,
    case: 'peak resident set of the process',
    unit: 'MiB',
    higherIsBetter: false,
    ours: own.peakMiB,
    peers: values(({ peakMiB }) => peakMiB),
    notes: [],
  }
}
