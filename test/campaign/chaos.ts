// Small training jobs in one process whose ranks are killed, stalled and frozen at seeded moments of seeded steps. Each must end with
// the bits of one rank that nothing happened to, or past its restarts with one clear error; in time; and must leave nothing behind.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { initialize } from '../../actors/engine/engine.js'
import { EngineError } from '../../actors/engine/errors.js'
import type { InitializeOptions } from '../../actors/engine/prepare.js'
import { type DeviceName, machine, mappedBytes } from '../../native/index.js'
import { type Progress, readManifest } from '../../runtime/checkpoint/manifest.js'
import type { DeepSpeedConfig } from '../../runtime/config/index.js'
import type { RestartEvent } from '../../runtime/observe/index.js'
import { sourceFor, tinyModel, trainConfig, withFolder } from '../support/training.js'
import { type Campaign, Draws } from './campaign.js'

const steps = 6
/** Deadline of a job's ranks. A step of an undisturbed job takes milliseconds, but a busy machine may keep a thread waiting. */
const stallSeconds = 3
/** Most that a job may take: every fault costs at most a few stalls' time. Past it, something hangs. */
const jobSeconds = 120
const wantedRuns = 200

type Kind = 'kill' | 'throw' | 'freeze' | 'stall' | 'stall for good' | 'slow' | 'flood'
const drawn: readonly Kind[] = [
  'kill',
  'kill',
  'kill',
  'kill',
  'throw',
  'stall',
  'stall for good',
  'freeze',
  'slow',
  'flood',
]

/** Dtypes of a job; fp16 overflows at its first steps, and again when its scale has grown. */
const precisions = {
  fp32: {},
  bf16: { bf16: { enabled: true } },
  fp16: { fp16: { enabled: true, initial_scale_power: 22, loss_scale_window: 1, hysteresis: 1 } },
} as const satisfies Readonly<Record<string, DeepSpeedConfig>>
type PrecisionName = keyof typeof precisions

interface Job {
  readonly seed: number
  readonly device: DeviceName
  readonly stage: 0 | 1 | 2 | 3
  readonly ranks: number
  readonly micro: number
  readonly accumulation: number
  readonly momentum: boolean
  readonly precision: PrecisionName
  /** Steps between checkpoints; 0: none. */
  readonly saveEvery: number
  readonly restarts: number
  readonly faults: readonly { readonly kind: Kind; readonly text: string }[]
}

/** What may not differ by a bit: loss, norm and scale of each step, and at the end checksums of the tensors and the progress. */
interface Outcome {
  readonly losses: readonly number[]
  readonly norms: readonly number[]
  readonly scales: readonly (number | undefined)[]
  readonly sums: readonly (string | undefined)[]
  readonly progress: Progress
}

export interface ChaosCounts {
  runs: number
  bitEqual: number
  pastBudget: number
  readonly recoveries: Record<RestartEvent['source'], number>
  readonly faults: Partial<Record<Kind, number>>
  readonly devices: Partial<Record<DeviceName, number>>
  readonly precisions: Record<PrecisionName, number>
  /** Steps that the jobs which ended skipped for gradients that overflowed. */
  skipped: number
  readonly stages: Record<0 | 1 | 2 | 3, number>
  readonly ranks: Partial<Record<number, number>>
}

/** Mostly the CPU, where the thread goes on while its native run is under way. */
const devices: readonly DeviceName[] = machine().best ? ['cpu', 'cpu', 'cpu', 'reference'] : ['reference']

export function drawJob(draws: Draws, seed: number): Job {
  const ranks = draws.pick([1, 2, 2, 3, 3])
  const faults = Array.from({ length: draws.pick([1, 1, 2, 3]) }, () => {
    const kind = draws.pick(drawn)
    const rank = draws.integer(0, ranks)
    const place = `rank=${rank}@step=${draws.integer(1, steps + 1)}`
    const stalled = { stall: `${draws.integer(20, 200)}ms`, 'stall for good': '10000s' }
    if (kind === 'slow') return { kind, text: `slow:rank=${rank}:x2` }
    if (kind === 'stall' || kind === 'stall for good') return { kind, text: `stall:${place}:${stalled[kind]}` }
    return { kind, text: `${kind}:${place}` }
  })
  return {
    seed,
    device: draws.pick(devices),
    stage: draws.pick([0, 0, 1, 2, 3]),
    ranks,
    micro: draws.pick([1, 2]),
    accumulation: draws.pick([1, 2, 3]),
    momentum: draws.next() < 0.25,
    precision: draws.pick(['fp32', 'fp32', 'bf16', 'fp16']),
    saveEvery: draws.pick([0, 0, 1, 2]),
    restarts: draws.integer(0, 4),
    faults,
  }
}

