// Conducts the ranks: deals out each step, has the next batch filled meanwhile, adds up what they report. When one rank fails, the
// communicator is aborted at once, so that no other waits for it, and the supervisor fails with the first cause.
import { abortGroup } from '../../native/index.js'
import { type ActorContext, type Behaviour, defineActor } from '../../runtime/actor/definition.js'
import type { ActorRef } from '../../runtime/actor/protocol.js'
import { dataLoader } from '../data-loader/actor.js'
import type { DataLoaderProtocol } from '../data-loader/protocol.js'
import { isConsequence } from '../engine/failure.js'
import { rank } from '../rank/actor.js'
import type { RankProtocol, StepOrder } from '../rank/protocol.js'
import type { SupervisorArgs, SupervisorProtocol, TrainOrder } from './protocol.js'
import { combine, emptySlots, type Slots, slotOf, takeSlot } from './state.js'

interface SupervisorState {
  readonly args: SupervisorArgs
  readonly ranks: readonly ActorRef<RankProtocol>[]
  readonly loader: ActorRef<DataLoaderProtocol> | null
  slots: Slots
  /** The batch that is being filled ahead. */
  ahead: Promise<unknown> | null
}

/** A step may take as long as it takes: a rank that dies ends it, and so does the run's signal. */
const patient = { deadline: 2 ** 31 - 1 }

/** Asks every rank and waits for all. The first failure aborts the communicator; once all have answered, the one that others follow from is thrown. */
async function everyRank<T>(
  state: SupervisorState,
  context: ActorContext<SupervisorProtocol>,
  ask: (ref: ActorRef<RankProtocol>, index: number) => Promise<T>,
): Promise<T[]> {
  const failures: unknown[] = []
  const abort = (): void => abortGroup(state.args.ranks.token, 'the run is being stopped')
  context.signal.addEventListener('abort', abort, { once: true })
  const settled = await Promise.allSettled(
    state.ranks.map(async (ref, index) => {
      try {
        return await ask(ref, index)
      } catch (error) {
        if (failures.push(error) === 1) abortGroup(state.args.ranks.token, `rank ${index} failed`)
        throw error
      }
    }),
  )
  context.signal.removeEventListener('abort', abort)
  if (failures.length > 0) throw failures.find((error) => !isConsequence(error)) ?? failures[0]
  return settled.map((result) => (result as PromiseFulfilledResult<T>).value)
}

async function fill(state: SupervisorState, sample: number, busy: number | null): Promise<number> {
  await state.ahead
  const held = slotOf(state.slots, sample)
  if (held !== undefined) return held
  const { slots, slot } = takeSlot(state.slots, sample, busy)
  state.slots = slots
  await state.loader!.ask({ type: 'fill', slot, sample }, patient)
  return slot
}

const orderOf = (order: TrainOrder, slot: number): StepOrder => ({
  step: order.step,
  slot,
  sample: order.sample,
  scalars: order.scalars,
  profile: order.profile,
})

/** Fills a rank's mailbox while it is busy, then asks like a sender that cannot wait. */
async function flood(ref: ActorRef<RankProtocol>): Promise<void> {
  while (ref.tell({ type: 'optimizer' }));
  await ref.ask({ type: 'optimizer' }, { deadline: 500 })
}

const behaviour: Behaviour<SupervisorProtocol, SupervisorState, SupervisorArgs> = {
  async init(context, args) {
    const { token } = args.ranks
    const ranks = await Promise.all(
      Array.from({ length: token.ranks }, (_, index) =>
        context.spawn(
          rank,
          { ...args.ranks, rank: index },
          { name: `rank-${index}`, worker: index, strategy: 'one-for-group', group: 'ranks', maxRestarts: 0 },
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
    return { args, ranks, loader, slots: emptySlots(Math.max(0, args.ranks.slots.length - 1)), ahead: null }
  },

  receive: {
    async initialize(state, { seed }, context) {
      await everyRank(state, context, (ref) => ref.ask({ type: 'initialize', seed }, patient))
    },

    async refresh(state, _message, context) {
      await everyRank(state, context, (ref) => ref.ask({ type: 'refresh' }, patient))
    },

    async train(state, order, context) {
      const slot = order.slot ?? (await fill(state, order.sample, null))
      const { nextSample } = order
      state.ahead = nextSample === null ? null : fill(state, nextSample, slot)
      state.ahead?.catch(() => {})
      const reports = await everyRank(state, context, async (ref, index) => {
        const faults = order.faults?.[index] ?? []
        const step = ref.ask({ type: 'step', ...orderOf(order, slot), faults }, patient)
        if (faults.some(({ kind }) => kind === 'flood')) await Promise.all([step, flood(ref)])
        return step
      })
      return combine(reports)
    },

    async diagnose(state, order, context) {
      const slot = order.slot ?? (await fill(state, order.sample, null))
      const found = await everyRank(state, context, (ref) =>
        ref.ask({ type: 'diagnose', ...orderOf(order, slot) }, patient),
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
        const { slots, slot } = takeSlot(state.slots, null, null)
        state.slots = slots
        tokens += await state.loader!.ask({ type: 'fillEvaluation', slot, first, rows }, patient)
        const sums = await everyRank(state, context, (ref) => ref.ask({ type: 'evaluate', slot }, patient))
        for (const sum of sums) loss += sum
      }
      return { loss: loss / tokens, tokens }
    },

    async forward(state, { tokens, logits }, context) {
      await everyRank(state, context, (ref) => ref.ask({ type: 'forward', tokens, logits }, patient))
    },

    async read(state, { rank: index, arena, regions, target }) {
      const ref = state.ranks[index]!
      if (arena !== 'optimizer') return ref.ask({ type: 'read', arena, regions, target }, patient)
      const optimizer = await ref.ask({ type: 'optimizer' })
      return optimizer.ask({ type: 'read', regions, target }, patient)
    },

    async write(state, { rank: index, arena, regions, bytes }) {
      const ref = state.ranks[index]!
      if (arena !== 'optimizer') return ref.ask({ type: 'write', arena, regions, bytes }, patient)
      const optimizer = await ref.ask({ type: 'optimizer' })
      return optimizer.ask({ type: 'write', regions, bytes }, patient)
    },
  },
}

export const supervisor = defineActor(import.meta.url, 'supervisor', behaviour)
