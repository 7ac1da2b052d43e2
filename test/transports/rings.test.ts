// Rings, fixed layouts and wires, against simple models of them; and what the threads' system promises of its lanes.
import { setTimeout as sleep } from 'node:timers/promises'
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads'
import ava from 'ava'
import fc from 'fast-check'
import { type Address, type Envelope, type Inbox, type Letter, letterOf } from '../../runtime/actor/envelope.js'
import { ActorError } from '../../runtime/actor/errors.js'
import { layoutText } from '../../runtime/actor/layout.js'
import type { RefHost } from '../../runtime/actor/ref.js'
import { fixedLayout } from '../../transports/codec/fixed.js'
import { ActorSystem } from '../../transports/index.js'
import { RingReader, RingWriter, ringMemory } from '../../transports/local/ring.js'
import { WireIn, WireOut, wireMemory } from '../../transports/local/wire.js'
import { echo, meter, recorder } from './cast.js'

const test = ava.serial

test('a ring is a queue: any records, written and read in any turns, come out once and in order', (t) => {
  const step = fc.oneof(
    fc.record({ op: fc.constant('write'), units: fc.integer({ min: 1, max: 12 }) }),
    fc.record({ op: fc.constantFrom('read', 'publish'), units: fc.constant(0) }),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const memory = ringMemory(256)
      const writer = new RingWriter(memory)
      const reader = new RingReader(memory)
      let written = 0
      let read = 0
      const readAll = () => {
        for (let kind = reader.next(); kind !== 0; kind = reader.next(), read++) {
          t.is(kind, 1 + (read % 7))
          t.is(reader.int32[reader.at * 2 + 1], read)
          const units = reader.int32[reader.at * 2]! & 0xffffff
          t.is(reader.int32[(reader.at + units) * 2 - 1], read)
        }
        reader.release()
      }
      for (const { op, units } of steps) {
        if (op === 'write') {
          writer.begin(1 + (written % 7), units)
          writer.int32[writer.at * 2 + 1] = written
          writer.int32[(writer.at + units) * 2 - 1] = written
          written++
        } else if (op === 'publish') writer.publish()
        else readAll()
      }
      do {
        writer.publish()
        readAll()
      } while (writer.waiting > 0)
      t.is(read, written)
      t.is(writer.waiting, 0)
    }),
    { numRuns: 200 },
  )
})

test('a reader wakes a writer that waits for room, once, and not before there is much', (t) => {
  const memory = ringMemory(256)
  const writer = new RingWriter(memory)
  const reader = new RingReader(memory)
  for (let n = 0; n < 8; n++) writer.begin(1, 4)
  writer.publish()
  t.false(writer.roomy)
  t.true(writer.awaitRoom())
  reader.next()
  t.false(reader.release())
  for (let n = 0; n < 5; n++) reader.next()
  t.true(reader.release())
  t.false(reader.release())
  t.true(writer.roomy)
})

const fields = fc.dictionary(
  fc.string({ minLength: 1 }).filter((name) => name !== 'type' && name !== '__proto__'),
  fc.constantFrom('f64' as const, 'i32' as const, 'u32' as const, 'bool' as const),
  { maxKeys: 12, noNullPrototype: true },
)
const fitting = {
  f64: fc.double(),
  i32: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  u32: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  bool: fc.boolean(),
}

test('a message of any layout comes back equal', (t) => {
  const some = fields.chain((layout) =>
    fc.record({
      layout: fc.constant(layout),
      values: fc.record(Object.fromEntries(Object.entries(layout).map(([name, kind]) => [name, fitting[kind]]))),
    }),
  )
  fc.assert(
    fc.property(some, ({ layout, values }) => {
      const type = fixedLayout(layoutText('any', { message: layout })).byName.get('message')!
      const float64 = new Float64Array(type.units + 3)
      const int32 = new Int32Array(float64.buffer)
      t.is(type.write({ type: 'message', ...values }, float64, int32, 2), '')
      t.deepEqual(type.read(float64, int32, 2), { type: 'message', ...values } as never)
      t.is(float64[type.units + 2], 0)
    }),
    { numRuns: 200 },
  )
})

test('a value that does not fit its field is named', (t) => {
  const type = fixedLayout(layoutText('x', { m: { d: 'f64', i: 'i32', u: 'u32', b: 'bool' } })).byName.get('m')!
  const memory = new Float64Array(8)
  const write = (message: object) => type.write(message as never, memory, new Int32Array(memory.buffer), 0)
  const good = { d: 0.5, i: -1, u: 2 ** 31, b: true }
  t.is(write(good), '')
  const wrong: [string, unknown][] = [
    ['d', '1'],
    ['d', undefined],
    ['i', 0.5],
    ['i', 2 ** 31],
    ['u', -1],
    ['u', Number.NaN],
    ['b', 1],
  ]
  for (const [field, value] of wrong) t.is(write({ ...good, [field]: value }), field)
  t.throws(() => layoutText('x', { m: { a: 'f16' as never } }), { code: 'BAD_OPTION', message: /"m" of x.*f16/ })
  t.throws(() => layoutText('x', { m: { type: 'f64' } }), { code: 'BAD_OPTION', message: /besides the type/ })
})

