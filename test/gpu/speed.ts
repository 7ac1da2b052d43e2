// Training steps of a GPT-2 shape, timed: some one by one, then many in a row; memory as planned, as reserved and as the driver sees it;
// and where the time of a step goes, by instruction.
import { initialize } from '../../actors/engine/engine.js'
import { type DeviceName, type GpuOptions, machine } from '../../native/index.js'
import { TokenSource } from '../../runtime/data/source.js'
import { planTotals } from '../../runtime/graph/compile.js'
import type { StepEvent, TraceSpan } from '../../runtime/observe/index.js'
import { median } from '../bench/row.js'
import { sourceFor } from '../support/training.js'
import {
  flopsPerToken,
  fullBatch,
  modelOf,
  type Shape,
  type ShapeName,
  sequence,
  shapes,
  type TrainMode,
  vocabulary,
} from './models.js'
import type { Tell } from './work.js'

export interface SpeedRequest {
  readonly device: DeviceName
  readonly shape: ShapeName
  readonly ranks: number
  readonly stage: 0 | 1 | 2 | 3
  readonly mode: TrainMode
  /** Whether the optimizer works on the host. */
  readonly offload: boolean
  /** Steps timed in a row. */
  readonly free: number
  readonly profile: boolean
  readonly geluEpilogues: boolean
}

export interface SpeedFinding {
  readonly shape: ShapeName
  readonly ranks: number
  readonly stage: number
  readonly mode: TrainMode
  /** Rows of a GPU's batch. */
  readonly rows: number
  readonly offload: boolean
  readonly ms: number
  /** Of steps in a row; null: none were asked for. */
  readonly freeMs: number | null
  readonly tokensPerSecond: number
  /** Of each GPU, by the operations that a model of this size is said to take. */
  readonly teraflops: number
  /** Part of a step's wall time in which no native code ran. */
  readonly javascript: number
  readonly loss: readonly [first: number, last: number]
  /**
   * Bytes of a rank on its device: as planned, the most that was reserved, and, by the driver, what a run of a tiny model before left behind (context,
   * code, libraries) and what this run took beyond that. null: not known.
   */
  readonly planned: number
  readonly reserved: number
  readonly context: number | null
  readonly grown: number | null
  readonly profile: readonly ProfileRow[]
}

/** All calls of an op in a phase, in one step. */
export interface ProfileRow {
  readonly op: string
  readonly phase: string
  readonly calls: number
  readonly ms: number
  readonly flops: number
  readonly bytes: number
}

const warm = 5
const timed = 10
const profiled = 3

const gpuOptions = ({ device, mode, geluEpilogues }: SpeedRequest): { readonly gpu?: GpuOptions } =>
  device === 'cuda' ? { gpu: { tf32: mode === 'tf32', geluEpilogues } } : {}

/** Random ids, the same every time. */
function randomTokens(samples: number): TokenSource {
  const tokens = new Uint16Array(new SharedArrayBuffer(2 * (samples * sequence + 1)))
  let state = 20261
  for (let i = 0; i < tokens.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    tokens[i] = Math.floor((state / 2 ** 32) * vocabulary)
  }
  return new TokenSource({ name: 'random', tokens, samples, seq: sequence, stride: sequence, vocabulary })
}

