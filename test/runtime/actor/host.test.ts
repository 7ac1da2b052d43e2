// The turns of a host, with a transport that hands it control between two chosen handlers: how soon that acts, counted in handlers.
import test from 'ava'
import { CreditTable } from '../../../runtime/actor/credits.js'
import { defineActor } from '../../../runtime/actor/definition.js'
import {
  type Address,
  type Clock,
  type Envelope,
  letterOf,
  type Order,
  type Transport,
} from '../../../runtime/actor/envelope.js'
import { Host } from '../../../runtime/actor/host.js'

/** A host with actors that write down what they do; `at` is called before the n-th message is handled, `heard` between two. */
async function start(names: readonly string[], at: (n: number, host: Host, clock: { ms: number }) => void) {
  const log: string[] = []
  const time = { ms: 1 }
  let handled = 0
  let control: Order[] = []
  const clock: Clock = {
    now: () => time.ms,
    after: () => ({ cancel() {}, hold() {} }),
    soon: (run) => queueMicrotask(run),
    later: (run) => setImmediate(run),
  }
  const transport: Transport = {
    tell: () => true,
    send: () => true,
    roomy: () => true,
    awaitRoom: async () => {},
    attend: () => {
      const orders = control
      control = []
      for (const order of orders) host.receive(order)
      return orders.length > 0
    },
  }
  const credits = CreditTable.create(8, 2)
  const host = new Host({ system: 'test', index: 1, credits, transport, clock })
  const definition = defineActor(import.meta.url, 'noter', {
    init: (context) => context.path,
    receive: {
      note(path) {
        at(++handled, host, time)
        log.push(path)
      },
    },
    onTerminated: (path) => log.push(`${path} noticed`),
    stop: (path) => log.push(`${path} stopped`),
  })
  const addresses = names.map((path, n): Address => ({ id: n + 1, path, host: 1, slot: n }))
  for (const address of addresses) {
    const spec = { address, parent: null, definition: definition.here, args: undefined, capacity: 1000, worker: 0 }
    host.receive({ kind: 'start', spec: { ...spec, incarnation: 0, survived: undefined, logLevel: 'info' } })
  }
  await new Promise(setImmediate)
  const send = (envelope: Envelope): void => host.receive(envelope)
  return {
    log,
    addresses,
    order: (order: Order) => control.push(order),
    notes: (to: Address, count: number) => {
      for (let n = 0; n < count; n++) {
        const life = credits.take(to.slot, to.id)
        send(letterOf(to, life, null, { type: 'note' }))
      }
    },
    idle: async () => {
      for (let turns = 0; turns < 50; turns++) await new Promise(setImmediate)
    },
  }
}

const cause = { kind: 'stopped', message: 'it was stopped' } as const

test('a notice is handled after the handler that runs, whoever else has messages waiting', async (t) => {
  const host = await start(['busy', 'busier', 'watcher'], (n) => {
    if (n === 20) host.order({ kind: 'terminated', watcher: 3, ref: host.addresses[0]!, cause, restarting: false })
  })
  host.notes(host.addresses[0]!, 60)
  host.notes(host.addresses[1]!, 60)
  host.notes(host.addresses[2]!, 2)
  await host.idle()
  t.is(host.log.length, 123)
  t.is(host.log.indexOf('watcher noticed'), 20)
})

test('an order to stop acts on the actor that has its turn', async (t) => {
  const host = await start(['busy'], (n) => {
    if (n === 20) host.order({ kind: 'stop', id: 1, cause, force: false })
  })
  host.notes(host.addresses[0]!, 60)
  await host.idle()
  t.deepEqual(host.log, [...Array(20).fill('busy'), 'busy stopped'])
})

test('after control was heard the event loop turns in time, though handlers were fast before', async (t) => {
  let immediate = 0
  let startedAt = 0
  const host = await start(['busy', 'young'], (n, _host, clock) => {
    if (n === 17) {
      host.order({ kind: 'inspect', id: 1 })
      setImmediate(() => {
        immediate = host.log.length
      })
      startedAt = n
    }
    if (n >= 17) clock.ms += 5
  })
  host.notes(host.addresses[0]!, 60)
  await host.idle()
  t.is(host.log.length, 60)
  t.true(immediate - startedAt <= 1, `the event loop turned after ${immediate - startedAt} handlers of 5 ms`)
})
