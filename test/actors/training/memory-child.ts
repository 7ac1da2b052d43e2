// A process that prints, as JSON, what its memory was. `plan STAGE`: GPT-2 124M, one step on two ranks, with what the plan said.
// `copies`: a smaller model that saves, restores and computes logits again and again.
import { readFileSync } from 'node:fs'
import { initialize } from '../../../actors/engine/engine.js'
import { GPT2 } from '../../../runtime/nn/models/gpt2.js'
import { formulaSource, smallModel, trainConfig, withFolder } from '../../support/training.js'

/** Resident bytes by /proc: now and at the most. */
function resident(): { now: number; peak: number } {
  const status = readFileSync('/proc/self/status', 'utf8')
  const bytes = (key: string): number => 1024 * Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)![1])
  return { now: bytes('VmRSS'), peak: bytes('VmHWM') }
}

async function plan(stage: 0 | 1 | 2 | 3): Promise<object> {
  const ranks = 2
  const data = formulaSource(4, 128, 50257)
  const before = resident().now
  const config = {
    train_micro_batch_size_per_gpu: 1,
    optimizer: { type: 'AdamW', params: { lr: 1e-4 } },
    zero_optimization: { stage },
  }
  await using engine = await initialize({ model: new GPT2(), data, ranks, threads: 1, config })
  await engine.train({ steps: 1 })
  const planned = ranks * Object.values(engine.plan.arenas).reduce((sum, bytes) => sum + bytes, 0)
  return { before, ...resident(), planned, arenas: engine.plan.arenas }
}

/** Resident bytes after each round, and the bytes of one checkpoint. */
async function copies(): Promise<object> {
  return await withFolder(async (folder) => {
    const model = smallModel({ layers: 2, hidden: 384, heads: 6, seq: 16, vocab: 4096 })
    const config = trainConfig({ train: 2, micro: 1 }, { zero_optimization: { stage: 2 } })
    const checkpoints = { folder, every: 1, keep: 1 }
    const data = formulaSource(50, 16, 4096)
    await using engine = await initialize({ model, data, ranks: 2, threads: 1, config, checkpoints })
    let bytes = 0
    engine.events$.subscribe((event) => {
      if (event.type === 'checkpoint') bytes = event.bytes
    })
    const rounds: number[] = []
    for (let round = 1; round <= 12; round++) {
      await engine.train({ steps: 2 * round })
      await engine.load(await engine.save(folder))
      for (let i = 0; i < 10; i++) await engine.forward(Array(16).fill(round))
      rounds.push(resident().now)
    }
    return { rounds, bytes }
  })
}

const [what, stage] = process.argv.slice(2)
const report = what === 'plan' ? await plan(Number(stage) as 0 | 1 | 2 | 3) : await copies()
process.stdout.write(`${JSON.stringify(report)}\n`)