export async function trainAndTime(request: SpeedRequest, tell: Tell): Promise<void> {
  const { device, shape: name, ranks, stage, mode, offload, free: inRow, profile } = request
  const shape: Shape = shapes[name]
  const full = mode === 'fp32' || mode === 'tf32'
  const batch = full ? fullBatch(shape.batch) : shape.batch
  const free = (): number | null => machine().gpu.devices[0]?.freeBytes ?? null
  const lost = (from: number | null, to: number | null): number | null =>
    from === null || to === null ? null : from - to
  const untouched = free()
  await warmUp(request)
  const before = free()
  const steps = warm + timed + inRow + profiled
  const engine = await initialize({
    model: modelOf(shape),
    data: randomTokens(steps * batch * ranks),
    device,
    ranks,
    ...gpuOptions(request),
    config: {
      train_micro_batch_size_per_gpu: batch,
      bf16: { enabled: !full },
      gradient_clipping: 1,
      optimizer: {
        type: 'AdamW',
        params: { lr: 3e-4, betas: [0.9, 0.95], weight_decay: 0.1, bf16_stochastic_round: mode === 'stochastic' },
      },
      zero_optimization: { stage, ...(offload && { offload_optimizer: { device: 'cpu' } }) },
    },
  })
  try {
    const events: StepEvent[] = []
    const hosted = new Set<string>(engine.plan.hostArenas)
    engine.events$.subscribe((event) => event.type === 'step' && events.push(event))
    await engine.train({ steps: warm })
    const counted: StepEvent[] = []
    for (let step = warm; step < warm + timed; step++) counted.push((await engine.train({ steps: step + 1 }))!)
    const started = performance.now()
    await engine.train({ steps: warm + timed + inRow })
    const freeMs = inRow > 0 ? (performance.now() - started) / inRow : null
    const after = free()
    const memory = Object.entries(engine.memory(0)).filter(([arena]) => !hosted.has(arena))
    const rows = profile ? await profileOf(engine) : []
    const running = inRow > 0 ? events.slice(warm + timed, warm + timed + inRow) : counted
    const shares = running.map(({ seconds, native_seconds }) => 1 - native_seconds / seconds)
    const seconds = median(counted.map((event) => event.seconds))
    const tokens = batch * ranks * sequence
    tell({
      shape: name,
      ranks,
      stage,
      mode,
      rows: batch,
      offload,
      ms: seconds * 1e3,
      freeMs,
      tokensPerSecond: tokens / seconds,
      teraflops: (flopsPerToken(shape) * tokens) / ranks / seconds / 1e12,
      javascript: median(shares),
      loss: [events[0]!.loss, events.at(-1)!.loss],
      planned: planTotals(engine.plan).total,
      reserved: memory.reduce((sum, [, { peak }]) => sum + peak, 0),
      context: lost(untouched, before),
      grown: lost(before, after),
      profile: rows,
    } satisfies SpeedFinding)
  } finally {
    await engine.close()
  }
}

/** A run of a tiny model, after which the process has what any run leaves behind. */
async function warmUp(request: SpeedRequest): Promise<void> {
  const { device, ranks } = request
  const model = modelOf(shapes.tiny, 64, 256)
  const config = { train_micro_batch_size_per_gpu: 2, bf16: { enabled: true } }
  const data = sourceFor(model, 4 * ranks)
  await using engine = await initialize({ model, data, device, ranks, config, ...gpuOptions(request) })
  await engine.train({ steps: 2 })
}

async function profileOf(engine: Awaited<ReturnType<typeof initialize>>): Promise<ProfileRow[]> {
  engine.startProfile()
  await engine.train({ steps: engine.step + profiled })
  const spans = engine.profile().filter(({ rank }) => rank === 0)
  const rows = new Map<string, TraceSpan[]>()
  for (const span of spans) {
    const key = `${span.category} ${span.name}`
    const known = rows.get(key)
    if (known) known.push(span)
    else rows.set(key, [span])
  }
  const total = (of: readonly TraceSpan[], value: (span: TraceSpan) => number): number =>
    of.reduce((sum, span) => sum + value(span), 0) / profiled
  return [...rows.values()]
    .map((of) => ({
      op: of[0]!.name,
      phase: of[0]!.category,
      calls: of.length / profiled,
      ms: total(of, ({ startSeconds, endSeconds }) => (endSeconds - startSeconds) * 1e3),
      flops: total(of, ({ flops = 0 }) => flops),
      bytes: total(of, ({ bytes = 0 }) => bytes),
    }))
    .sort((a, b) => b.ms - a.ms)
}
