// Ways of collectives, for long: small models over two ranks, step by step the bits of a run by NCCL outside graphs. Graphs that hold a run's
// collectives (`DEEPTROUPE_GRAPH=nccl`) have hung silently elsewhere, and so have earlier copies between the ranks' memories, so a watchdog says
// where each rank is when no step ends, and ends the process.
import { writeSync } from 'node:fs'
import { initialize } from '../../actors/engine/engine.js'
import type { DeviceName } from '../../native/index.js'
import type { DeepSpeedConfig } from '../../runtime/config/index.js'
import type { ProgramName } from '../../runtime/graph/compile.js'
import { type Curve, smallModel, sourceFor, trainConfig } from '../support/training.js'
import type { TrainingFinding } from './training.js'
import type { Tell } from './work.js'

export interface SoakRequest {
  readonly device: DeviceName
  readonly steps: number
  /** One of {@link soakCases}. */
  readonly name: string
}

type Engine = Awaited<ReturnType<typeof initialize>>

/** Seconds without a step's end that are too many. */
const patience = 30

interface Case {
  readonly way: Readonly<Record<string, string>>
  readonly layers: number
  readonly micro: 2 | 4
  readonly zero: NonNullable<DeepSpeedConfig['zero_optimization']>
  /** How often the run begins anew. */
  readonly starts: number
}

const plain = { DEEPTROUPE_GRAPH: '1', DEEPTROUPE_COLLECTIVES: 'nccl' }
const inGraphs = { way: { ...plain, DEEPTROUPE_GRAPH: 'nccl' }, layers: 3, micro: 4, starts: 1 } as const
const small = { reduce_bucket_size: 1e5, allgather_bucket_size: 1e5 }
// So many blocks, and small buckets, that two steps have more commands than a stream takes at once.
const byCopies = { way: { ...plain, DEEPTROUPE_COLLECTIVES: 'copies' }, layers: 48, micro: 4, starts: 1 } as const

const cases: Readonly<Record<string, Case>> = {
  'collectives in graphs, ZeRO 0': { ...inGraphs, zero: { stage: 0 } },
  'collectives in graphs, ZeRO 1': { ...inGraphs, zero: { stage: 1 } },
  'collectives in graphs, ZeRO 3, two micro-steps': {
    ...inGraphs,
    micro: 2,
    zero: { stage: 3, stage3_param_persistence_threshold: 100 },
  },
  'collectives by copies, 48 blocks, ZeRO 1': { ...byCopies, zero: { stage: 1, ...small } },
  'collectives by copies, 48 blocks, ZeRO 3, two micro-steps': {
    ...byCopies,
    micro: 2,
    zero: { stage: 3, stage3_param_persistence_threshold: 100, ...small },
  },
  'collectives by copies, ZeRO 2, ten starts': { ...byCopies, layers: 3, starts: 10, zero: { stage: 2 } },
}

export const soakCases = Object.keys(cases)

/** The programs of a step, in order. */
function programsOf({ prepared }: Engine): ProgramName[] {
  const { accumulation } = prepared.config.batch
  if (accumulation === 1) return ['only']
  return ['first', ...Array<'middle'>(accumulation - 2).fill('middle'), 'last']
}

/** What {@link whereabouts} counts from. */
export const doneBy = (engine: Engine): number[] => engine.progress().map(({ instructions }) => instructions)

/** In words, where each rank is; `before` are the instructions that each had done before the first step. */
export function whereabouts(engine: Engine, before: readonly number[]): string {
  const run = programsOf(engine).flatMap((name) =>
    engine.prepared.compilation.programs[name]!.program.instructions.map((instruction, i) => ({
      name,
      i,
      instruction,
    })),
  )
  return engine
    .progress()
    .map(({ instructions, meeting }, rank) => {
      const done = instructions - before[rank]!
      const { name, i, instruction } = run[done % run.length]!
      const { phase, module = '' } = instruction.debug
      const place = `instruction ${i} of ${name} (${instruction.op}, ${phase} ${module}) or up to seven on`
      return `rank ${rank} in step ${Math.floor(done / run.length) + 1} ${meeting ? 'in a collective' : 'computing'} at ${place}`
    })
    .join('; ')
}

async function watched(
  { device, steps, name }: SoakRequest,
  way: Readonly<Record<string, string>>,
  lost: (where: string) => void,
): Promise<Curve> {
  const { micro, zero, layers, starts } = cases[name]!
  const model = smallModel({ layers })
  const config = trainConfig({ train: 8, micro }, { bf16: { enabled: true }, zero_optimization: zero })
  let where = (): string => 'on the way to the first step'
  const variables = Object.entries(way).map(([key, value]) => `${key}=${value}`)
  const watchdog = setTimeout(() => lost(`${variables.join(' ')}: ${where()}`), patience * 1000)
  const [losses, norms]: [number[], number[]] = [[], []]
  try {
    // The native side reads them when a rank opens.
    Object.assign(process.env, way)
    for (let start = 0; start < starts; start++) {
      const engine = await initialize({ model, data: sourceFor(model, 500), config, device, ranks: 2 })
      const before = doneBy(engine)
      where = () => whereabouts(engine, before)
      engine.events$.subscribe((event) => {
        if (event.type !== 'step') return
        losses.push(event.loss)
        norms.push(event.grad_norm)
        watchdog.refresh()
      })
      await engine.train({ steps: Math.ceil(steps / starts) })
      where = () => 'at the end, where graphs and communicator are let go'
      watchdog.refresh()
      await engine.close()
      where = () => `on the way to the first step of start ${start + 2}`
      watchdog.refresh()
    }
    return { losses, norms }
  } finally {
    clearTimeout(watchdog)
  }
}

/** Tells what a case found. Ends the process where it hangs. */
export async function soak(request: SoakRequest, tell: Tell): Promise<void> {
  const { steps, name } = request
  const { way, starts } = cases[name]!
  const all = Math.ceil(steps / starts) * starts
  const check = `${all} steps with ${name}`
  const lost = (where: string): void => {
    const finding: TrainingFinding = { check, ok: false, got: `nothing for ${patience} s, ${where}` }
    writeSync(1, `${JSON.stringify(finding)}\n`)
    // Threads that wait inside NCCL would keep an orderly end waiting.
    process.kill(process.pid, 'SIGKILL')
  }
  try {
    const known = await watched(request, plain, lost)
    const got = await watched(request, way, lost)
    const at = known.losses.findIndex(
      (loss, s) => !Object.is(loss, got.losses[s]) || !Object.is(known.norms[s], got.norms[s]),
    )
    const ok = at < 0 && known.losses.length === all && got.losses.length === all
    const words = ok ? `bits of ${all} steps` : `step ${at + 1}: ${known.losses[at]} and ${got.losses[at]}`
    tell({ check, ok, got: words } satisfies TrainingFinding)
  } catch (error) {
    tell({ check, ok: false, got: error instanceof Error ? error.message : String(error) } satisfies TrainingFinding)
  }
}
