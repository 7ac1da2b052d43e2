// The codec: what it carries comes back equal, what is shared comes back the same, and the rest is one clear error.
import test from 'ava'
import fc from 'fast-check'
import { ActorError } from '../../runtime/actor/errors.js'
import { Ref, type RefHost } from '../../runtime/actor/ref.js'
import { decode, encode } from '../../transports/codec/codec.js'

const host = { system: 'here' } as RefHost
const there = { system: 'here' } as RefHost
const round = (value: unknown): unknown => decode(encode(value, host), there)

test('plain data comes back equal', (t) => {
  const leaf = fc.oneof(
    fc.constantFrom(
      undefined,
      null,
      true,
      Number.NaN,
      -0,
      Number.POSITIVE_INFINITY,
      2 ** 53,
      2n ** 80n,
      -(2n ** 64n),
      '',
    ),
    fc.double(),
    fc.integer(),
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }),
    fc.string({ unit: 'grapheme' }),
    fc.date({ noInvalidDate: true }),
    fc.float64Array(),
    fc.uint8Array(),
  )
  const { tree } = fc.letrec((tie) => ({
    tree: fc.oneof(
      { depthSize: 'small' },
      leaf,
      fc.array(tie('tree')),
      fc.dictionary(
        fc.string().filter((key) => key !== '__proto__'),
        tie('tree'),
        { noNullPrototype: true },
      ),
      fc.array(fc.tuple(fc.string(), tie('tree'))).map((entries) => new Map(entries)),
      fc.array(fc.integer()).map((items) => new Set(items)),
    ),
  }))
  fc.assert(
    fc.property(tree, (value) => {
      t.deepEqual(round(value), value)
    }),
    { numRuns: 300 },
  )
})

test('every typed array over private memory is copied, over shared memory it is the same memory', (t) => {
  const kinds = [Int8Array, Uint8ClampedArray, Uint16Array, Int32Array, Float32Array, Float64Array, BigInt64Array]
  for (const Kind of kinds as (new (
    memory: ArrayBufferLike,
    byteOffset?: number,
    length?: number,
  ) => Int8Array)[]) {
    const own = new Kind(new ArrayBuffer(32))
    const copy = round({ own }) as { own: typeof own }
    t.deepEqual(copy.own, own)
    t.not(copy.own.buffer, own.buffer)
    const memory = new SharedArrayBuffer(64)
    const view = new Kind(memory, 16, 3)
    const back = round([view, memory, new DataView(memory, 8)]) as [typeof view, SharedArrayBuffer, DataView]
    t.is(back[0].constructor, Kind)
    t.is(back[0].buffer as ArrayBufferLike, memory)
    t.is(back[0].byteOffset, 16)
    t.is(back[0].length, 3)
    t.is(back[1], memory)
    t.is(back[2].byteOffset, 8)
    t.is(back[2].buffer as ArrayBufferLike, memory)
  }
  t.is(encode([new Int8Array(new SharedArrayBuffer(1 << 20))], host).bytes.length < 100, true)
})

test('errors keep class, name, code, details, message, stack and cause', (t) => {
  const root = Object.assign(new RangeError('root'), { code: 'E_ROOT', helper: () => 1 })
  const error = new ActorError('ASK_CYCLE', 'outer', { list: [1, { deep: 2n }] }, { cause: root })
  const back = round({ error }) as { error: ActorError }
  t.true(back.error instanceof ActorError)
  const { code, message, name, stack, details } = back.error
  t.deepEqual(
    { code, message, name, stack, details },
    {
      code: 'ASK_CYCLE',
      message: 'outer',
      name: 'ActorError',
      stack: error.stack,
      details: { list: [1, { deep: 2n }] },
    },
  )
  const cause = back.error.cause as typeof root
  t.true(cause instanceof RangeError)
  t.is(cause.code, 'E_ROOT')
  t.is(cause.stack, root.stack)
  t.is(String(cause.helper), '() => 1')
  class Custom extends Error {
    override name = 'Custom'
  }
  const custom = round(new Custom('mine', { cause: 'words' })) as Error
  t.true(custom instanceof Error)
  t.deepEqual([custom.name, custom.message, custom.cause], ['Custom', 'mine', 'words'])
})

test('a ref comes back bound to the receiving host', (t) => {
  const address = { id: 3, path: 'a/b', host: 1, slot: 9 }
  const back = round({ to: [new Ref(host, address)] }) as { to: [Ref] }
  t.deepEqual(back.to[0].address, address)
  t.is(back.to[0].host, there)
})

test('what cannot travel is refused, naming the place', (t) => {
  const circle: { self?: unknown } = {}
  circle.self = circle
  const cases: [unknown, RegExp][] = [
    [{ a: { b: [0, () => 1] } }, /^encode: a\.b\.1, .* got a function$/],
    [new Map([['k', Symbol('s')]]), /got a symbol$/],
    [() => 1, /^encode: the value itself, /],
    [{ later: Promise.resolve() }, /^encode: later, .* got a Promise$/],
    [circle, /got a circle, or nesting deeper than 500$/],
    [
      new Ref({ system: 'elsewhere' } as RefHost, { id: 1, path: 'x', host: 0, slot: 0 }),
      /got a ref of another system, elsewhere$/,
    ],
  ]
  for (const [value, message] of cases) {
    t.throws(() => encode(value, host), { instanceOf: ActorError, code: 'NOT_SERIALISABLE', message })
  }
  t.deepEqual(round({ still: 'works' }), { still: 'works' })
})
