// The actors of a run with their memory and batches. Raised for a run, and again where a checkpoint brings another order of samples.
import { createGroup, type DeviceGroup } from '../../native/index.js'
import type { ActorRef } from '../../runtime/actor/protocol.js'
import { slotBytes } from '../../runtime/data/slot.js'
import type { ActorSystem } from '../../transports/index.js'
import { supervisor } from '../supervisor/actor.js'
import type { SupervisorProtocol } from '../supervisor/protocol.js'
import { slotShape } from './batch.js'
import { EngineError } from './errors.js'
import { explain } from './failure.js'
import type { Prepared } from './prepare.js'

/** Longer than any work: ends of ranks, signals and stops end an ask, not the clock. */
export const patient = { deadline: 2 ** 31 - 1 }
/** Batches in shared memory: two that ranks read, one that is filled ahead, one that the caller brings. */
export const slotCount = 4

/** The actors and memory of a run. */
export interface Troupe {
  readonly group: DeviceGroup
  readonly slots: readonly SharedArrayBuffer[]
  readonly supervisor: ActorRef<SupervisorProtocol>
}

/** A budget of restarts for the whole run. */
export const withRestarts = (maxRestarts: number) => ({ maxRestarts, withinMs: Number.POSITIVE_INFINITY })

const shared = (bytes: Uint8Array): Uint8Array => {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length))
  copy.set(bytes)
  return copy
}

/** What a troupe is raised with beside what is prepared. */
export interface Raising {
  readonly seed: number
  readonly shuffle: boolean
  /** Failures that it may recover from. */
  readonly restarts: number
}

/** Reserves the group's memory and spawns its actors. The supervisor fails with any of them, and restarts as often as it may. */
export async function raise(
  prepared: Prepared,
  system: ActorSystem,
  { seed, shuffle, restarts }: Raising,
): Promise<Troupe> {
  const { config, compilation, cores, device, isa, options, ranks, stallSeconds, threads } = prepared
  const batch = slotShape(prepared)
  const group = createGroup({
    device,
    ranks,
    arenas: compilation.plan.arenas,
    hostArenas: compilation.plan.hostArenas,
    ...(isa && { isa }),
    ...(options.gpu && { gpu: options.gpu }),
  })
  try {
    const slots = options.data ? Array.from({ length: slotCount }, () => new SharedArrayBuffer(slotBytes(batch))) : []
    const programs = Object.fromEntries(
      Object.entries(compilation.programs).map(([name, { bytes }]) => [name, shared(bytes)]),
    )
    const ref = await system.spawn(
      supervisor,
      {
        ranks: {
          token: group.token,
          threads,
          cores,
          programs,
          slots,
          batch: { ...batch, accumulation: config.batch.accumulation },
        },
        loader: options.data
          ? {
              source: options.data.handle,
              evaluation: options.evalData ? options.evalData.handle : null,
              seed,
              shuffle,
              slots,
              batch,
            }
          : null,
        serviceWorker: ranks,
        stallSeconds,
      },
      { worker: 'main', ...withRestarts(restarts) },
    )
    return { group, slots, supervisor: ref }
  } catch (error) {
    await group.close()
    throw new EngineError(
      'ENGINE_RANK_FAILED',
      `initialize: ranks, expected all to start, got ${explain(error)}`,
      {},
      { cause: error },
    )
  }
}

export async function lower({ group, supervisor: ref }: Troupe): Promise<void> {
  await ref.stop()
  await group.close()
}
