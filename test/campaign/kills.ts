// A training process that saves after every step is killed at random moments, again and again; each time the newest whole checkpoint
// must be usable, must not be older than what the process told, and the run that goes on from it must repeat the bits of one that was
// never killed.
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { initialize } from '../../actors/engine/engine.js'
import { listCheckpoints, readManifest } from '../../runtime/checkpoint/manifest.js'
import { openSource } from '../../runtime/data/open.js'
import { type Curve, curveOf, tinyModel, tokenAt, trainConfig, withFolder } from '../support/training.js'
import { type Campaign, Draws } from './campaign.js'

const command = fileURLToPath(new URL('../../actors/cli/main.js', import.meta.url))
const vocabulary = 61

interface Line {
  readonly type: string
  readonly step: number
  readonly loss: number
  readonly grad_norm: number
}

/** Runs the command until `killAfter` milliseconds after its first step (null: to its end); resolves with what it told. */
function train(
  args: readonly string[],
  killAfter: number | null,
): Promise<{ lines: Line[]; killed: boolean; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [command, 'train', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
    const lines: Line[] = []
    let rest = ''
    let stderr = ''
    let timer: NodeJS.Timeout | undefined
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const parts = (rest + text).split('\n')
      rest = parts.pop()!
      for (const part of parts) lines.push(JSON.parse(part))
      if (killAfter !== null && lines.some(({ type }) => type === 'step'))
        timer ??= setTimeout(() => child.kill('SIGKILL'), killAfter)
    })
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      if (code === 0 || signal === 'SIGKILL') resolve({ lines, killed: signal === 'SIGKILL', stderr })
      else
        reject(new Error(`kills: training, expected to end by itself or by SIGKILL, got exit code ${code}: ${stderr}`))
    })
  })
}

/** Kills a run of `steps` steps until `enough` says so. Rejects where a checkpoint or a bit is not as it should be. */
export async function killLoop(
  seed: number,
  steps: number,
  enough: (kills: number) => boolean,
): Promise<{ kills: number; lives: number; steps: number }> {
  const draws = new Draws(seed)
  return await withFolder(async (folder) => {
    const data = join(folder, 'tokens.bin')
    writeFileSync(
      data,
      Uint16Array.from({ length: 401 }, (_, j) => tokenAt(j, vocabulary)),
    )
    const config = join(folder, 'ds_config.json')
    const settings = trainConfig({ train: 8, micro: 2 }, { zero_optimization: { stage: 2 } })
    writeFileSync(config, JSON.stringify(settings))
    const truth = await (async (): Promise<Curve> => {
      const model = tinyModel({ dropout: 0.1 })
      await using engine = await initialize({
        model,
        data: await openSource([data], { vocabulary, positions: model.maxPositions }),
        config: settings,
        ranks: 1,
        threads: 1,
        seed,
      })
      return await curveOf(engine, steps)
    })()

    let kills = 0
    let lives = 0
    let saves = join(folder, 'saves-0')
    while (!enough(kills)) {
      mkdirSync(saves, { recursive: true })
      const newest = listCheckpoints(saves).at(-1)
      const { layers, hidden, heads, seq } = { layers: 2, hidden: 36, heads: 3, seq: 20 }
      const sizes =
        `--layers ${layers} --hidden ${hidden} --heads ${heads} --seq ${seq} --vocab ${vocabulary} --dropout 0.1`.split(
          ' ',
        )
      const run =
        `--ranks ${draws.pick([1, 2])} --threads 1 --steps ${steps} --seed ${seed} --save-every 1 --keep 2 --json`.split(
          ' ',
        )
      const place = ['--data', data, '--config', config, '--save', saves, ...(newest ? ['--resume', saves] : [])]
      const { lines, killed } = await train([...sizes, ...run, ...place], draws.integer(0, 400))
      lives += 1
      kills += killed ? 1 : 0
      for (const { step, loss, grad_norm } of lines.filter(({ type }) => type === 'step')) {
        if (loss === truth.losses[step - 1] && grad_norm === truth.norms[step - 1]) continue
        throw new Error(
          `kills: step ${step} of life ${lives}, expected loss ${truth.losses[step - 1]}, got ${loss} (seed ${seed})`,
        )
      }
      const told = Math.max(
        newest?.step ?? 0,
        ...lines.flatMap(({ type, step }) => (type === 'checkpoint' ? [step] : [])),
      )
      const found = listCheckpoints(saves).at(-1)
      if (found) readManifest(found.path)
      if ((found?.step ?? 0) < told)
        throw new Error(
          `kills: newest checkpoint of life ${lives}, expected step ${told}, got ${found?.step} (seed ${seed})`,
        )
      if (!killed) saves = join(folder, `saves-${lives}`)
    }
    return { kills, lives, steps }
  })
}

export const campaign: Campaign = {
  name: 'kills',
  run: ({ seed, deadline }) => killLoop(seed, 200, () => performance.now() > deadline),
}
