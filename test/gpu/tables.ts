// Findings as tables for people.
import type { GpuMachine } from '../../native/index.js'
import { groupBy } from '../../runtime/graph/partition/build.js'
import { formatBytes } from '../../runtime/observe/index.js'
import type { Ceilings, HostRates } from './ceilings.js'
import { deepSpeedName, scaledDeepSpeed } from './deepspeed.js'
import type { KernelFinding } from './kernels.js'
import type { TrainMode } from './models.js'
import type { OpFinding } from './ops.js'
import { type AttentionPeer, besides, type PeerFinding } from './peers.js'
import type { SpeedFinding } from './speed.js'
import type { TrainingFinding } from './training.js'

/** Cells in columns, the first line their heads. Columns but the first two are set to the right where all is numbers. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows]
  const widths = head.map((_, column) => Math.max(...all.map((line) => line[column]!.length)))
  const numeric = head.map((_, column) =>
    rows.every((line) => /^(-|inf|[\d.,e+x% -]+( [KMGT]?i?B)?)?$/.test(line[column]!)),
  )
  const lines = all.map((line) =>
    line
      .map((cell, column) => (numeric[column] ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
      .join('  ')
      .trimEnd(),
  )
  return `${lines.join('\n')}\n`
}

/** Of a number that JSON turned into null where it was infinite. */
const scientific = (value: number | null): string =>
  value === null ? 'inf' : value === 0 ? '0' : value.toExponential(1)

export function machineText({ devices, driver, cublasLt, nccl, reason }: GpuMachine): string {
  const gpus = devices.map(
    ({ name, compute, multiprocessors, memoryBytes, freeBytes }, i) =>
      `GPU ${i}: ${name}, compute ${compute}, ${multiprocessors} multiprocessors, ${formatBytes(freeBytes)} of ${formatBytes(memoryBytes)} free\n`,
  )
  const versions = `driver ${driver ?? 'none'}, cublasLt ${cublasLt ?? 'none'}, NCCL ${nccl ?? 'none'}, Node ${process.version}\n`
  return `${gpus.join('')}${versions}${reason === undefined ? '' : `${reason}\n`}`
}

/** Each op with its worst dtype's figures, and a line for everything that was wrong. */
export function opsTable(findings: readonly OpFinding[]): string {
  const byOp = groupBy(findings, ({ op }) => op)
  const cell = (all: readonly OpFinding[], float: string): string => {
    const found = all.find((finding) => finding.float === float)
    if (!found || found.cases + found.wrong.length === 0) return '-'
    const verdict = found.broken ? 'broke' : found.wrong.length > 0 ? 'WRONG' : 'ok'
    return `${verdict} ${scientific(found.error)} (${found.share === null ? 'inf' : (100 * found.share).toFixed(0)} %)`
  }
  const rows = [...byOp].map(([op, all]) => [
    op,
    String(all.reduce((sum, { cases }) => sum + cases, 0)),
    ...['f32', 'bf16', 'f16'].map((float) => cell(all, float)),
  ])
  const wrong = findings.flatMap(({ float, wrong: lines }) => lines.map((line) => `  ${float} ${line}\n`))
  const head = ['op: largest error (of what is allowed)', 'cases', 'f32', 'bf16', 'f16']
  return `${table(head, rows)}${wrong.length > 0 ? `\n${wrong.join('')}` : ''}`
}

export const trainingTable = (findings: readonly TrainingFinding[]): string =>
  table(
    ['check', '', 'got'],
    findings.map(({ check, ok, got }) => [check, ok ? 'ok' : 'WRONG', got]),
  )

const gibibytes = (bytes: number | null): string => (bytes === null ? '-' : (bytes / 2 ** 30).toFixed(2))

const modeNames: Readonly<Record<TrainMode, string>> = {
  bf16: 'bf16',
  stochastic: 'bf16 without masters',
  fp32: 'fp32',
  tf32: 'tf32',
}

