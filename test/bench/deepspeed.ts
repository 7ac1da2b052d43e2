// DeepSpeed's speed as it was measured once, for machines that do not have it: DeepSpeed 0.19.6 on the CPU (2 ranks x 1 thread, gloo and
// its shared-memory collectives, buckets of 50 M elements), measured 2026-11-22/23 on two cores of an AMD EPYC (Zen 4) with the models,
// the global batch, AdamW and clipping of these rows, beside PyTorch 2.13.0 in one process of two threads (the best of eager, compile
// and, in bf16, autocast). What a row shows is scaled by PyTorch's speed in the run of the row.

interface Measured {
  /** Tokens/s of PyTorch. */
  readonly pytorch: number
  /** Tokens/s of DeepSpeed, by ZeRO stage. */
  readonly stages: readonly [number, number, number, number]
}

const measured: Readonly<Record<string, Readonly<Partial<Record<'fp32' | 'bf16', Measured>>>>> = {
  char: {
    fp32: { pytorch: 2163, stages: [1962, 1881, 1971, 1888] },
    bf16: { pytorch: 3589, stages: [3419, 3090, 3372, 2904] },
  },
  'mini-ranks': { fp32: { pytorch: 18524, stages: [13838, 13518, 12393, 7641] } },
}

export const deepSpeedName = 'DeepSpeed 0.19.6, scaled'

/** DeepSpeed's tokens/s in a case, as they would be where PyTorch makes `pytorch` tokens/s, and a note that says so; null: not measured. */
export function scaledDeepSpeed(
  name: string,
  dtype: 'fp32' | 'bf16',
  stage: number,
  pytorch: number,
): { readonly speed: number; readonly note: string } | null {
  const then = measured[name]?.[dtype]
  const speed = then?.stages[stage]
  if (!then || speed === undefined) return null
  return {
    speed: (speed * pytorch) / then.pytorch,
    note: `${speed} tokens/s beside PyTorch's ${then.pytorch}, PyTorch now ${pytorch.toFixed(0)}`,
  }
}
