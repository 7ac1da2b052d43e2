// Many interleavings of one scenario: each run has a seed of its own, and a failure names it, so that it can be run again alone.

export interface ExploreOptions {
  readonly runs: number
  /** The seed of the first run, counting up from there; default 1. */
  readonly firstSeed?: number
}

/** Runs a scenario once per seed. Rejects at the first failure with an error that names the seed and has the failure as its cause. */
export async function explore(scenario: (seed: number) => Promise<void>, options: ExploreOptions): Promise<void> {
  const { runs, firstSeed = 1 } = options
  for (let seed = firstSeed; seed < firstSeed + runs; seed++) {
    try {
      await scenario(seed)
    } catch (cause) {
      const what = cause instanceof Error ? cause.message : String(cause)
      throw new Error(
        `explore: seed ${seed} of ${firstSeed} to ${firstSeed + runs - 1}, expected no failure, got ${what}`,
        {
          cause,
        },
      )
    }
  }
}
