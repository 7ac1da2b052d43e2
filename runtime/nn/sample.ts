// Drawing the next token from logits.

export interface SamplingOptions {
  /** Divides the logits; 0 takes the likeliest token. Default 1. */
  readonly temperature?: number
  /** Only the `topK` likeliest tokens may be drawn; 0 (the default): all. */
  readonly topK?: number
  /** Only the likeliest tokens that together have this probability may be drawn (arXiv 1904.09751); default 1. */
  readonly topP?: number
}

/** The token drawn from one row of logits; `random` gives a number in [0, 1). */
export function sampleToken(logits: Float32Array, options: SamplingOptions, random: () => number): number {
  const { temperature = 1, topK = 0, topP = 1 } = options
  const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]!)
  const best = order[0]!
  if (temperature === 0) return best
  const kept = topK > 0 ? order.slice(0, topK) : order
  const weights = kept.map((token) => Math.exp((logits[token]! - logits[best]!) / temperature))
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  let count = 0
  let mass = 0
  while (count < kept.length && (count === 0 || mass < topP * total)) mass += weights[count++]!
  let left = random() * mass
  for (let i = 0; i < count; i++) {
    left -= weights[i]!
    if (left < 0) return kept[i]!
  }
  return kept[count - 1]!
}

/** Uniform numbers in [0, 1) from a seed: SplitMix64, the upper 53 bits. */
export function uniform(seed: number): () => number {
  let state = BigInt(seed)
  const mask = 0xffffffffffffffffn
  return () => {
    state = (state + 0x9e3779b97f4a7c15n) & mask
    let z = state
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask
    return Number((z ^ (z >> 31n)) >> 11n) / 2 ** 53
  }
}
