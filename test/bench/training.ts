// Whole training steps of GPT-2 models: the command `deeptroupe train` against PyTorch in one process, on the same tokens in the same
// order. Every run is a process of its own; ours and the peer's take turns, and medians leave out the steps that warm up. Each case
// also runs in other ZeRO stages, against DeepSpeed as it was measured once, and may tell JavaScript's share and where its time goes.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type ChildResult, numbersOf, runChild } from './child.js'
import { deepSpeedName, scaledDeepSpeed } from './deepspeed.js'
import type { EngineRequest } from './engine.js'
import type { PyTorch } from './peers.js'
import { bestPeer, median, type Row } from './row.js'

type DTypeName = 'fp32' | 'bf16'

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
  /** ZeRO stages; the first is held against PyTorch. */
  readonly stages: readonly number[]
  readonly dtypes: readonly DTypeName[]
  readonly steps: number
  readonly warm: number
  readonly rounds: number
  /** Whether torch.compile is tried as well. */
  readonly compile: boolean
  /** Whether JavaScript's share of a step is measured. */
  readonly share: boolean
}

const mini = { layers: 4, hidden: 128, heads: 4, vocab: 256, seq: 64, batch: 12, threads: 1 }
const cases = {
  char: {
    title: 'GPT-2 6 x 384, 256 tokens x 16, 2 ranks x 1 thread',
    ...{ layers: 6, hidden: 384, heads: 6, vocab: 256, seq: 256, batch: 16, ranks: 2, threads: 1 },
    ...{ stages: [2, 0, 1, 3], dtypes: ['fp32', 'bf16'], steps: 5, warm: 2, rounds: 3, compile: true, share: true },
  },
  gpt2: {
    title: 'GPT-2 124M, 512 tokens x 4, 1 rank x 2 threads',
    ...{ layers: 12, hidden: 768, heads: 12, vocab: 50304, seq: 512, batch: 4, ranks: 1, threads: 2 },
    ...{ stages: [0], dtypes: ['fp32', 'bf16'], steps: 3, warm: 1, rounds: 1, compile: true, share: false },
  },
  mini: {
    title: 'GPT-2 4 x 128, 64 tokens x 12, 1 rank x 1 thread',
    ...{ ...mini, ranks: 1 },
    ...{ stages: [0], dtypes: ['fp32', 'bf16'], steps: 60, warm: 20, rounds: 3, compile: true, share: false },
  },
  'mini-ranks': {
    title: 'GPT-2 4 x 128, 64 tokens x 12, 2 ranks x 1 thread',
    ...{ ...mini, ranks: 2 },
    ...{ stages: [0, 3], dtypes: ['fp32'], steps: 60, warm: 20, rounds: 3, compile: true, share: false },
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
const engineScript = fileURLToPath(new URL('./engine.js', import.meta.url))

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
const variantsOf = (dtype: DTypeName, compile: boolean): { precision: string; compile: boolean }[] =>
  (dtype === 'fp32' ? ['fp32'] : ['bf16', 'autocast']).flatMap((precision) => [
    { precision, compile: false },
    ...(compile ? [{ precision, compile: true }] : []),
  ])

/** What else a run of a case asks for. */
export interface TrainingOptions {
  readonly torch: PyTorch
  /** For data and configurations. */
  readonly folder: string
  /** Whether each row gets a page that explains it by instruction. */
  readonly profile: boolean
}

/** A case in each of its dtypes. */
export async function* trainingRows(name: TrainingCase, options: TrainingOptions): AsyncGenerator<Row> {
  for (const dtype of cases[name].dtypes) yield* dtypeRows(name, dtype, options)
}

async function* dtypeRows(
  name: TrainingCase,
  dtype: DTypeName,
  { torch, folder, profile }: TrainingOptions,
): AsyncGenerator<Row> {
  const one: Case = cases[name]
  const tokens = join(folder, `${name}.bin`)
  writeFileSync(tokens, tokenStream((stepsOf(one).steps + 3) * one.batch * one.seq + 1, one.vocab))
  const configOf = (stage: number): string => {
    const config = join(folder, `${name}-${dtype}-${stage}.json`)
    writeFileSync(
      config,
      JSON.stringify({
        train_batch_size: one.batch,
        bf16: { enabled: dtype === 'bf16' },
        gradient_clipping: 1,
        optimizer: { type: 'AdamW', params: { lr: 1e-3, betas: [0.9, 0.95], weight_decay: 0.1 } },
        zero_optimization: { stage },
      }),
    )
    return config
  }
  const own = new Map(one.stages.map((stage) => [stage, new Measured()]))
  const peers = new Map<string, Measured>()
  for (let round = 0; round < one.rounds; round++) {
    for (const [stage, measured] of own) measured.add(await ours(one, tokens, configOf(stage)), one.warm)
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
  const [stage] = one.stages as [number]
  const first = own.get(stage)!
  const losses = [`loss ${first.note}`, ...[...peers.values()].slice(0, 1).map((peer) => `peer's ${peer.note}`)]
  const title = `${one.title}, ZeRO-${stage}`
  const page = profile ? await engineRun(one, tokens, configOf(stage), true) : null
  const row: Row = {
    row: `${name} ${dtype}`,
    case: title,
    unit: 'tokens/s',
    higherIsBetter: true,
    ours: speed(first),
    peers: values(speed),
    notes: [losses.join(', '), ...(torch.name === null ? [torch.reason] : [])],
    ...(page?.page && { page: page.page }),
  }
  yield row
  yield {
    row: `${name} ${dtype} memory`,
    case: `peak resident set of the process, ZeRO-${stage}`,
    unit: 'MiB',
    higherIsBetter: false,
    ours: first.peakMiB,
    peers: values(({ peakMiB }) => peakMiB),
    notes: [],
  }
  const pytorch = bestPeer(row)?.[1]
  for (const other of one.stages.toSorted()) {
    const scaled = pytorch === undefined ? null : scaledDeepSpeed(name, dtype, other, pytorch)
    if (one.stages.length === 1) continue
    yield {
      row: `${name} ${dtype} ZeRO-${other}`,
      case: one.title,
      unit: 'tokens/s',
      higherIsBetter: true,
      ours: speed(own.get(other)!),
      peers: scaled ? { [deepSpeedName]: scaled.speed } : {},
      notes: scaled ? [scaled.note] : ['DeepSpeed is shown by the speed of PyTorch in the same run'],
    }
  }
  if (one.stages.includes(0) && one.stages.includes(3)) {
    yield {
      row: `${name} ${dtype} ZeRO-3`,
      case: `${one.title}, as a share of ZeRO-0's speed`,
      unit: '%',
      higherIsBetter: true,
      ours: (100 * speed(own.get(3)!)) / speed(own.get(0)!),
      peers: {},
      notes: [],
    }
  }
  if (one.share) yield shareRow(name, dtype, (page ?? (await engineRun(one, tokens, configOf(stage), false))).shares)
}

interface EngineAnswer {
  readonly shares: readonly { readonly thread: string; readonly percent: number }[]
  readonly page?: string
}

/** JavaScript is compiled as it runs: its share settles after some steps. */
const stepsOf = ({ share, steps, warm }: Case): { steps: number; warm: number } =>
  share ? { steps: 120, warm: 60 } : { steps, warm }

async function engineRun(one: Case, tokens: string, config: string, profile: boolean): Promise<EngineAnswer> {
  const { layers, hidden, heads, vocab, seq, ranks, threads } = one
  const sizes = { layers, hidden, heads, vocab, seq, ranks, threads }
  const request: EngineRequest = { ...sizes, ...stepsOf(one), tokens, config, profile }
  const { lines } = await runChild(process.execPath, [engineScript, JSON.stringify(request)])
  return Object.assign({}, ...lines) as EngineAnswer
}

/** The event loops' time that was not waiting, all threads together. */
function shareRow(name: string, dtype: DTypeName, shares: EngineAnswer['shares']): Row {
  return {
    row: `${name} ${dtype} JavaScript`,
    case: 'active event loops of main and ranks together, over wall time',
    unit: '%',
    higherIsBetter: false,
    ours: shares.reduce((sum, { percent }) => sum + percent, 0),
    peers: {},
    notes: [shares.map(({ thread, percent }) => `${thread} ${percent.toFixed(2)} %`).join(', ')],
  }
}
