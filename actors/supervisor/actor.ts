// Conducts the ranks: deals out each step, has the next batch filled meanwhile, adds up what they report. When one rank fails, the
// communicator is aborted at once, so that no other waits for it, and the supervisor fails with the first cause: that ends all of them.
// Its next life, where its budget of restarts has one left, renews the communicator and spawns them again.
import { setTimeout as sleep } from 'node:timers/promises'
import { abortGroup, groupProgress, renewGroup } from '../../native/index.js'
import { type ActorContext, type Behaviour, defineActor } from '../../runtime/actor/definition.js'
import { ActorError } from '../../runtime/actor/errors.js'
import type { ActorRef, AskOptions } from '../../runtime/actor/protocol.js'
import { dataLoader } from '../data-loader/actor.js'
import type { DataLoaderProtocol } from '../data-loader/protocol.js'
import { isConsequence } from '../engine/failure.js'
import { rank } from '../rank/actor.js'
import type { RankProtocol, StepOrder } from '../rank/protocol.js'
import type { SupervisorArgs, SupervisorProtocol, TrainOrder } from './protocol.js'
import { looks, StallWatch } from './stall.js'
import { combine, emptySlots, type Slots, slotOf, takeSlot } from './state.js'

interface SupervisorState {
  readonly args: SupervisorArgs
  readonly ranks: readonly ActorRef<RankProtocol>[]
  readonly loader: ActorRef<DataLoaderProtocol> | null
  slots: Slots
  /** Slots of the steps under way, the oldest first. */
  readonly busy: number[]
  /** The batch that is being filled ahead. */
  ahead: Promise<unknown> | null
}

/** What takes as long as it takes: ranks that do nothing are noticed otherwise. */
const patient = { deadline: 2 ** 31 - 1 }

/**
 * Asks ranks and waits for all. The first failure aborts the communicator; once all have answered, the one that others follow from is
 * thrown. A rank that makes no progress for `stallSeconds` is taken for hung, and its worker ended.
 */
async function askRanks<T>(
  { args, ranks }: SupervisorState,
  context: ActorContext<SupervisorProtocol>,
  indices: readonly number[],
  ask: (ref: ActorRef<RankProtocol>, index: number) => Promise<T>,
): Promise<T[]> {
  const { stallSeconds } = args
  const { token } = args.ranks
  const failures: unknown[] = []
  const abort = (): void => abortGroup(token, 'the run is being stopped')
  context.signal.addEventListener('abort', abort, { once: true })
  const pending = new Set(indices)
  const watch = new StallWatch(ranks.length)
  const timer = setInterval(
    () => {
      const hung = watch.look(groupProgress(token), pending)
      if (hung === null) return
      clearInterval(timer)
      ranks[hung]!.abandon(`it made no progress for ${stallSeconds} s`).catch(() => {})
    },
    (stallSeconds * 1000) / looks,
  )
  const settled = await Promise.allSettled(
    indices.map(async (index) => {
      try {
        return await ask(ranks[index]!, index)
      } catch (error) {
        if (failures.push(error) === 1) abortGroup(token, `rank ${index} failed`)
        throw error
      } finally {
        pending.delete(index)
      }
    }),
  )
  clearInterval(timer)
  context.signal.removeEventListener('abort', abort)
  if (failures.length > 0) throw failures.find((error) => !isConsequence(error)) ?? failures[0]
  return settled.map((result) => (result as PromiseFulfilledResult<T>).value)
}

const everyRank = <T>(
  state: SupervisorState,
  context: ActorContext<SupervisorProtocol>,
  ask: (ref: ActorRef<RankProtocol>, index: number) => Promise<T>,
): Promise<T[]> => askRanks(state, context, [...state.ranks.keys()], ask)

/** Asks the data loader, whose worker is ended where it does not answer in time. */
async function askLoader<T>(
  { args, loader }: SupervisorState,
  ask: (ref: ActorRef<DataLoaderProtocol>, options: AskOptions) => Promise<T>,
): Promise<T> {
  const { stallSeconds } = args
  try {
    return await ask(loader!, { deadline: stallSeconds * 1000 })
  } catch (error) {
    if (error instanceof ActorError && error.code === 'ASK_TIMEOUT')
      loader!.abandon(`it gave no batch for ${stallSeconds} s`).catch(() => {})
    throw error
  }
}

async function fill(state: SupervisorState, sample: number): Promise<number> {
  await state.ahead
  const held = slotOf(state.slots, sample)
  if (held !== undefined) return held
  const { slots, slot } = takeSlot(state.slots, sample, state.busy)
  state.slots = slots
  await askLoader(state, (ref, options) => ref.ask({ type: 'fill', slot, sample }, options))
  return slot
}

