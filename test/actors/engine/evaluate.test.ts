// Evaluation: the mean over all targets of the evaluation data, whatever the ranks and however the last micro-batch is filled.
import test from 'ava'
import { type Engine, initialize } from '../../../actors/engine/engine.js'
import type { InitializeOptions } from '../../../actors/engine/prepare.js'
import { formulaSource, sourceFor, tinyModel, tokenAt, trainConfig } from '../../support/training.js'

const seq = 20
const vocab = 61

function options(samples: number, ranks: number, micro: number): InitializeOptions {
  const model = tinyModel({ dropout: 0.1 })
  const config = trainConfig(
    { train: 8, micro },
    { zero_optimization: { stage: 3, stage3_param_persistence_threshold: 0 } },
  )
  return { model, data: sourceFor(model), evalData: formulaSource(samples, seq, vocab), config, ranks, threads: 1 }
}

/** The mean of -log softmax at the targets, in float64, from the engine's logits. */
async function meanLoss(engine: Engine, samples: number): Promise<number> {
  const rows = Array.from({ length: samples }, (_, s) =>
    Array.from({ length: seq }, (_, j) => tokenAt(s * seq + j, vocab)),
  )
  const logits = await engine.forward(rows.flat(), samples)
  let sum = 0
  for (let at = 0; at < samples * seq; at++) {
    const row = logits.subarray(at * vocab, (at + 1) * vocab)
    const most = Math.max(...row)
    const total = row.reduce((partial, logit) => partial + Math.exp(logit - most), 0)
    sum += Math.log(total) + most - row[tokenAt(at + 1, vocab)]!
  }
  return sum / (samples * seq)
}

// Whole and partial micro-batches; with 9 samples of 4 and 2 ranks the last of them leaves one rank nothing to do.
for (const samples of [1, 7, 8, 9]) {
  test.serial(`${samples} samples: the mean that the logits give, on 1, 2 and 4 ranks`, async (t) => {
    for (const [ranks, micro] of [
      [1, 4],
      [2, 4],
      [4, 2],
    ] as const) {
      await using engine = await initialize(options(samples, ranks, micro))
      await engine.train({ steps: 3 })
      const seen: unknown[] = []
      engine.events$.subscribe((event) => seen.push(event))
      const event = await engine.evaluate()
      t.deepEqual(seen, [event])
      t.is(event.type, 'eval')
      t.is(event.step, 3)
      t.is(event.tokens, samples * seq)
      t.is(event.perplexity, Math.exp(event.loss))
      const expected = await meanLoss(engine, samples)
      t.true(Math.abs(event.loss - expected) < 1e-5, `${event.loss}, expected ${expected}`)
    }
  })
}

test.serial('evaluations and logits change nothing of the training', async (t) => {
  const losses = async (evaluates: boolean): Promise<number[]> => {
    await using engine = await initialize(options(7, 2, 2))
    const found: number[] = []
    for (let step = 1; step <= 5; step++) {
      found.push((await engine.train({ steps: step }))!.loss)
      if (!evaluates) continue
      await engine.evaluate()
      await engine.forward([1, 2, 3])
    }
    return found
  }
  t.deepEqual(await losses(true), await losses(false))
})

test.serial('without evaluation data it is refused', async (t) => {
  const { evalData: _, ...rest } = options(1, 1, 8)
  await using engine = await initialize(rest)
  await t.throwsAsync(engine.evaluate(), {
    message: /^evaluate: data, expected `evalData` in the options of initialize, got none$/,
  })
})
