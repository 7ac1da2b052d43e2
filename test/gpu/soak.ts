// Graphs that hold a run's collectives (`DEEPTROUPE_GRAPH=nccl`), for long: the small model over two ranks, step by step the bits of a run
// without them. Such graphs have hung silently elsewhere, so a watchdog says where each rank is when no step ends, and ends the process.
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

const cases: Readonly<
  Record<string, readonly [micro: number, zero: NonNullable<DeepSpeedConfig['zero_optimization']>]>
> = {
  'ZeRO 0': [4, { stage: 0 }],
  'ZeRO 1': [4, { stage: 1 }],
  'ZeRO 3, two micro-steps': [2, { stage: 3, stage3_param_persistence_threshold: 100 }],
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
  graphs: string,
  lost: (where: string) => void,
): Promise<Curve> {
  const [micro, zero] = cases[name]!
  const model = smallModel()
  const config = trainConfig({ train: 8, micro }, { bf16: { enabled: true }, zero_optimization: zero })
  let where = (): string => 'on the way to the first step'
  const hung = (): void => lost(`${graphs === 'nccl' ? 'with' : 'without'} collectives: ${where()}`)
  const watchdog = setTimeout(hung, patience * 1000)
  try {
    // The native side reads it when a rank opens.
    process.env['DEEPTROUPE_GRAPH'] = graphs
    const engine = await initialize({ model, data: sourceFor(model, 500), config, device, ranks: 2 })
    const before = doneBy(engine)
    where = () => whereabouts(engine, before)
    const [losses, norms]: [number[], number[]] = [[], []]
    engine.events$.subscribe((event) => {
      if (event.type !== 'step') return
      losses.push(event.loss)
      norms.push(event.grad_norm)
      watchdog.refresh()
    })
    await engine.train({ steps })
    where = () => 'at the end, where graphs and communicator are let go'
    watchdog.refresh()
    await engine.close()
    return { losses, norms }
  } finally {
    clearTimeout(watchdog)
  }
}

/** Tells what a case found. Ends the process where it hangs. */
export async function soak(request: SoakRequest, tell: Tell): Promise<void> {
  const { steps, name } = request
  const check = `${steps} steps with collectives in graphs, ${name}`
  const lost = (where: string): void => {
    const finding: TrainingFinding = { check, ok: false, got: `nothing for ${patience} s, graphs ${where}` }
    writeSync(1, `${JSON.stringify(finding)}\n`)
    // Threads that wait inside NCCL would keep an orderly end waiting.
    process.kill(process.pid, 'SIGKILL')
  }
  try {
    const plain = await watched(request, '1', lost)
    const captured = await watched(request, 'nccl', lost)
    const at = plain.losses.findIndex(
      (loss, s) => !Object.is(loss, captured.losses[s]) || !Object.is(plain.norms[s], captured.norms[s]),
    )
    const ok = at < 0 && plain.losses.length === steps && captured.losses.length === steps
    const got = ok ? `bits of ${steps} steps` : `step ${at + 1}: ${plain.losses[at]} and ${captured.losses[at]}`
    tell({ check, ok, got } satisfies TrainingFinding)
  } catch (error) {
    tell({ check, ok: false, got: error instanceof Error ? error.message : String(error) } satisfies TrainingFinding)
  }
}
