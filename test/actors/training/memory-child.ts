// A process that trains GPT-2 124M for one step on two ranks and prints, as JSON, what its memory was and what the plan said.
import { readFileSync } from 'node:fs'
import { initialize } from '../../../actors/engine/engine.js'
import { GPT2 } from '../../../runtime/nn/models/gpt2.js'
import { formulaSource } from '../../support/training.js'

/** Resident bytes by /proc: now and at the most. */
function resident(): { now: number; peak: number } {
  const status = readFileSync('/proc/self/status', 'utf8')
  const bytes = (key: string): number => 1024 * Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)![1])
  return { now: bytes('VmRSS'), peak: bytes('VmHWM') }
}

const ranks = 2
const data = formulaSource(4, 128, 50257)
const before = resident().now
const engine = await initialize({
  model: new GPT2(),
  data,
  ranks,
  threads: 1,
  config: {
    train_micro_batch_size_per_gpu: 1,
    optimizer: { type: 'AdamW', params: { lr: 1e-4 } },
    zero_optimization: { stage: Number(process.argv[2]) as 0 | 1 | 2 | 3 },
  },
})
await engine.train({ steps: 1 })
const { now, peak } = resident()
const planned = ranks * Object.values(engine.plan.arenas).reduce((sum, bytes) => sum + bytes, 0)
process.stdout.write(`${JSON.stringify({ before, now, peak, planned, arenas: engine.plan.arenas })}\n`)
await engine.close()
