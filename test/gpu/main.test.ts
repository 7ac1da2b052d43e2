// The suite for GPUs, tried on the CPU: the pieces of work run in their processes and end as tables and JSON.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { initialize } from '../../actors/engine/engine.js'
import { machine } from '../../native/index.js'
import { sourceFor, tinyModel, trainConfig, withFolder } from '../support/training.js'
import { doneBy, whereabouts } from './soak.js'

const script = fileURLToPath(new URL('./main.js', import.meta.url))

async function suite(...args: readonly string[]): Promise<{ code: number | null; output: string }> {
  const child = spawn(process.execPath, [script, '--peers', 'none', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  }
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, output }
}

const { best, gpu } = machine()

if (best) {
  test('a training run is timed, its memory is as planned, its profile holds every phase', async (t) => {
    await withFolder(async (folder) => {
      const json = join(folder, 'found.json')
      const args = ['--device', 'cpu', '--quick', '--only', 'memory,profile', '--models', 'tiny', '--json', json]
      const { code, output } = await suite(...args)
      t.is(code, 0, output)
      const { speed, notes, ceilings } = JSON.parse(readFileSync(json, 'utf8'))
      t.deepEqual(notes, [])
      t.true(ceilings.copyTerabytes > 0 && ceilings.heldTeraflops > 0)
      t.is(speed.length, 1)
      t.is(speed[0].reserved, speed[0].planned)
      t.true(speed[0].javascript > 0 && speed[0].javascript < 1)
      t.deepEqual([...new Set(speed[0].profile.map((row: { phase: string }) => row.phase))].sort(), [
        'backward',
        'forward',
        'update',
      ])
      t.regex(output, /linear_cross_entropy_gradients +backward/)
    })
  })

  test('ops are dealt out to processes and compared, those that are asked for', async (t) => {
    await withFolder(async (folder) => {
      const json = join(folder, 'found.json')
      const args = ['--device', 'cpu', '--quick', '--only', 'ops', '--ops', 'embedding_backward,fill', '--json', json]
      const { code, output } = await suite(...args)
      t.is(code, 0, output)
      const { ops } = JSON.parse(readFileSync(json, 'utf8')) as { ops: { op: string; float: string; cases: number }[] }
      const compared = ops.filter(({ cases }) => cases > 0).map(({ op, float }) => `${op} ${float}`)
      const all = ['bf16', 'f16', 'f32'].map((float) => `embedding_backward ${float}`)
      t.deepEqual(compared.sort(), [...all, 'fill f32'])
      t.is(ops.length, 6)
    })
  })

  test('the watchdog of the soak names step, program and instruction of each rank', async (t) => {
    const model = tinyModel()
    const config = trainConfig({ train: 8, micro: 2 })
    await using engine = await initialize({
      model,
      data: sourceFor(model),
      config,
      ranks: 2,
      threads: 1,
      device: 'cpu',
    })
    const before = doneBy(engine)
    await engine.train({ steps: 3 })
    const first = engine.prepared.compilation.programs.first!.program.instructions
    t.regex(
      whereabouts(engine, before),
      new RegExp(
        `^rank 0 in step 4 computing at instruction 0 of first \\(${first[0]!.op}, forward .*; rank 1 in step 4`,
      ),
    )
    const inside = before.map((done) => done - first.length - 1)
    t.regex(whereabouts(engine, inside), /^rank 0 in step 4 computing at instruction 1 of last /)
  })
  test('with the optimizer on the host a run is timed, and what the host gives', async (t) => {
    await withFolder(async (folder) => {
      const json = join(folder, 'found.json')
      const args = ['--device', 'cpu', '--quick', '--only', 'offload', '--models', 'tiny', '--json', json]
      const { code, output } = await suite(...args)
      t.is(code, 0, output)
      const { speed, notes, host } = JSON.parse(readFileSync(json, 'utf8'))
      t.deepEqual(notes, [])
      t.true(host.cores > 0 && host.memory > 0 && host.down > 0 && host.up > 0)
      t.is(speed.length, 1)
      t.true(speed[0].offload)
      t.regex(output, /tiny B=2 x 1, ZeRO 2, bf16, optimizer on the host/)
    })
  })
}

if (gpu.devices.length === 0) {
  test('without a GPU it says why and ends with 1', async (t) => {
    const { code, output } = await suite('--only', 'ops')
    t.is(code, 1)
    t.regex(output, /(gpu|addon): .*, expected .*, got/)
  })
}

test('an unknown part is refused with those there are', async (t) => {
  const { code, output } = await suite('--only', 'nonsense')
  t.is(code, 1)
  t.regex(
    output,
    /Expected some of ops, train, two, speed, offload, memory, profile, kernels, soak, checks, got nonsense/,
  )
})