const orderOf = (order: TrainOrder, slot: number, rank: number): StepOrder => {
  const faults = order.faults?.[rank] ?? []
  const { step, sample, scalars, profile } = order
  return { step, slot, sample, scalars, profile, ...(faults.length > 0 && { faults }) }
}

/** Fills a rank's mailbox while it is busy, then asks like a sender that cannot wait. */
async function flood(ref: ActorRef<RankProtocol>): Promise<void> {
  for (let refused = 0; refused < 3; refused = ref.tell({ type: 'held' }) ? 0 : refused + 1) {
    if (refused > 0) await sleep(5)
  }
  await ref.ask({ type: 'held' }, { deadline: 500 })
}

const behaviour: Behaviour<SupervisorProtocol, SupervisorState, SupervisorArgs> = {
  async init(context, args) {
    const { token } = args.ranks
    const graceMs = args.stallSeconds * 1000
    if (context.restarts > 0) await renewGroup(token, graceMs)
    const ranks = await Promise.all(
      Array.from({ length: token.ranks }, (_, index) =>
        context.spawn(
          rank,
          { ...args.ranks, rank: index },
          { name: `rank-${index}`, worker: index, strategy: 'one-for-group', group: 'ranks', maxRestarts: 0, graceMs },
        ),
      ),
    )
    const loader =
      args.loader &&
      (await context.spawn(dataLoader, args.loader, {
        name: 'data-loader',
        worker: args.serviceWorker,
        maxRestarts: 0,
      }))
    return { args, ranks, loader, slots: emptySlots(Math.max(0, args.ranks.slots.length - 1)), busy: [], ahead: null }
  },

  receive: {
    async initialize(state, message, context) {
      await everyRank(state, context, (ref) => ref.ask({ ...message, type: 'initialize' }, patient))
    },

    async refresh(state, message, context) {
      await everyRank(state, context, (ref) => ref.ask({ ...message, type: 'refresh' }, patient))
    },

    held: (state, _message, context) => everyRank(state, context, (ref) => ref.ask({ type: 'held' }, patient)),

    async train(state, { orders }, context) {
      const dealt: { order: TrainOrder; slot: number }[] = []
      for (const order of orders) {
        const slot = order.slot ?? (await fill(state, order.sample))
        state.busy.push(slot)
        dealt.push({ order, slot })
      }
      const nextSample = orders.at(-1)?.nextSample ?? null
      if (nextSample !== null) {
        state.ahead = fill(state, nextSample)
        state.ahead.catch(() => {})
      }
      const reports = await everyRank(state, context, async (ref, index) => {
        const own = dealt.map(({ order, slot }) => orderOf(order, slot, index))
        const step = ref.ask({ type: 'step', orders: own }, patient)
        if (own.some(({ faults }) => faults?.some(({ kind }) => kind === 'flood')))
          await Promise.all([step, flood(ref)])
        return step
      })
      state.busy.shift()
      return combine(reports)
    },

    async diagnose(state, { order }, context) {
      const slot = order.slot ?? (await fill(state, order.sample))
      const found = await everyRank(state, context, (ref, index) =>
        ref.ask({ type: 'diagnose', order: orderOf({ ...order, faults: [] }, slot, index) }, patient),
      )
      return found.filter((diagnosis) => diagnosis !== null)
    },

    async evaluate(state, _message, context) {
      const { micro } = state.args.ranks.batch
      const samples = state.args.loader!.evaluation!.samples
      const rows = micro * state.ranks.length
      let loss = 0
      let tokens = 0
      for (let first = 0; first < samples; first += rows) {
        await state.ahead
        const { slots, slot } = takeSlot(state.slots, null, state.busy)
        state.slots = slots
        tokens += await askLoader(state, (ref, options) =>
          ref.ask({ type: 'fillEvaluation', slot, first, rows }, options),
        )
        const sums = await everyRank(state, context, (ref) => ref.ask({ type: 'evaluate', slot }, patient))
        for (const sum of sums) loss += sum
      }
      return { loss: loss / tokens, tokens }
    },

    async forward(state, { tokens, logits }, context) {
      await everyRank(state, context, (ref) => ref.ask({ type: 'forward', tokens, logits }, patient))
    },

    async read(state, { rank: index, arena, regions, target }, context) {
      await askRanks(state, context, [index], (ref) => ref.ask({ type: 'read', arena, regions, target }, patient))
    },

    async write(state, { rank: index, arena, regions, bytes }, context) {
      await askRanks(state, context, [index], (ref) => ref.ask({ type: 'write', arena, regions, bytes }, patient))
    },
  },
}

export const supervisor = defineActor(import.meta.url, 'supervisor', behaviour)
