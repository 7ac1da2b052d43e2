// The order of samples. Position g of a training run is sample permutation(seed, epoch)(g mod n) with epoch = floor(g / n): batches
// run across epoch ends and nothing is dropped. The permutation is computed by index, with integer arithmetic only, so that every
// machine and every rank agrees and nothing is stored; where a run goes on follows from its step alone.
export interface SamplerOptions {
  readonly samples: number
  /** Whole, 0 to 2^53 - 1. */
  readonly seed: number
  /** false: the samples in their own order in every epoch. */
  readonly shuffle: boolean
}

export interface Sampler {
  /** The sample at position `position` of the run. */
  sampleAt(position: number): number
}

export function createSampler({ samples, seed, shuffle }: SamplerOptions): Sampler {
  if (!shuffle) return { sampleAt: (position) => position % samples }
  let epoch = -1
  let permutation: (index: number) => number = (index) => index
  return {
    sampleAt: (position) => {
      const wanted = Math.floor(position / samples)
      if (wanted !== epoch) {
        epoch = wanted
        permutation = createPermutation(samples, seed, epoch)
      }
      return permutation(position - wanted * samples)
    },
  }
}

const rounds = 8

/**
 * A seeded bijection of 0 to n - 1: a Feistel network over the smallest even number of bits that holds n, walked until it lands
 * inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Four walks or fewer are needed on average.
 */
export function createPermutation(n: number, seed: number, epoch: number): (index: number) => number {
  let side = 2
  while (side * side < n) side *= 2
  const keys = Array.from({ length: rounds }, (_, round) =>
    [seed, epoch].reduce((key, word) => mix(mix(key ^ low(word)) ^ high(word)), mix(round + 1)),
  )
  const network = (index: number): number => {
    let left = Math.floor(index / side)
    let right = index % side
    for (const key of keys) {
      const next = (left ^ mix(mix(right ^ key))) & (side - 1)
      left = right
      right = next
    }
    return left * side + right
  }
  return (index) => {
    let image = network(index)
    while (image >= n) image = network(image)
    return image
  }
}

const low = (word: number): number => (word % 2 ** 32) | 0
const high = (word: number): number => Math.floor(word / 2 ** 32) | 0

/** The finaliser of MurmurHash3: each bit in changes half of the bits out. */
function mix(word: number): number {
  let hash = Math.imul(word ^ (word >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return ((hash ^ (hash >>> 16)) + 0x9e3779b9) | 0
}