const host = { system: 'here' } as RefHost
const addressOf = (id: number): Address => ({ id, path: `a/${id}`, host: 1, slot: id })

/** Both ends of a wire on this thread. */
function wire(maxBytes = 1 << 24) {
  const memory = wireMemory()
  const { port1, port2 } = new MessageChannel()
  const got: Envelope[] = []
  const take = (envelope: Envelope): void => void got.push(envelope)
  const out = new WireOut(memory, port1, maxBytes, () => host)
  const pull = (): boolean => {
    const next = receiveMessageOnPort(port2) as { message: never } | undefined
    if (next) into.aside(next.message)
    return next !== undefined
  }
  const inbox: Inbox = {
    receive: take,
    arrive: (to, life, from, message) => take(letterOf(to, life, from, message)),
    begin: () => {},
    end: () => {},
  }
  const into: WireIn = new WireIn(memory, 0, pull, () => host, inbox)
  const post = ({ to, life, from, message, ask }: Letter): void => out.letter(to, life, from, message, ask)
  const flush = (): void => {
    out.letters.publish()
    out.control.publish()
    into.drain(Number.POSITIVE_INFINITY)
    into.letters.release()
    into.control.release()
  }
  return { out, into, got, post, flush, close: () => port1.close() }
}

const letterTo = (to: Address, message: object, ask: Letter['ask'] = null, from: Address | null = null): Letter =>
  letterOf(to, 3, from, message as Letter['message'], ask)

test('values of all sizes go through ring, arena or port, and come back in order', (t) => {
  const { out, got, post, flush, close } = wire()
  const sent: Envelope[] = []
  for (const bytes of [10, 9000, 500_000, 20, 3_000_000, 9000, 2_000_000, 1]) {
    const message = { type: 'blob', bytes: new Uint8Array(bytes).fill(bytes % 251), name: 'x'.repeat(bytes % 40) }
    const letter = letterTo(addressOf(bytes), message)
    sent.push(letter)
    post(letter)
    if (bytes === 20) flush()
  }
  flush()
  t.deepEqual(got, sent)
  t.is(out.letters.beside(0), 0)
  close()
})

test('addresses, chains and shapes of records are told once, and hold for thousands of senders', (t) => {
  const { got, post, flush, close } = wire()
  const sent: Envelope[] = []
  const layout = layoutText('x', { add: { amount: 'f64' } })
  for (let n = 0; n < 10_000; n++) {
    const to = n % 3 === 0 ? { ...addressOf(1), layout } : addressOf(2)
    const chain = n % 5 === 0 ? [addressOf(n + 10), addressOf(n + 11)] : []
    const ask = n % 2 === 0 ? { id: n + 1, host: 0, chain } : null
    const message = n % 3 === 0 ? { type: 'add', amount: n / 2 } : { type: 'say', [`k${n % 90}`]: { n, deep: [n] } }
    const letter = letterTo(to, message, ask, n % 7 === 0 ? null : addressOf(n + 10))
    sent.push(letter)
    post(letter)
    if (n % 100 === 0) flush()
  }
  flush()
  t.deepEqual(got, sent)
  close()
})

test('what could not be sent leaves the wire as it was', (t) => {
  const { got, post, flush, close } = wire(1000)
  const layout = layoutText('x', { add: { amount: 'f64' } })
  const to = { ...addressOf(1), layout }
  const letters: Letter[] = []
  for (let n = 0; n < 20; n++) {
    const fresh = { type: 'say', [`a${n}`]: 1 }
    t.throws(() => post(letterTo(to, { ...fresh, big: 'x'.repeat(2000) })), {
      instanceOf: ActorError,
      code: 'TOO_LARGE',
      message: /a message of \d+ bytes, expected at most 1000/,
    })
    t.throws(() => post(letterTo(to, { ...fresh, odd: () => 1 })), {
      code: 'NOT_SERIALISABLE',
      message: /message\.odd.*a function/,
    })
    t.throws(() => post(letterTo(to, { type: 'add', amount: 'much' })), {
      code: 'NOT_SERIALISABLE',
      message: /amount of "add" to a\/1, expected f64 as its layout says, got much/,
    })
    const letter = letterTo(to, fresh)
    letters.push(letter)
    post(letter)
  }
  flush()
  t.deepEqual(got, letters)
  close()
})

