// The parts of the actor core that are plain data structures and rules, against simple models of them.
import test from 'ava'
import fc from 'fast-check'
import { CreditTable, down, full, maxCapacity } from '../../../runtime/actor/credits.js'
import { ActorError } from '../../../runtime/actor/errors.js'
import { Queue, Room } from '../../../runtime/actor/queue.js'
import { Random } from '../../../runtime/actor/random.js'
import { HandlerTimes } from '../../../runtime/actor/stats.js'
import { fallTogether, policyOf, RestartBudget, samePolicy, unitName } from '../../../runtime/actor/supervision.js'

test('a queue is an array with push, shift and removal', (t) => {
  const command = fc.oneof(
    fc.record({ op: fc.constant('push'), n: fc.nat(5) }),
    fc.record({ op: fc.constant('shift'), n: fc.constant(0) }),
    fc.record({ op: fc.constant('remove'), n: fc.nat(5) }),
  )
  fc.assert(
    fc.property(fc.array(command, { maxLength: 400 }), (commands) => {
      const queue = new Queue<number>()
      const model: number[] = []
      for (const { op, n } of commands) {
        if (op === 'push') {
          queue.push(n)
          model.push(n)
        } else if (op === 'shift') t.is(queue.shift(), model.shift())
        else {
          const at = model.indexOf(n)
          t.is(
            queue.remove((item) => item === n),
            at < 0 ? undefined : model.splice(at, 1)[0],
          )
        }
        t.is(queue.size, model.length)
      }
    }),
  )
  t.pass()
})

test('of many queues, those that grew last keep room; one that holds something keeps its items', (t) => {
  const room = new Room(3)
  const queues = Array.from({ length: 8 }, () => new Queue<number>(room))
  const kept = () => queues.map((queue) => (queue as unknown as { slots: unknown[] }).slots.length)
  for (const [n, queue] of queues.entries()) {
    for (let i = 0; i < 20; i++) queue.push(i)
    // The second stays full, the others are emptied.
    if (n !== 1) while (queue.size > 0) queue.shift()
  }
  t.is(kept().filter((length) => length > 16).length, 3)
  t.deepEqual(kept().slice(-2), [32, 32])
  t.is(kept()[0], 0)
  // All are in use at once, and then none is.
  for (const queue of queues) for (let i = 0; i < 20; i++) queue.push(i)
  t.is(kept().filter((length) => length > 16).length, 8)
  for (const queue of queues.toSpliced(1, 1)) while (queue.size > 0) queue.shift()
  t.is(kept().filter((length) => length > 16).length, 3)
  for (let i = 0; i < 40; i++) t.is(queues[1]!.shift(), i % 20)
  for (const queue of queues) {
    queue.push(7)
    t.is(queue.shift(), 7)
  }
})

test('credits: never more out than the capacity, and none of an earlier life comes back', (t) => {
  const command = fc.oneof(
    fc.record({ op: fc.constantFrom('take', 'give', 'stale', 'close'), capacity: fc.constant(1) }),
    fc.record({ op: fc.constant('open'), capacity: fc.integer({ min: 1, max: 4 }) }),
  )
  fc.assert(
    fc.property(fc.array(command, { maxLength: 200 }), (commands) => {
      const table = CreditTable.create(2)
      let model: { life: number; capacity: number; out: number } | null = null
      let capacity = 1
      let past = -1
      for (const step of commands) {
        if (step.op === 'open') {
          if (model) continue
          capacity = step.capacity
          model = { life: table.open(1, 7, capacity), capacity, out: 0 }
          t.not(model.life, past)
        } else if (step.op === 'take') {
          const got = table.take(1, 7)
          t.is(got, !model ? down : model.out === model.capacity ? full : model.life)
          if (model && got >= 0) model.out++
        } else if (step.op === 'give') {
          if (!model?.out) continue
          table.give(1, model.life)
          model.out--
        } else if (step.op === 'stale') table.give(1, past)
        else {
          t.is(table.close(1, capacity), model?.out ?? 0)
          if (model) past = model.life
          model = null
        }
        t.is(table.left(1, 7), model ? model.capacity - model.out : down)
        t.is(table.take(1, 8), down)
      }
    }),
  )
})

