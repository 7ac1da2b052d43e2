// `--chaos kill:rank=1@step=20,stall:rank=0@step=7:2s,slow:rank=1:x3`: which fault strikes which rank at which step, at a moment of it
// that is drawn from the seed. A fault of a step strikes once; the step's replay after a restart is spared.
import { uniform } from '../../runtime/nn/sample.js'
import type { Fault, Strike } from '../rank/fault.js'
import { EngineError } from './errors.js'

export interface PlannedFault {
  readonly rank: number
  /** null: every step. */
  readonly step: number | null
  readonly fault: Fault
}

const forms = 'kill|throw|oom|freeze|flood:rank=R@step=S, stall:rank=R@step=S:2s or slow:rank=R:x3'
const pattern =
  /^(?:(kill|throw|oom|freeze|flood):rank=(\d+)@step=(\d+)|stall:rank=(\d+)@step=(\d+):(\d+(?:\.\d+)?)(ms|s)|slow:rank=(\d+):x(\d+(?:\.\d+)?))$/

/** Reads a list of faults. Throws {@link EngineError} for one that has another form or a rank that is not there. */
export function parseChaos(text: string, ranks: number, seed: number): PlannedFault[] {
  const random = uniform(seed)
  return text.split(',').map((item) => {
    const planned = parseFault(item.trim(), random)
    if (!planned) throw new EngineError('ENGINE_USAGE', `initialize: chaos, expected ${forms}, got ${item}`)
    if (planned.rank < ranks && planned.step !== 0) return planned
    const expected = planned.step === 0 ? 'a step from 1' : `a rank below ${ranks}`
    throw new EngineError('ENGINE_USAGE', `initialize: chaos, expected ${expected}, got ${item}`)
  })
}

function parseFault(item: string, random: () => number): PlannedFault | null {
  const found = pattern.exec(item)
  if (!found) return null
  const [, kind, rank, step, stalled, stallStep, duration, unit, slowed, factor] = found
  if (slowed !== undefined) return { rank: Number(slowed), step: null, fault: { kind: 'slow', factor: Number(factor) } }
  if (stalled !== undefined) {
    const seconds = Number(duration) / (unit === 'ms' ? 1000 : 1)
    return { rank: Number(stalled), step: Number(stallStep), fault: { kind: 'stall', seconds, moment: random() } }
  }
  const fault: Fault =
    kind === 'flood' ? { kind } : { kind: kind as Exclude<Strike['kind'], 'stall'>, moment: random() }
  return { rank: Number(rank), step: Number(step), fault }
}