test('shared memory is posted twice at most, and the other end forgets what is used no more', (t) => {
  const { into, got, post, flush, close } = wire()
  const known = () => (into as unknown as { shared: Map<number, unknown>[] }).shared.map((map) => map.size)
  const often = new SharedArrayBuffer(8)
  for (let n = 0; n < 1000; n++) {
    post(letterTo(addressOf(1), { type: 't', often, once: new Int8Array(new SharedArrayBuffer(8)) }))
    if (n % 100 === 0) flush()
  }
  flush()
  new Int32Array(often)[1] = 42
  for (const letter of got) {
    const { message } = letter as unknown as { message: { often: SharedArrayBuffer } }
    t.is(new Int32Array(message.often)[1], 42)
  }
  t.deepEqual(known(), [1, 0])
  const many = Array.from({ length: 600 }, (_, i) => {
    const memory = new SharedArrayBuffer(8)
    new Int32Array(memory)[0] = i
    return memory
  })
  for (let round = 0; round < 3; round++) {
    for (const memory of many) post(letterTo(addressOf(1), { type: 't', memory }))
    flush()
    const back = got.splice(0).slice(-600) as unknown as { message: { memory: SharedArrayBuffer } }[]
    t.true(back.every(({ message }, i) => new Int32Array(message.memory)[0] === i))
  }
  t.true(known()[0]! <= 257)
  close()
})

test('letters that fill the lane do not hold back control, and none of them is lost', async (t) => {
  const system = await ActorSystem.start({ workers: 2 })
  t.teardown(() => system.stop())
  const slow = await system.spawn(recorder, undefined, { worker: 0, mailbox: { capacity: 1_000_000 } })
  const other = await system.spawn(echo, undefined, { worker: 0 })
  slow.tell({ type: 'block', ms: 300 })
  let n = 0
  while (slow.tell({ type: 'note', by: 0, n })) n++
  t.true(n < 1_000_000)
  await other.stop()
  await slow.ready()
  const seen = await slow.ask({ type: 'all' })
  t.deepEqual(
    seen.map((note) => note.n),
    Array.from({ length: n }, (_, i) => i),
  )
})

test('a message over the limit is one clear error, at tell, ask and reply', async (t) => {
  const system = await ActorSystem.start({ workers: 1, maxMessageBytes: 10_000 })
  t.teardown(() => system.stop())
  const ref = await system.spawn(echo)
  const value = 'x'.repeat(20_000)
  t.throws(() => ref.tell({ type: 'echo', value }), { instanceOf: ActorError, code: 'TOO_LARGE' })
  await t.throwsAsync(ref.ask({ type: 'echo', value }), { instanceOf: ActorError, code: 'TOO_LARGE' })
  t.is(await ref.ask({ type: 'echo', value: 'small' }), 'small')
  t.is((await system.inspect()).actors[0]?.mailbox.depth, 0)
})

test('messages of a fixed layout reach a handler as they were, from thread to thread and within one', async (t) => {
  const system = await ActorSystem.start({ workers: 1 })
  t.teardown(() => system.stop())
  for (const worker of [0, 'main'] as const) {
    const ref = await system.spawn(meter, undefined, { worker })
    t.true(ref.tell({ type: 'add', amount: 0.5, id: -3, up: true }))
    t.deepEqual(await ref.ask({ type: 'add', amount: 0.25, id: 4, up: false }), { amount: 0.75, ids: [-3, 4], ups: 1 })
  }
  const ref = await system.spawn(meter, undefined, { worker: 0 })
  t.throws(() => ref.tell({ type: 'add', amount: 1, id: 0.5, up: true }), {
    code: 'NOT_SERIALISABLE',
    message: /id of "add" to meter-\d, expected i32 as its layout says, got 0.5/,
  })
})

for (const worker of [0, 'main'] as const) {
  test(`past its capacity a mailbox refuses, fails or drops the oldest, as it was told: ${worker}`, async (t) => {
    const system = await ActorSystem.start({ workers: 1 })
    t.teardown(() => system.stop())
    const dead: unknown[] = []
    system.events$.subscribe((event) => event.type === 'dead-letter' && dead.push(event.message))
    const start = (overflow: 'fail' | 'drop-oldest') =>
      system.spawn(recorder, undefined, { worker, mailbox: { capacity: 3, overflow } })
    const failing = await start('fail')
    // Blocks its thread, so that what follows waits.
    const tells = (ref: typeof failing, count: number) => {
      for (let n = 0; n < count; n++) ref.tell({ type: 'note', by: 0, n })
    }
    failing.tell({ type: 'block', ms: 200 })
    await sleep(50)
    t.throws(() => tells(failing, 10), { instanceOf: ActorError, code: 'MAILBOX_FULL' })
    const dropping = await start('drop-oldest')
    dropping.tell({ type: 'block', ms: worker === 'main' ? 0 : 200 })
    if (worker === 0) await sleep(50)
    tells(dropping, 10)
    const all = await dropping.ask({ type: 'all' })
    t.deepEqual(
      all.map((note) => note.n),
      [8, 9],
    )
    t.true(dead.length >= 7)
    const { actors } = await system.inspect()
    t.deepEqual(
      actors.map((actor) => actor.mailbox.depth),
      [0, 0],
    )
  })
}