function optionsOf({ seed, device, stage, ranks, micro, accumulation, momentum, precision }: Job): InitializeOptions {
  const model = tinyModel({ dropout: 0.1 })
  const optimizer = momentum
    ? { type: 'SGD', params: { lr: 0.05, momentum: 0.9 } }
    : { type: 'AdamW', params: { lr: 1e-3, weight_decay: 0.1 } }
  const zero = { stage, stage3_param_persistence_threshold: 100 }
  const config = trainConfig(
    { train: micro * ranks * accumulation, micro },
    { ...precisions[precision], optimizer, zero_optimization: zero },
  )
  return { model, data: sourceFor(model), config, ranks, threads: 1, seed, device }
}

/** Trains to the end, the last word on each step counting, and saves. */
async function outcomeOf(
  options: InitializeOptions,
  folder: string,
  onRestart: (event: RestartEvent) => void = () => {},
): Promise<Outcome> {
  const losses: number[] = []
  const norms: number[] = []
  const scales: (number | undefined)[] = []
  await using engine = await initialize(options)
  engine.events$.subscribe((event) => {
    if (event.type === 'step') {
      losses[event.step - 1] = event.loss
      norms[event.step - 1] = event.grad_norm
      scales[event.step - 1] = event.loss_scale
    } else if (event.type === 'restart') onRestart(event)
  })
  await engine.train({ steps })
  const { files, progress } = readManifest(await engine.save(folder))
  const sums = ['model.safetensors', 'optimizer.safetensors'].map((name) => files[name]?.sha256)
  return { losses, norms, scales, sums, progress }
}

/** What a job could leave behind in the process: threads, open descriptors, native bytes, and what keeps the event loop alive. */
interface Residue {
  readonly threads: readonly string[]
  readonly descriptors: readonly string[]
  readonly resources: readonly string[]
  readonly arenaBytes: number
}

function residue(): Residue {
  const listed = (folder: string, name: (entry: string) => string): string[] =>
    readdirSync(folder).flatMap((entry) => {
      try {
        return `${entry} ${name(join(folder, entry))}`
      } catch {
        return []
      }
    })
  return {
    threads: listed('/proc/self/task', (path) => readFileSync(join(path, 'comm'), 'utf8').trim()),
    descriptors: listed('/proc/self/fd', readlinkSync),
    resources: process.getActiveResourcesInfo(),
    arenaBytes: mappedBytes(),
  }
}

/** Throws where something stays that was not there. Threads that have ended take a moment to vanish. */
async function expectNothingLeft(before: Residue): Promise<void> {
  const left = (): string[] => {
    const now = residue()
    const more = (['threads', 'descriptors', 'resources'] as const)
      .filter((kind) => now[kind].length > before[kind].length)
      .map((kind) => `${kind} ${now[kind].filter((item) => !before[kind].includes(item)).join(' and ')}`)
    const { arenaBytes } = now
    return arenaBytes > before.arenaBytes ? [...more, `${arenaBytes} bytes of arenas for ${before.arenaBytes}`] : more
  }
  for (let i = 0; i < 200 && left().length > 0; i++) await sleep(25)
  if (left().length > 0) throw new Error(`chaos: after the job, expected nothing left, got ${left().join(', ')}`)
}

async function within<T>(seconds: number, work: Promise<T>): Promise<T> {
  const timeout = new AbortController()
  const late = sleep(seconds * 1000, undefined, { signal: timeout.signal }).then(() => {
    throw new Error(`chaos: job, expected its end within ${seconds} s, got none`)
  })
  late.catch(() => {})
  try {
    return await Promise.race([work, late])
  } finally {
    timeout.abort()
  }
}

