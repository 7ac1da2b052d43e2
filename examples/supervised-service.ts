// A service whose worker crashes, and which goes on: `node dist/examples/supervised-service.js`.
// The till adds up payments on a worker thread; one payment in five makes it throw, one ends its whole thread. Its supervisor restarts
// it with growing waits, its sum survives because it says so, and clients find it by name and try again.
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread } from 'node:worker_threads'
import { type ActorError, ActorSystem, defineActor, type RefOf, serviceKey, viewText } from '../transports/index.js'

export const till = defineActor(import.meta.url, 'till', {
  init(context, _args: undefined, survived?: { sum: number; payments: number[] }) {
    context.log.info({ life: context.restarts, sum: survived?.sum ?? 0 }, 'the till is open')
    return { sum: survived?.sum ?? 0, payments: new Set(survived?.payments) }
  },
  receive: {
    /** Paying twice with one number is paying once, so a client may try again. */
    pay(state, message: { number: number; amount: number }, context) {
      if (state.payments.has(message.number)) return state.sum
      if (message.number % 5 === 3 && Math.random() < 0.5) throw new Error(`payment ${message.number} jams the till`)
      if (message.number === 7 && context.restarts < 3) process.exit(1)
      state.sum += message.amount
      state.payments.add(message.number)
      context.survive()
      return state.sum
    },
    sum: (state) => state.sum,
  },
  survive: (state) => ({ sum: state.sum, payments: [...state.payments] }),
})

const tills = serviceKey<{ pay(message: { number: number; amount: number }): number; sum(): number }>('till')

/** Owns the till. */
export const shop = defineActor(import.meta.url, 'shop', {
  async init(context): Promise<{ till: RefOf<typeof till> }> {
    const ref = await context.spawn(till, undefined, {
      name: 'till',
      worker: 0,
      strategy: 'rest-for-one',
      maxRestarts: 50,
      backoff: { initial: 5, max: 100, jitter: 0.3 },
    })
    await context.receptionist.register(tills, ref)
    return { till: ref }
  },
  receive: {},
})

async function main(): Promise<void> {
  await using system = await ActorSystem.start({ workers: 1, seed: 7 })
  system.events$.subscribe((event) => {
    if (event.type === 'failed') console.log(`  ${event.actor} failed, ${event.outcome}: ${event.cause.message}`)
    if (event.type === 'restarted') console.log(`  ${event.actor} is back, restart ${event.restarts}`)
  })
  await system.spawn(shop, undefined, { name: 'shop', worker: 'main' })
  const [ref] = await system.receptionist.find(tills)

  let expected = 0
  for (let number = 1; number <= 20; number++) {
    expected += number
    for (let paid = false; !paid; ) {
      try {
        console.log(`payment ${number}: the sum is ${await ref!.ask({ type: 'pay', number, amount: number })}`)
        paid = true
      } catch (error) {
        console.log(`payment ${number}: ${(error as ActorError).code}, again`)
        await ref!.ready()
      }
    }
  }
  const sum = await ref!.ask({ type: 'sum' })
  console.log(`sum ${sum}, expected ${expected}`)
  await sleep(10)
  console.log(viewText(await system.inspect()))
  if (sum !== expected) process.exitCode = 1
}

if (isMainThread) await main()
