// Every op on the GPU against the reference, in f32, bf16 and f16, with fresh random inputs, poisoned outputs and in-place forms.
import { createInterface } from 'node:readline'
import { referenceKernels } from '../../kernels/reference/index.js'
import type { DeviceName } from '../../native/index.js'
import { distance, floats, onDevices, pairsOf, prepareCase, samePlacedBits } from '../support/consistency.js'
import { type OpCase, opCases } from '../support/op-cases.js'
import { gpuCases } from './cases.js'
import type { Tell } from './work.js'

export interface OpsRequest {
  readonly device: DeviceName
  readonly seed: number
  /** Leaves out the large cases. */
  readonly quick: boolean
}

/** What one op did in one dtype. */
export interface OpFinding {
  readonly unit: number
  readonly op: string
  readonly float: string
  /** Calls compared, in-place forms not counted. */
  readonly cases: number
  /** Cases of one rank among several, whose communicator would wait for the others. */
  readonly left: number
  /** Largest absolute error, and the largest as a part of what is allowed. */
  readonly error: number
  readonly share: number
  /** What was wrong, a line each, the first few. */
  readonly wrong: readonly string[]
  /** Whether the device failed, so that what followed was not compared. */
  readonly broken: boolean
}

/** An op in one dtype, in the order of their numbers. */
export const units = floats.flatMap((float) => [...referenceKernels.keys()].map((op) => ({ op, float })))

const most = 5

const casesOf = (quick: boolean): readonly OpCase[] => (quick ? opCases : [...opCases, ...gpuCases])

/** The numbers of the units of some ops, those with many cases first. */
export function unitsOf(ops: readonly string[], quick: boolean): number[] {
  const counts = new Map<string, number>()
  for (const { op } of casesOf(quick)) counts.set(op, (counts.get(op) ?? 0) + 1)
  const count = (unit: number): number => counts.get(units[unit]!.op) ?? 0
  return [...units.keys()].filter((unit) => ops.includes(units[unit]!.op)).sort((a, b) => count(b) - count(a))
}

/** Compares the units whose numbers come in, until one breaks the device. */
export async function compareOps({ device: name, seed, quick }: OpsRequest, tell: Tell): Promise<void> {
  const all = casesOf(quick)
  for await (const line of createInterface({ input: process.stdin })) {
    const unit = JSON.parse(line) as number
    const { op, float } = units[unit]!
    const cases = all.filter((c) => c.op === op).flatMap((c) => prepareCase(c, float, name, seed) ?? [])
    const here = cases.filter(({ c }) => c.ranks === 1)
    const wrong: string[] = []
    let [error, share, done] = [0, 0, 0]
    let at = ''
    const tellUnit = (broken: boolean): void =>
      tell({ unit, op, float, cases: done, left: cases.length - here.length, error, share, wrong, broken })
    try {
      await onDevices(name, here, { threads: 1 }, async (device, prepared) => {
        const { c, inputs, expected, bounds } = prepared
        at = c.title
        const got = await device.run(c, inputs)
        got.forEach((tensor, o) => {
          const away = distance(tensor, expected[o]!, bounds?.[o] ?? null)
          error = Math.max(error, away.error)
          share = Math.max(share, away.share)
          if (away.wrong !== null && wrong.length < most) wrong.push(`${c.title}: output ${o}: ${away.wrong}`)
        })
        for (const pair of pairsOf(prepared)) {
          const over = await device.run(c, inputs, pair)
          over.forEach((tensor, o) => {
            const away = samePlacedBits(op, name)
              ? distance(tensor, got[o]!, null)
              : distance(tensor, expected[o]!, bounds?.[o] ?? null)
            const where = `output ${o} where ${pair[1]} lies over input ${pair[0]}`
            if (away.wrong !== null && wrong.length < most) wrong.push(`${c.title}: ${where}: ${away.wrong}`)
          })
        }
        done += 1
      })
      tellUnit(false)
    } catch (failure) {
      wrong.push(`${at}: ${failure instanceof Error ? failure.message : failure}`)
      tellUnit(true)
      return
    }
  }
}
