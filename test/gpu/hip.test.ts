// The AMD side of the GPU kernels: every source compiles with Debian's hipcc. Without hipcc there is nothing to see here.
import { execFile, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test from 'ava'
import { projectRoot } from '../../native/paths.js'

const env = { ...process.env, HIP_PLATFORM: 'amd' }
const found = spawnSync('hipcc', ['--version'], { env }).status === 0
const folder = join(projectRoot, 'kernels/gpu')
const sources = readdirSync(folder).filter((file) => file.endsWith('.cu'))

test('there are sources to compile, and whether hipcc is here is said', (t) => {
  t.true(sources.includes('table.cu'))
  t.log(found ? `hipcc compiles ${sources.length} sources` : 'no hipcc: apt-get install hipcc')
})

if (found) {
  const flags = ['--offload-arch=gfx90a', '-std=c++20', '-O1', '-ffp-contract=off', '-x', 'hip', '-c']
  const compile = async (source: string, to: string): Promise<string> => {
    try {
      await promisify(execFile)('hipcc', [...flags, source, '-o', to], { env, maxBuffer: 1 << 26 })
      return ''
    } catch (error) {
      return (error as { stderr: string }).stderr
    }
  }

  for (const source of sources) {
    test.serial(`kernels/gpu/${source} compiles for gfx90a`, async (t) => {
      t.timeout(300_000)
      const output = mkdtempSync(join(tmpdir(), 'deeptroupe-hip-'))
      t.teardown(() => rmSync(output, { recursive: true }))
      t.is(await compile(join(folder, source), join(output, 'kernel.o')), '')
    })
  }

  test.serial('a source that AMD does not know is refused', async (t) => {
    const output = mkdtempSync(join(tmpdir(), 'deeptroupe-hip-'))
    t.teardown(() => rmSync(output, { recursive: true }))
    t.regex(await compile(join(projectRoot, 'test/gpu/headers.cu'), join(output, 'kernel.o')), /error/)
  })
}
