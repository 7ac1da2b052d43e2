// A model of one's own from the layers of `nn`, with parameter groups and a loss of one's own, on data whose entropy is known.
// No model can get below that entropy, and this one comes near it.
import { initialize, nn, TokenSource } from '../actors/index.js'

const { arange, crossEntropy } = nn.functional

const vocabulary = 32
const length = 32
/** How often the next token is drawn at random instead of following from the one before the last. */
const noise = 0.25

/** B sequences, T tokens, C features, V vocabulary. */
class TwoBack extends nn.Module implements nn.LanguageModel {
  readonly config = { model_type: 'two-back' }
  readonly vocabSize = vocabulary
  readonly maxPositions = length
  readonly tokens = new nn.Embedding(vocabulary, 64, { std: 0.1 })
  readonly positions = new nn.Embedding(length, 64, { std: 0.1 })
  readonly norm_1 = new nn.LayerNorm(64)
  readonly attention = new nn.CausalSelfAttention(64, 4)
  readonly norm_2 = new nn.LayerNorm(64)
  readonly mlp = new nn.MLP(64, 128, { activation: 'gelu_erf' })
  readonly norm = new nn.LayerNorm(64)
  readonly head = new nn.Linear(64, vocabulary)

  override forward(ids_BT: nn.Tensor): nn.Tensor {
    let x_BTC = this.tokens.forward(ids_BT).add(this.positions.forward(arange(ids_BT.shape[1]!)))
    x_BTC = x_BTC.add(this.attention.forward(this.norm_1.forward(x_BTC)))
    x_BTC = x_BTC.add(this.mlp.forward(this.norm_2.forward(x_BTC)))
    return this.head.forward(this.norm.forward(x_BTC))
  }

  loss(ids_BT: nn.Tensor, targets_BT: nn.Tensor, reduction: nn.Reduction = 'mean'): nn.Tensor {
    return crossEntropy(this.forward(ids_BT), targets_BT, reduction === 'sum' ? { scale: 1 } : {})
  }
}

/** Each token is 5 more than the one before the last, or, with probability `noise`, any. */
function stream(count: number): Uint8Array {
  const tokens = new Uint8Array(new SharedArrayBuffer(count))
  let state = 1
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
  for (let i = 2; i < count; i++) {
    tokens[i] = random() < noise ? Math.floor(random() * vocabulary) : (tokens[i - 2]! + 5) % vocabulary
  }
  return tokens
}

/** Bits of one token, given those before it. */
function entropy(): number {
  const other = noise / vocabulary
  const expected = 1 - noise + other
  return -(expected * Math.log2(expected) + (vocabulary - 1) * other * Math.log2(other))
}

const samples = 4000
const data = new TokenSource({
  name: 'two back',
  tokens: stream(samples * length + 1),
  samples,
  seq: length,
  stride: length,
  vocabulary,
})

await using engine = await initialize({
  model: new TwoBack(),
  data,
  seed: 7,
  parameterGroups: [{ match: /norm|bias|positions/, weightDecay: 0 }],
  loss: (logits, targets) => crossEntropy(logits, targets).scale(Math.LOG2E),
  config: {
    train_micro_batch_size_per_gpu: 32,
    optimizer: { type: 'AdamW', params: { lr: 3e-3, weight_decay: 0.01 } },
    scheduler: { type: 'WarmupCosineLR', params: { total_num_steps: 500, warmup_num_steps: 20, cos_min_ratio: 0.05 } },
  },
})

const losses: number[] = []
engine.events$.subscribe((event) => {
  if (event.type === 'step') losses.push(event.loss)
})
await engine.train({ steps: 500 })
const mean = losses.slice(-50).reduce((sum, loss) => sum + loss, 0) / 50
console.log(`${losses[0]!.toFixed(2)} -> ${mean.toFixed(2)} bits a token; the data has ${entropy().toFixed(2)}`)
