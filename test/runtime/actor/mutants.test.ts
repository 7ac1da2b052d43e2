// The explorer can fail: bugs planted in the supervisor, in credits and in mailboxes are found within a thousand interleavings, the
// failure names its seed, that seed alone fails in the same way, and without the bug it passes.
import test from 'ava'
import { Cell } from '../../../runtime/actor/cell.js'
import { CreditTable } from '../../../runtime/actor/credits.js'
import { Host } from '../../../runtime/actor/host.js'
import { Recovery } from '../../../runtime/actor/recovery.js'
import { RestartBudget } from '../../../runtime/actor/supervision.js'
import { explore } from '../../../transports/testing.js'
import { recovery, supervision } from '../../support/interleavings.js'

// biome-ignore lint/suspicious/noExplicitAny: any method of any class
type Method = (this: any, ...args: any[]) => unknown

/** A class whose method is wrong in one way. */
interface Mutant {
  /** Where it does not show: the order matters in a group only, and sets that overlap are only where strategies are mixed. */
  readonly notIn?: string
  readonly of: { readonly prototype: object }
  readonly method: string
  readonly wrong: (right: Method) => Method
}

const mixed = (seed: number) => supervision(seed, ['one-for-one', 'rest-for-one', 'one-for-all', 'one-for-group'])

const mutants: Record<string, Mutant> = {
  'a budget that is never spent': {
    of: RestartBudget,
    method: 'spend',
    wrong: (right) =>
      function (now, policy, random) {
        return right.call(this, now, { ...policy, maxRestarts: 1e9 }, random)
      },
  },
  'a group that forgets its last member': {
    of: Recovery,
    method: 'membersOf',
    wrong: (right) =>
      function (...args) {
        const members = right.apply(this, args) as unknown[]
        return members.length > 1 ? members.slice(0, -1) : members
      },
  },
  'members that start last first': {
    of: Recovery,
    notIn: 'supervisor',
    method: 'startAll',
    wrong: (right) =>
      function (members: unknown[]) {
        return right.call(this, members.toReversed())
      },
  },
  'failures while the members end that nobody sees to': {
    of: Recovery,
    notIn: 'recovery',
    method: 'endMore',
    wrong: () => async () => {},
  },
  'a mailbox that takes messages for an earlier life': {
    of: Cell,
    method: 'deliver',
    wrong: (right) =>
      function (letter) {
        return right.call(this, { ...letter, life: this.life })
      },
  },
  'a credit that is given back to whoever lives now': {
    of: CreditTable,
    method: 'give',
    wrong: (right) =>
      function (slot, _life, count = 1) {
        const words: Int32Array = this.words
        return right.call(this, slot, Atomics.load(words, slot * 2 + 1) >>> 21, count)
      },
  },
  'a credit that is not given back': {
    of: CreditTable,
    method: 'give',
    wrong: () => () => undefined,
  },
  'messages that nobody hears of when a life ends': { of: Host, method: 'undeliverable', wrong: () => () => undefined },
}

const seedOf = (message: string): number => Number(/seed (\d+) of/.exec(message)?.[1])

for (const [name, { of, notIn, method, wrong }] of Object.entries(mutants)) {
  for (const [where, scenario] of [
    ['supervisor', mixed],
    ['recovery', recovery],
  ] as const) {
    if (where === notIn) continue
    test.serial(`${name}: found in the ${where}, and its seed repeats it`, async (t) => {
      const prototype = of.prototype as Record<string, Method>
      const right = prototype[method]!
      const once = async (firstSeed: number): Promise<string> =>
        (await t.throwsAsync(explore(async (seed) => void (await scenario(seed)), { runs: 1, firstSeed })))!.message
      prototype[method] = wrong(right)
      let seed: number
      try {
        const error = await t.throwsAsync(explore(async (each) => void (await scenario(each)), { runs: 1000 }))
        seed = seedOf(error!.message)
        t.true(seed >= 1 && seed <= 1000, error!.message)
        t.log(error!.message)
        const again = await once(seed)
        t.is(again.replace(/.*got /, ''), error!.message.replace(/.*got /, ''))
        t.is(await once(seed), again)
      } finally {
        prototype[method] = right
      }
      await t.notThrowsAsync(explore(async (each) => void (await scenario(each)), { runs: 1, firstSeed: seed }))
    })
  }
}
