// `npm run campaign -- [--seed N] [--minutes M] [--only NAME]`: runs the campaigns one after another, each for its share of the time,
// and prints the seed and a summary as JSON. Exit code 1 if one found something.
import { readdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import type { Campaign } from './campaign.js'

const { values } = parseArgs({
  options: { seed: { type: 'string' }, minutes: { type: 'string', default: '10' }, only: { type: 'string' } },
})
const seed = Number(values.seed ?? Date.now() % 1e9)
const minutes = Number(values.minutes)
if (!Number.isSafeInteger(seed) || !(minutes > 0))
  throw new Error('campaign: expected --seed INTEGER and --minutes above 0')

const files = readdirSync(new URL('.', import.meta.url)).filter(
  (name) => name.endsWith('.js') && !/^(main|campaign)\.js$/.test(name),
)
const modules = await Promise.all(files.sort().map((name) => import(new URL(name, import.meta.url).href)))
const all = modules.map((module: { campaign: Campaign }) => module.campaign)
const chosen = all.filter(({ name }) => values.only === undefined || name === values.only)
if (chosen.length === 0)
  throw new Error(`campaign: --only, expected one of ${all.map(({ name }) => name).join(', ')}, got ${values.only}`)

const campaigns: Record<string, unknown> = {}
for (const { name, run } of chosen) {
  const started = performance.now()
  const note = (text: string): void => {
    process.stderr.write(`${name}: ${text}\n`)
  }
  note(`seed ${seed}`)
  let result: Readonly<Record<string, unknown>>
  try {
    result = { ok: true, ...(await run({ seed, deadline: started + (minutes * 60_000) / chosen.length, note })) }
  } catch (error) {
    process.exitCode = 1
    result = { ok: false, error: error instanceof Error ? error.message : String(error) }
  }
  campaigns[name] = { ...result, seconds: Math.round((performance.now() - started) / 1000) }
}
process.stdout.write(`${JSON.stringify({ seed, minutes, campaigns }, null, 2)}\n`)
