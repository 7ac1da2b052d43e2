// The batch triad: train_batch_size = train_micro_batch_size_per_gpu x gradient_accumulation_steps x W, where W is the number of
// data-parallel ranks. Resolved only when W is known; a failure shows all four numbers and the nearest settings that work.
import { ConfigError } from './error.js'

/** The three sizes as a configuration gives them; null where it leaves one open. */
export interface BatchRequest {
  readonly train: number | null
  readonly micro: number | null
  readonly accumulation: number | null
}

export interface BatchSizes {
  /** Samples of one optimizer step, over all ranks. */
  readonly train: number
  /** Samples that one rank takes in one micro-step. */
  readonly micro: number
  /** Micro-steps of one optimizer step. */
  readonly accumulation: number
  /** W: data-parallel ranks. */
  readonly world: number
}

const keys = {
  train: 'train_batch_size',
  micro: 'train_micro_batch_size_per_gpu',
  accumulation: 'gradient_accumulation_steps',
} as const

/**
 * Fills in what is open (section 13 of the configuration rules) and checks the equation. `origin` says where W came from.
 * Throws {@link ConfigError} `CONFIG_BATCH`.
 */
export function resolveBatch(
  request: BatchRequest,
  world: number,
  origin = `${world} ranks`,
  source = 'config',
): BatchSizes {
  const { train, micro, accumulation } = request
  if (train === null && micro === null) {
    const given = accumulation === null ? 'neither' : `only ${keys.accumulation} ${accumulation}`
    throw new ConfigError(source, [
      {
        code: 'CONFIG_BATCH',
        key: `${keys.train} or ${keys.micro}`,
        expected: `at least one of them (W ${world}, from ${origin}; for example ${keys.micro} 1, or ${keys.train} ${world * (accumulation ?? 1)})`,
        got: given,
      },
    ])
  }
  const steps = accumulation ?? (train !== null && micro !== null ? Math.floor(Math.floor(train / micro) / world) : 1)
  const rows = micro ?? Math.floor(Math.floor(train! / world) / steps)
  const batch = train ?? rows * steps * world
  if (rows > 0 && steps > 0 && batch === rows * steps * world)
    return { train: batch, micro: rows, accumulation: steps, world }

  const part = (name: keyof typeof keys, value: number): string =>
    `${keys[name]} ${value}${request[name] === null ? ' (derived)' : ''}`
  throw new ConfigError(source, [
    {
      code: 'CONFIG_BATCH',
      key: 'batch sizes',
      expected: `${keys.train} = ${keys.micro} x ${keys.accumulation} x W, all positive (nearest: ${remedies(request, batch, world).join('; ')})`,
      got: `${part('train', batch)}, ${part('micro', rows)}, ${part('accumulation', steps)}, W ${world} (from ${origin})`,
    },
  ])
}

/** Settings that satisfy the equation and change as little as can be. The global batch is always given where it fails. */
function remedies({ micro, accumulation }: BatchRequest, train: number, world: number): string[] {
  const unit = (micro ?? 1) * (accumulation ?? 1) * world
  const below = Math.floor(train / unit)
  const batches =
    micro !== null && accumulation !== null ? [unit] : below > 0 ? [below * unit, (below + 1) * unit] : [unit, 2 * unit]
  const found = [`${keys.train} ${batches.join(' or ')}`]
  const perRank = train / world
  if (!Number.isInteger(perRank)) return found
  if (micro !== null && accumulation !== null && perRank % micro === 0)
    found.push(`${keys.accumulation} ${perRank / micro}`)
  if (micro !== null && perRank % micro !== 0) {
    const rows = nearestDivisor(perRank, micro)
    found.push(`${keys.micro} ${rows} with ${keys.accumulation} ${perRank / rows}`)
  }
  if (accumulation !== null && perRank % accumulation === 0 && micro !== null)
    found.push(`${keys.micro} ${perRank / accumulation}`)
  if (accumulation !== null && perRank % accumulation !== 0 && micro === null) {
    const steps = nearestDivisor(perRank, accumulation)
    found.push(`${keys.accumulation} ${steps} with ${keys.micro} ${perRank / steps}`)
  }
  return found
}

function nearestDivisor(value: number, wanted: number): number {
  for (let distance = 0; ; distance++) {
    for (const candidate of [wanted - distance, wanted + distance]) {
      if (candidate > 0 && value % candidate === 0) return candidate
    }
  }
}
