// Short slices of the campaigns `crowd`, `threads` and `flow`, each of which checks by itself that its actors did their work.
import test from 'ava'
import { crowd } from '../campaign/crowd.js'
import { capacity, flow, mostControlMs } from '../campaign/flow.js'
import { threads } from '../campaign/threads.js'

test.serial(
  'an idle actor has at most 2 KiB, also after it has worked, and nothing of it is left when it has stopped',
  async (t) => {
    const { fresh, worked, stopped } = await crowd(10_000, 0, 70)
    t.true(fresh.heap > 200 && fresh.heap <= 2048, `${fresh.heap} bytes`)
    t.true(worked.heap <= 2048, `${worked.heap} bytes`)
    t.true(stopped.heap <= 256, `${stopped.heap} bytes`)
  },
)

test.serial('threads and handles are as many after systems with workers as before', async (t) => {
  const { systems, before, after } = await threads(1, 10)
  t.true(systems >= 5)
  t.is(after.threads, before.threads)
  t.is(after.handles, before.handles)
})

for (const manner of ['waits for room', 'tries on', 'drops the oldest'] as const) {
  test.serial(
    `a producer a hundred times faster than its consumer, which ${manner}: bounded, and control is answered in time`,
    async (t) => {
      const { handled, taken, refused, deepest, latency } = await flow(manner, 3)
      t.true(handled > 0 && deepest <= capacity)
      if (manner === 'tries on') t.true(refused > taken)
      if (manner === 'drops the oldest') t.true(taken > 2 * handled)
      for (const what of ['inspect', 'stop', 'notice'] as const)
        t.true(latency[what].most <= mostControlMs, `${what} took ${latency[what].most} ms`)
    },
  )
}