test('credits on loan: of two hosts, what is lent, sent and left is the capacity, and a loan of an earlier life is void', (t) => {
  const command = fc.oneof(
    fc.record({ op: fc.constantFrom('lend', 'spend', 'end'), host: fc.nat(1), n: fc.integer({ min: 1, max: 64 }) }),
    fc.record({ op: fc.constantFrom('take', 'handle', 'restart'), host: fc.constant(0), n: fc.constant(1) }),
  )
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 100 }), fc.array(command, { maxLength: 200 }), (capacity, commands) => {
      const table = CreditTable.create(4, 2)
      let life = table.open(3, 9, capacity)
      // Of the present life: messages sent and not handled, and what each host has on loan.
      let out = 0
      const lent = [
        { life, left: 0 },
        { life, left: 0 },
      ]
      const onLoan = () => lent.reduce((sum, loan) => sum + (loan.life === life ? loan.left : 0), 0)
      for (const { op, host, n } of commands) {
        const words = table.loan(host)
        const loan = lent[host]!
        const left = capacity - out - onLoan()
        if (op === 'lend') {
          table.endLoan(words)
          loan.left = 0
          const free = capacity - out - onLoan()
          const got = table.lend(words, 3, 9, n)
          t.is(got, free === 0 ? full : life)
          if (got === full) continue
          t.is(words[2], Math.min(n, 1 + (free >> 2)))
          Object.assign(loan, { life, left: words[2] })
        } else if (op === 'spend') {
          if (loan.left === 0) continue
          words[2]!--
          loan.left--
          if (loan.life === life) out++
        } else if (op === 'end') {
          table.endLoan(words)
          loan.left = 0
        } else if (op === 'take') {
          t.is(table.take(3, 9), left === 0 ? full : life)
          if (left > 0) out++
        } else if (op === 'handle') {
          if (out === 0) continue
          table.give(3, life)
          out--
        } else {
          t.is(table.close(3, capacity), out)
          t.is(table.lend(words, 3, 9, 1), down)
          life = table.open(3, 9, capacity)
          out = 0
        }
        t.is(table.left(3, 9), capacity - out - onLoan())
        t.is(table.room(3, 9), capacity - out)
      }
    }),
    { numRuns: 300 },
  )
})

test('credits: life numbers wrap without touching the credits', (t) => {
  const table = CreditTable.create(1)
  for (let i = 0; i < 5000; i++) {
    const life = table.open(0, 1, maxCapacity)
    t.is(table.take(0, 1), life)
    t.is(table.left(0, 1), maxCapacity - 1)
    t.is(table.close(0, maxCapacity), 1)
  }
})

test('times of handlers: the count of all, percentiles of the latest 120 that were timed, within 2 %', (t) => {
  const ms = fc.double({ min: -4, max: 7, noNaN: true }).map((exponent) => 10 ** exponent)
  fc.assert(
    fc.property(fc.array(ms, { maxLength: 1500 }), (runs) => {
      const times = new HandlerTimes()
      const timed: number[] = []
      for (const run of runs) {
        if (!times.begin()) continue
        times.note(run)
        timed.push(run)
      }
      const expectedTimed = runs.filter((_, n) => n < 64 || (n + 1) % 16 === 0)
      t.deepEqual(timed, expectedTimed)
      const view = times.view()
      t.is(view.count, runs.length)
      const sorted = timed.slice(-120).toSorted((a, b) => a - b)
      for (const [name, quantile] of [
        ['p50', 0.5],
        ['p90', 0.9],
        ['p99', 0.99],
        ['max', 1],
      ] as const) {
        const truth = sorted[Math.ceil(quantile * sorted.length) - 1] ?? 0
        if (truth < 0.001) t.is(view[name], 0)
        else t.true(Math.abs(view[name] / truth - 1) < 0.02, `${name} ${view[name]} of ${truth}`)
      }
    }),
    { numRuns: 50 },
  )
})

