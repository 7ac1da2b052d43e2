// The page of a profile: equal instructions of all blocks are one line, and each is held against the ceiling that bounds it.
import test from 'ava'
import { profileTable } from '../../../actors/cli/profile.js'
import type { TraceSpan } from '../../../runtime/observe/index.js'

const span = (
  name: string,
  module: string | undefined,
  seconds: number,
  { flops, bytes, dtype }: Pick<TraceSpan, 'flops' | 'bytes' | 'dtype'>,
): TraceSpan => ({
  name,
  category: 'forward',
  rank: 0,
  startSeconds: 5,
  endSeconds: 5 + seconds,
  ...(flops !== undefined && { flops }),
  ...(bytes !== undefined && { bytes }),
  ...(dtype !== undefined && { dtype }),
  details: { step: 3, ...(module && { module }) },
})

const ceilings = { f32: 100e9, bf16: 200e9, bytes: 10e9 }

test('lines by op and place, the longest first, with rates and the share of the nearest ceiling', (t) => {
  const spans = [
    // 40 GFLOP in 1 s of a ceiling of 100: 40 %. Its bytes would take a tenth of that.
    span('linear', 'transformer.h.0.mlp.c_fc', 0.5, { flops: 20e9, bytes: 0.1e9, dtype: 'f32' }),
    span('linear', 'transformer.h.11.mlp.c_fc', 0.5, { flops: 20e9, bytes: 0.1e9, dtype: 'f32' }),
    // The same work in bf16, whose ceiling is twice as high.
    span('linear', 'lm_head', 0.5, { flops: 20e9, bytes: 0.1e9, dtype: 'bf16' }),
    // 1 GB in 0.25 s of a ceiling of 10 GB/s: 40 % of the memory's.
    span('adam', undefined, 0.25, { flops: 1e9, bytes: 1e9, dtype: 'f32' }),
    span('fill', undefined, 0.01, { flops: 0, bytes: 0 }),
  ]
  t.deepEqual(
    profileTable(spans, ceilings)
      .split('\n')
      .map((line) => line.split(/ {2,}/)),
    [
      ['op', 'where', 'calls', 'ms', 'share', 'GFLOP/s', 'GB/s', 'of ceiling'],
      ['linear', 'transformer.h.*.mlp.c_fc', '2', '1000.0', '56.8 %', '40.0', '0.2', '40 % compute'],
      ['linear', 'lm_head', '1', '500.0', '28.4 %', '40.0', '0.2', '20 % compute'],
      ['adam', '1', '250.0', '14.2 %', '4.0', '4.0', '40 % memory'],
      ['fill', '1', '10.0', '0.6 %'],
      [
        'ceilings of a rank, measured while all ranks ran: 100.0 GFLOP/s in f32, 200.0 in bf16, 10.0 GB/s ' +
          '(more than 100 % of memory: the operands were in a cache)',
      ],
      [''],
    ],
  )
})

test('without ceilings the rates stand alone', (t) => {
  const page = profileTable([span('adam', undefined, 0.25, { flops: 1e9, bytes: 1e9 })], null)
  t.regex(page, /^op +where +calls +ms +share +GFLOP\/s +GB\/s +of ceiling\nadam +1 +250\.0 +100\.0 % +4\.0 +4\.0\n$/)
})
