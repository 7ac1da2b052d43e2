// Random failures at random moments, over seeded interleavings: whatever happens, every ask settles, what survives works, every
// credit is back, and a stop leaves nothing. fast-check prints the seed and the shortest sequence of a failure.
import test from 'ava'
import fc from 'fast-check'
import type { ActorError, SystemEvent } from '../../../transports/index.js'
import { LoopbackSystem } from '../../../transports/loopback/system.js'
import { mortal, parent } from '../../transports/cast.js'

const known = new Set(['DEAD_ACTOR', 'HANDLER_FAILED', 'MAILBOX_FULL', 'ASK_TIMEOUT'])

const step = fc.oneof(
  fc.record({ do: fc.constant('kill'), who: fc.nat(2), ms: fc.nat(40) }),
  fc.record({ do: fc.constantFrom('throwNow', 'ping', 'tell', 'stop', 'force'), who: fc.nat(5), ms: fc.nat(40) }),
)

test('any failures: asks settle, survivors work, credits come back, stop leaves nothing', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1 }), fc.array(step, { maxLength: 20 }), async (seed, steps) => {
      const system = await LoopbackSystem.start({ workers: 3, seed })
      const lives = new Map<string, number>()
      const count = (path: string, by: number) => lives.set(path, (lives.get(path) ?? 0) + by)
      system.events$.subscribe((event: SystemEvent) => {
        if (event.type === 'spawned') count(event.actor, 1)
        if (event.type === 'stopped') count(event.actor, -1)
      })
      const group = { group: 'g', strategy: 'one-for-group', maxRestarts: 4, mailbox: { capacity: 2 } } as const
      const refs = [
        await system.spawn(mortal, undefined, { ...group, name: 'g0', worker: 0 }),
        await system.spawn(mortal, undefined, { ...group, name: 'g1', worker: 1 }),
        await system.spawn(mortal, undefined, { name: 'one', worker: 1, maxRestarts: 2 }),
        await system.spawn(mortal, undefined, { name: 'all', worker: 2, strategy: 'one-for-all', maxRestarts: 2 }),
      ]
      const top = await system.spawn(
        parent,
        { names: ['a', 'b'], worker: 1, maxRestarts: 1 },
        { name: 'top', worker: 2 },
      )
      refs.push(...(await top.ask({ type: 'children' })))
      const asks: Promise<unknown>[] = []
      const outcome = (asking: Promise<unknown>) =>
        asks.push(
          asking.then(
            () => 'replied',
            (error: ActorError) => (known.has(error.code) ? 'refused' : Promise.reject(error)),
          ),
        )
      for (const { do: action, who, ms } of steps) {
        const ref = refs[who % refs.length]!
        if (action === 'kill') await system.kill(who)
        else if (action === 'stop' || action === 'force') outcome(ref.stop({ force: action === 'force' }))
        else if (action === 'tell') ref.tell({ type: 'ping' })
        else outcome(ref.ask({ type: action as 'ping' | 'throwNow' }))
        if (ms > 10) await system.advance(ms)
      }
      await system.advance(120_000)
      await Promise.all(asks)
      const view = await system.inspect()
      const all = view.actors.flatMap((actor) => [actor, ...actor.children])
      for (const actor of all) {
        t.is(actor.status, 'running', actor.path)
        t.is(actor.mailbox.depth, 0, actor.path)
      }
      t.deepEqual(
        all.map((actor) => actor.path).sort(),
        [...lives]
          .filter(([, count]) => count === 1)
          .map(([path]) => path)
          .sort(),
      )
      for (const ref of refs) {
        if (all.some((actor) => actor.path === ref.path)) continue
        await t.throwsAsync(ref.ask({ type: 'ping' }), { code: 'DEAD_ACTOR' })
      }
      if (all.some((actor) => actor.path === 'g0')) t.is(await refs[0]!.ask({ type: 'ping' }), 'pong')
      await system.stop()
      t.is(system.clock.waiting, 0)
      t.true([...lives.values()].every((count) => count === 0))
    }),
    { numRuns: 150 },
  )
})