/** Faults that end a life. Two that strike at once may be one failure. */
const lethal = ({ faults }: Job): number => faults.filter(({ kind }) => kind !== 'stall' && kind !== 'slow').length

async function runJob(job: Job, counts: ChaosCounts): Promise<string> {
  const quiet = { ...job, stage: 0, ranks: 1, accumulation: job.accumulation * job.ranks } as const
  const expected = await withFolder((folder) => outcomeOf(optionsOf(quiet), folder))
  const before = residue()
  const chaos = job.faults.map(({ text }) => text).join(',')
  const { restarts, saveEvery } = job
  const recovered: RestartEvent['source'][] = []
  const outcome = await withFolder((folder) => {
    const checkpoints = saveEvery > 0 ? { checkpoints: { folder, every: saveEvery, keep: 2 } } : {}
    const run = outcomeOf(
      { ...optionsOf(job), ...checkpoints, restarts, stallSeconds, chaos },
      folder,
      ({ source }) => {
        recovered.push(source)
      },
    )
    return within(
      jobSeconds,
      run.catch((error: unknown) => error as Error),
    )
  })
  await expectNothingLeft(before)
  for (const source of recovered) counts.recoveries[source] += 1
  if (!(outcome instanceof Error)) {
    if (JSON.stringify(outcome) !== JSON.stringify(expected)) {
      const at = outcome.losses.findIndex(
        (loss, s) =>
          loss !== expected.losses[s] ||
          outcome.norms[s] !== expected.norms[s] ||
          outcome.scales[s] !== expected.scales[s],
      )
      throw new Error(
        `chaos: bits, expected those of the quiet run, got others ${at < 0 ? 'in the state' : `at step ${at + 1}`}`,
      )
    }
    counts.bitEqual += 1
    counts.skipped += outcome.progress.step - outcome.progress.applied
    return recovered.join(' ') || 'nothing to recover'
  }
  const clear = /^\w+: step \d+, expected every rank to finish, got (rank \d|supervisor|ask|data loader)[^\n]+$/
  if (!(outcome instanceof EngineError && outcome.code === 'ENGINE_RANK_FAILED' && clear.test(outcome.message)))
    throw outcome
  if (recovered.length < restarts || lethal(job) <= restarts)
    throw new Error(
      `chaos: error after ${recovered.length} of ${restarts} restarts, expected none, got ${outcome.message}`,
    )
  counts.pastBudget += 1
  return outcome.message
}

/** Runs jobs drawn from a seed until `enough` says so. Rejects with the first that is not as it should be, and how to draw it again. */
export async function chaosRuns(
  seed: number,
  enough: (runs: number) => boolean,
  note: (text: string) => void = () => {},
): Promise<ChaosCounts> {
  const counts: ChaosCounts = {
    runs: 0,
    bitEqual: 0,
    pastBudget: 0,
    recoveries: { kept: 0, peers: 0, checkpoint: 0, start: 0 },
    faults: {},
    devices: {},
    precisions: { fp32: 0, bf16: 0, fp16: 0 },
    skipped: 0,
    stages: { 0: 0, 1: 0, 2: 0, 3: 0 },
    ranks: {},
  }
  const draws = new Draws(seed)
  while (!enough(counts.runs)) {
    const job = drawJob(draws, seed + counts.runs)
    const text = JSON.stringify({ ...job, faults: job.faults.map((fault) => fault.text) })
    try {
      note(`run ${counts.runs + 1}: ${text}: ${await runJob(job, counts)}`)
    } catch (error) {
      const { message } = error as Error
      throw new Error(`${message} (seed ${seed}, run ${counts.runs + 1}: ${text})`, { cause: error })
    }
    counts.runs += 1
    counts.stages[job.stage] += 1
    counts.precisions[job.precision] += 1
    counts.devices[job.device] = (counts.devices[job.device] ?? 0) + 1
    counts.ranks[job.ranks] = (counts.ranks[job.ranks] ?? 0) + 1
    for (const { kind } of job.faults) counts.faults[kind] = (counts.faults[kind] ?? 0) + 1
  }
  return counts
}

export const campaign: Campaign = {
  name: 'chaos',
  run: async ({ seed, deadline, note }) => ({
    ...(await chaosRuns(seed, (runs) => runs >= wantedRuns && performance.now() > deadline, note)),
  }),
}