/** Ours and the peers', a row each. In bf16 the residual stream is bf16 in ours and in `compile-bf16`, fp32 under autocast. */
export function speedTable(ours: readonly SpeedFinding[], peers: readonly PeerFinding[]): string {
  const rows = ours.flatMap((own) => {
    const { shape, ranks, stage, mode, offload } = own
    const name = `${shape} B=${own.rows} x ${ranks}`
    const beside = offload
      ? []
      : peers.filter((peer) => peer.shape === shape && peer.ranks === ranks && besides[mode].includes(peer.mode))
    const deepSpeed = mode === 'bf16' ? scaledDeepSpeed(shape, ranks, offload ? 'offload' : stage, peers) : null
    return [
      [
        `${name}, ZeRO ${stage}, ${modeNames[mode]}${offload ? ', optimizer on the host' : ''}`,
        own.ms.toFixed(1),
        own.freeMs?.toFixed(1) ?? '-',
        own.tokensPerSecond.toFixed(0),
        '',
        own.teraflops.toFixed(0),
        gibibytes(own.reserved),
        gibibytes(own.planned),
        gibibytes(own.grown),
        gibibytes(own.context),
        `${(100 * own.javascript).toFixed(2)} %`,
      ],
      ...beside.map(({ mode, ms, tokensPerSecond, peak }) => [
        `  PyTorch ${mode}`,
        ms.toFixed(1),
        '-',
        tokensPerSecond.toFixed(0),
        (own.tokensPerSecond / tokensPerSecond).toFixed(3),
        '-',
        gibibytes(peak),
        '-',
        '-',
        '-',
        '-',
      ]),
      ...(deepSpeed === null
        ? []
        : [
            [
              `  ${deepSpeedName}`,
              '-',
              '-',
              deepSpeed.toFixed(0),
              (own.tokensPerSecond / deepSpeed).toFixed(3),
              ...Array(6).fill('-'),
            ],
          ]),
    ]
  })
  const head = [
    'training',
    'ms',
    'ms in a row',
    'tokens/s',
    'ours x',
    'TFLOP/s',
    'GiB used',
    'planned',
    'driver',
    'context',
    'JS',
  ]
  return table(head, rows)
}

const rates = (ms: number, flops: number, bytes: number, { heldTeraflops, copyTerabytes }: Ceilings): string[] => {
  const [teraflops, terabytes] = [flops / ms / 1e9, bytes / ms / 1e9]
  const part = Math.max(teraflops / heldTeraflops, terabytes / copyTerabytes)
  return [teraflops.toFixed(1), terabytes.toFixed(2), `${(100 * part).toFixed(0)} %`]
}

export const ceilingsText = ({ burstTeraflops, heldTeraflops, copyTerabytes }: Ceilings): string =>
  `ceilings: bf16 product ${burstTeraflops.toFixed(0)} TFLOP/s in a burst, ${heldTeraflops.toFixed(0)} held; copy ${copyTerabytes.toFixed(2)} TB/s read and written\n`

export const hostText = ({ cores, memory, down, up }: HostRates): string =>
  `host: memory ${memory.toFixed(0)} GB/s on ${cores} cores; copies to it ${down.toFixed(1)} GB/s, to the GPU ${up.toFixed(1)} GB/s\n`

/** Where a step goes, by op and phase. `of` is the part of the nearer ceiling. */
export function profileTable({ shape, profile, ms }: SpeedFinding, limits: Ceilings): string {
  const total = profile.reduce((sum, row) => sum + row.ms, 0)
  const rows = profile.map((row) => [
    row.op,
    row.phase,
    row.calls.toFixed(0),
    row.ms.toFixed(2),
    `${((100 * row.ms) / total).toFixed(1)} %`,
    ...rates(row.ms, row.flops, row.bytes, limits),
  ])
  const head = [`${shape} by instruction`, 'phase', 'calls', 'ms', 'share', 'TFLOP/s', 'TB/s', 'of']
  return `${table(head, rows)}sum ${total.toFixed(1)} ms, a step without measuring ${ms.toFixed(1)} ms\n`
}

export function kernelTable(
  findings: readonly KernelFinding[],
  limits: Ceilings,
  peers: readonly AttentionPeer[],
): string {
  const times = (kernel: string, ms: number): string =>
    peers
      .filter((peer) => peer.kernel === kernel)
      .map((peer) => `${peer.backend} ${(peer.ms / ms).toFixed(2)}`)
      .join(', ')
  const rows = findings.map(({ kernel, ms, flops, bytes }) => [
    kernel,
    ms.toFixed(3),
    ...rates(ms, flops, bytes, limits),
    times(kernel, ms),
  ])
  return table(['kernel', 'ms', 'TFLOP/s', 'TB/s', 'of', 'ours x of PyTorch'], rows)
}
