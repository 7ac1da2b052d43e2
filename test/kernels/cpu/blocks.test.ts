// The numbers that TypeScript has of the C++ products are those of gemm.h.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { depthBlock } from '../../../kernels/cpu/blocks.js'
import { packing } from '../../../kernels/cpu/workspace.js'
import { projectRoot } from '../../../native/paths.js'

const source = readFileSync(join(projectRoot, 'kernels/cpu/gemm.h'), 'utf8')
const constant = (name: string): number => {
  const [, value] = new RegExp(`inline constexpr int64_t ${name} = (\\d+);`).exec(source) ?? []
  if (value === undefined) throw new Error(`gemm.h: ${name}, expected a number, got none`)
  return Number(value)
}
const [KC, MC, NC, SUM_ROWS] = [constant('KC'), constant('MC'), constant('NC'), constant('SUM_ROWS')]

test('the depth of a block, which decides bits, is in the fingerprint as it is in the kernel', (t) => {
  t.is(depthBlock, KC)
})

test('scratch memory of a product is what its packed blocks take', (t) => {
  for (const threads of [1, 2, 7]) {
    const packed = 2 * KC * NC + threads * MC * (KC + 16)
    t.is(packing(threads, 'f32'), 4 * packed)
    t.is(packing(threads, 'bf16'), 4 * (packed + Math.max(threads * MC * NC, (SUM_ROWS * NC) / 2)))
  }
})
