// A program that embeds a training run and watches it through its RxJS stream: it shows the mean of every twenty steps, tells of a rank
// that is lost on the way (a fault that is asked for here), and stops the run as soon as the mean loss of ten steps is below a target.
import { bufferCount, filter, map, type Observable, share, take } from 'rxjs'
import { initialize, nn, type StepEvent, TokenSource } from '../actors/index.js'

const target = 0.5
const most = 1000

const model = new nn.GPT2({ vocab_size: 16, n_positions: 32, n_embd: 32, n_layer: 1, n_head: 2 })
const samples = 512
const tokens = new Uint8Array(new SharedArrayBuffer(samples * 32 + 1))
for (let i = 0; i < tokens.length; i++) tokens[i] = (i * i) % 16
const data = new TokenSource({ name: 'squares', tokens, samples, seq: 32, stride: 32, vocabulary: 16 })

await using engine = await initialize({
  model,
  data,
  seed: 3,
  ranks: 2,
  restarts: 1,
  chaos: 'kill:rank=1@step=30',
  config: { train_micro_batch_size_per_gpu: 4 },
})

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
const steps$: Observable<StepEvent> = engine.events$.pipe(
  filter((event): event is StepEvent => event.type === 'step'),
  share(),
)

steps$.pipe(bufferCount(20)).subscribe((steps) => {
  const [loss, rate] = [mean(steps.map((step) => step.loss)), mean(steps.map((step) => step.tokens_per_second))]
  console.log(`to step ${steps.at(-1)!.step}: mean loss ${loss.toFixed(3)}, ${Math.round(rate)} tokens/s`)
})

engine.events$.pipe(filter((event) => event.type === 'restart')).subscribe((event) => {
  console.log(`${event.cause}; the run goes on after step ${event.step} (state: ${event.source})`)
})

const controller = new AbortController()
steps$
  .pipe(
    bufferCount(10, 1),
    map((steps) => mean(steps.map((step) => step.loss))),
    filter((loss) => loss < target),
    take(1),
  )
  .subscribe(() => controller.abort())

await engine.train({ steps: most, signal: controller.signal })
console.log(`stopped after step ${engine.step} of at most ${most}`)
