// A program that embeds a training run: it watches the events with RxJS and stops the run by an AbortSignal as soon as the mean loss
// of ten steps is below a target.
import { bufferCount, filter, map, take } from 'rxjs'
import { initialize, nn, type StepEvent, TokenSource } from '../actors/index.js'

const target = 0.5
const most = 1000

const model = new nn.GPT2({ vocab_size: 16, n_positions: 32, n_embd: 32, n_layer: 1, n_head: 2 })
const samples = 512
const tokens = new Uint8Array(new SharedArrayBuffer(samples * 32 + 1))
for (let i = 0; i < tokens.length; i++) tokens[i] = (i * i) % 16
const data = new TokenSource({ name: 'squares', tokens, samples, seq: 32, stride: 32, vocabulary: 16 })

await using engine = await initialize({ model, data, seed: 3, config: { train_micro_batch_size_per_gpu: 8 } })

const controller = new AbortController()
engine.events$
  .pipe(
    filter((event): event is StepEvent => event.type === 'step'),
    bufferCount(10, 1),
    map((steps) => steps.reduce((sum, { loss }) => sum + loss, 0) / steps.length),
    filter((mean) => mean < target),
    take(1),
  )
  .subscribe(() => controller.abort())

await engine.train({ steps: most, signal: controller.signal })
console.log(`stopped after step ${engine.step} of at most ${most}`)
