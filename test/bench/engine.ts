// `node dist/test/bench/engine.js REQUEST`: one run of the engine in a process of its own, for what the command does not tell: how busy the
// event loops of its threads were over the steps that count, and a profile of a few steps as a page. REQUEST and the answer are JSON.

import { ceilingsOfRank, profileTable } from '../../actors/cli/profile.js'
import { initialize } from '../../actors/engine/engine.js'
import { openSource } from '../../runtime/data/open.js'
import { GPT2 } from '../../runtime/nn/models/gpt2.js'

export interface EngineRequest {
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly vocab: number
  readonly seq: number
  readonly ranks: number
  readonly threads: number
  readonly steps: number
  readonly warm: number
  /** Files of tokens and of the configuration. */
  readonly tokens: string
  readonly config: string
  /** Whether three steps more are profiled. */
  readonly profile: boolean
}

const request = JSON.parse(process.argv[2]!) as EngineRequest
const { layers, hidden, heads, vocab, seq, ranks, threads, steps, warm, tokens, config, profile } = request
const dropout = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 }
const model = new GPT2({
  ...{ n_layer: layers, n_embd: hidden, n_head: heads, vocab_size: vocab, n_positions: seq },
  ...dropout,
})
const data = await openSource([tokens], { vocabulary: vocab, positions: seq })
await using engine = await initialize({ model, data, config, ranks, threads, shuffle: false })

await engine.train({ steps: warm })
const before = engine.system.loops()
const started = performance.now()
await engine.train({ steps })
const wall = performance.now() - started
const after = engine.system.loops()
// The data loader and the checkpointer have a worker of their own, the last.
const shares = after.slice(0, ranks + 1).map(({ worker, activeMs }, i) => ({
  thread: worker === 'main' ? 'main' : `rank ${worker}`,
  percent: (100 * (activeMs - before[i]!.activeMs)) / wall,
}))
process.stdout.write(`${JSON.stringify({ shares })}\n`)
if (profile) {
  engine.startProfile()
  await engine.train({ steps: steps + 3 })
  const page = profileTable(engine.profile(), ceilingsOfRank(engine.prepared))
  process.stdout.write(`${JSON.stringify({ page })}\n`)
}