test('a restart budget counts within its window and backs off exponentially', (t) => {
  const policy = { maxRestarts: 3, withinMs: 1000, backoff: { initial: 10, factor: 3, max: 50, jitter: 0 } }
  const budget = new RestartBudget()
  t.deepEqual(
    [0, 100, 200, 300, 999, 1000, 1050, 1100].map((now) => budget.spend(now, policy, new Random(1))),
    [10, 30, 50, null, null, 50, null, 50],
  )
  t.is(new RestartBudget().spend(0, { ...policy, maxRestarts: 0 }, new Random(1)), null)
})

test('spawn options: defaults, and one error per wrong value', (t) => {
  t.like(policyOf({}, 2), { capacity: 1000, strategy: 'one-for-one', maxRestarts: 3, withinMs: 60_000 })
  const wrong: [Parameters<typeof policyOf>[0], RegExp][] = [
    [{ name: 'a/b' }, /name, expected a name without "\/", got a\/b/],
    [{ worker: 2 }, /worker, expected "main" or 0 to 1, got 2/],
    [{ mailbox: { capacity: 0 } }, /mailbox\.capacity, expected 1 to 1048575, got 0/],
    [{ mailbox: { bytes: 0 } }, /mailbox\.bytes, expected 1 to 1099511627776, got 0/],
    [
      { mailbox: { bytes: 9, overflow: 'drop-oldest' } },
      /mailbox\.overflow, expected refuse or fail, for the mailbox counts/,
    ],
    [
      { strategy: 'one-for-two' as never },
      /strategy, expected one-for-one, rest-for-one, one-for-group, one-for-all, got one-for-two/,
    ],
    [{ strategy: 'one-for-group' }, /group, expected a name/],
    [{ maxRestarts: -1 }, /maxRestarts/],
    [{ withinMs: Number.NaN }, /withinMs/],
    [{ graceMs: -1 }, /graceMs/],
    [{ backoff: { factor: 0.5 } }, /backoff/],
    [{ backoff: { jitter: 1.5 } }, /backoff\.jitter, expected 0 to 1, got 1\.5/],
    [{ logLevel: 'loud' as never }, /logLevel, expected fatal, error, warn, info, debug, trace, silent, got loud/],
  ]
  for (const [options, message] of wrong)
    t.throws(() => policyOf(options, 2), { instanceOf: ActorError, code: 'BAD_OPTION', message })
  t.throws(() => policyOf({ worker: 0 }, 0), { message: /expected "main", for the system has no workers, got 0/ })
})

test('two policies are the same only where every option is', (t) => {
  const other: Parameters<typeof policyOf>[0][] = [
    { mailbox: { capacity: 7 } },
    { mailbox: { overflow: 'fail' } },
    { mailbox: { bytes: 7 } },
    { strategy: 'one-for-all' },
    { group: 'g' },
    { maxRestarts: 7 },
    { withinMs: 7 },
    { backoff: { initial: 7 } },
    { backoff: { factor: 7 } },
    { backoff: { max: 77 } },
    { backoff: { jitter: 0.7 } },
    { graceMs: 7 },
    { logLevel: 'warn' },
  ]
  t.is(
    other.length,
    Object.keys(policyOf({}, 2)).length - 1 + Object.keys(policyOf({}, 2).backoff).length,
    'every option is here',
  )
  const all = [{}, ...other]
  for (const options of all)
    for (const others of all) t.is(samePolicy(policyOf(options, 2), policyOf(others, 2)), options === others)
})

test('who falls together', (t) => {
  const actors = [
    { strategy: 'one-for-group', group: 'a' },
    { strategy: 'one-for-one', group: 'a' },
    { strategy: 'one-for-all' },
    { strategy: 'rest-for-one' },
    { strategy: 'one-for-group', group: 'b' },
  ].map((options, id) => ({ id, policy: policyOf(options as never, 0) }))
  const falls = actors.map((actor) => fallTogether(actor, actors).map((each) => each.id))
  t.deepEqual(falls, [[0, 1], [1], [0, 1, 2, 3, 4], [3, 4], [4]])
  t.deepEqual(actors.map(unitName), ['group a', 'one 1', 'all', 'rest', 'group b'])
})
