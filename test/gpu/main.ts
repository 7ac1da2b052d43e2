// `node dist/test/gpu/main.js`: what the GPUs of this machine do with this build: kernels against the reference, training against the CPU,
// speed and memory beside PyTorch's. It needs no development package. Tables go to stdout, all findings as JSON to --json; the exit
// code is 1 where a check failed.
import { writeFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { Command, InvalidArgumentError } from 'commander'
import { type DeviceName, machine } from '../../native/index.js'
import { findPyTorch } from '../bench/peers.js'
import type { Ceilings, CeilingsRequest, HostRates, HostRequest } from './ceilings.js'
import { runWork } from './children.js'
import type { KernelFinding } from './kernels.js'
import { type ShapeName, shapes } from './models.js'
import { type OpFinding, type OpsRequest, units } from './ops.js'
import { type AttentionPeer, attentionPeers, type PeerFinding, type PeerMode, peerModes, runPeer } from './peers.js'
import type { SpeedFinding, SpeedRequest } from './speed.js'
import {
  ceilingsText,
  hostText,
  kernelTable,
  machineText,
  opsTable,
  profileTable,
  speedTable,
  trainingTable,
} from './tables.js'
import type { TrainingFinding } from './training.js'

// NVLink multicast stays off, in PyTorch's processes too.
Object.assign(process.env, {
  NCCL_NVLS_ENABLE: '0',
  TORCH_SYMM_MEM_DISABLE_MULTICAST: '1',
  NVSHMEM_DISABLE_NVLS: '1',
})

const parts = ['ops', 'train', 'two', 'speed', 'offload', 'memory', 'profile', 'kernels'] as const
type Part = (typeof parts)[number]

interface Options {
  readonly only: readonly Part[]
  readonly json?: string
  readonly quick?: boolean
  readonly python?: string
  readonly peers: readonly PeerMode[]
  readonly models: readonly ShapeName[]
  readonly seed: number
  readonly device: DeviceName
  readonly geluEpilogues?: boolean
}

/** Names with commas between them; an alias stands for several. */
function listOf<T extends string>(values: readonly T[], aliases: Readonly<Record<string, readonly T[]>> = {}) {
  const known = [...values, ...Object.keys(aliases)].join(', ')
  return (text: string): readonly T[] =>
    text.split(',').flatMap((name) => {
      const found = aliases[name] ?? values.filter((value) => value === name)
      if (found.length > 0 || name === 'none') return found
      throw new InvalidArgumentError(`Expected some of ${known}, got ${name}.`)
    })
}

const modes = Object.keys(peerModes) as PeerMode[]
const options = new Command('gpu')
  .description('What the GPUs of this machine do with this build')
  .option(
    '--only <parts>',
    `parts to run: ${parts.join(',')}; checks: the first three`,
    listOf(parts, { checks: ['ops', 'train', 'two'] }),
    parts,
  )
  .option('--json <file>', 'write all findings there')
  .option('--quick', 'smaller cases, fewer steps, the smallest model')
  .option('--python <path>', 'a Python that imports torch (DEEPTROUPE_PYTHON, else python3)')
  .option('--peers <modes>', `how PyTorch trains beside us: ${modes.join(',')}, or none`, listOf(modes), modes)
  .option(
    '--models <names>',
    `shapes to train: ${Object.keys(shapes).join(',')}`,
    listOf(Object.keys(shapes) as ShapeName[]),
  )
  .option('--seed <n>', 'of random inputs', Number, Date.now() % 2 ** 31)
  .option('--device <name>', 'cpu: to try this suite itself without a GPU', 'cuda')
  .option('--gelu-epilogues', 'leave GELU beside products to cublasLt')
  .parse()
  .opts<Omit<Options, 'models'> & { readonly models?: readonly ShapeName[] }>()

const { only, quick = false, device, seed } = options
const models: readonly ShapeName[] = options.models ?? (quick ? ['d12'] : ['d12', 'd24', 'd48'])
/** The shape whose optimizer goes to the host, to be held against DeepSpeed's figure. */
const offloaded: ShapeName = models.includes('d24') ? 'd24' : models[0]!
const wants = (...names: readonly Part[]): boolean => names.some((name) => only.includes(name))
const print = (text: string): void => void process.stdout.write(`${text}\n`)
const here = machine().gpu
const gpus = device === 'cuda' ? here.devices.length : 2
const torch = options.peers.length > 0 && wants('speed', 'kernels', 'two') ? findPyTorch(options.python) : null

/** Everything that was found; becomes the JSON. */
const found = {
  machine: { ...here, processor: cpus()[0]?.model, cores: availableParallelism(), node: process.version, device, seed },
  ops: [] as OpFinding[],
  training: [] as TrainingFinding[],
  ceilings: null as Ceilings | null,
  host: null as HostRates | null,
  speed: [] as SpeedFinding[],
  kernels: [] as KernelFinding[],
  peers: [] as PeerFinding[],
  attentionPeers: [] as AttentionPeer[],
  /** What went wrong beside checks, and what was left out. */
  notes: [] as string[],
}
/** What was found so far. */
const save = (): void => {
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(found, null, 1)}\n`)
}
const note = (text: string): void => {
  found.notes.push(text)
  print(text)
}

/** Runs a piece of work to its end; a bad one is noted. */
async function run<T>(work: string, request: object, take: (finding: T) => void): Promise<void> {
  const ending = await runWork(work, { device, ...request }, take as (finding: never) => void)
  if (ending !== null) note(`${work} ${JSON.stringify(request)}: ${ending}`)
}

/** In several processes at once; where a kernel breaks the device, the next process goes on behind it. */
async function ops(): Promise<void> {
  const of = Math.max(1, Math.min(4, availableParallelism() >> 1))
  const shard = async (rest: number): Promise<void> => {
    for (let first = 0; first < units.length; ) {
      let last = -1
      let broken = false
      const request = { device, seed, first, rest, of, quick } satisfies OpsRequest
      const ending = await runWork('ops', request, (finding: OpFinding) => {
        found.ops.push(finding)
        last = finding.unit
        broken ||= finding.broken
      })
      if (ending === null && !broken) return
      const unit = broken ? last : units.findIndex((_, i) => i > last && i >= first && i % of === rest)
      if (unit < 0) return
      if (!broken) {
        const { op, float } = units[unit]!
        const wrong = [`${op}: the process, expected to end in order, got ${ending}`]
        found.ops.push({ unit, op, float, cases: 0, left: 0, error: Infinity, share: Infinity, wrong, broken: true })
      }
      first = unit + 1
    }
  }
  await Promise.all(Array.from({ length: of }, (_, rest) => shard(rest)))
  found.ops.sort((a, b) => a.unit - b.unit)
  print(`\n${opsTable(found.ops)}`)
}

async function training(count: 1 | 2): Promise<void> {
  const before = found.training.length
  await run('training', { gpus: count }, (finding: TrainingFinding) => found.training.push(finding))
  print(`\n${trainingTable(found.training.slice(before))}`)
}

async function measureCeilings(): Promise<Ceilings> {
  const small = device !== 'cuda'
  const request = { edge: small ? 512 : 8192, mebibytes: small ? 64 : 4096, seconds: small ? 0.2 : quick ? 1 : 3 }
  await run('ceilings', request satisfies Omit<CeilingsRequest, 'device'>, (finding: Ceilings) => {
    found.ceilings = finding
  })
  found.ceilings ??= { burstTeraflops: Number.NaN, heldTeraflops: Number.NaN, copyTerabytes: Number.NaN }
  print(ceilingsText(found.ceilings))
  return found.ceilings
}

async function measureHost(): Promise<void> {
  const request = { mebibytes: device === 'cuda' ? 512 : 16 } satisfies Omit<HostRequest, 'device'>
  await run('host', request, (finding: HostRates) => {
    found.host = finding
  })
  if (found.host) print(hostText(found.host))
}

async function speed(shape: ShapeName, ranks: number, stage: 0 | 1 | 2 | 3, offload = false): Promise<void> {
  const request = {
    shape,
    ranks,
    stage,
    offload,
    free: wants('speed', 'two', 'offload') && !quick ? 50 : 0,
    profile: wants('profile') && ranks === 1,
    geluEpilogues: options.geluEpilogues ?? false,
  } satisfies Omit<SpeedRequest, 'device'>
  await run('speed', request, (finding: SpeedFinding) => found.speed.push(finding))
  save()
}

async function peersOf(shape: ShapeName, ranks: number, of: readonly PeerMode[]): Promise<void> {
  for (const mode of torch?.name ? of : []) {
    const peer = await runPeer(torch!, shape, mode, ranks)
    if (typeof peer === 'string') note(`PyTorch ${mode} on ${shape} x ${ranks}: ${peer}`)
    else found.peers.push(peer)
    save()
  }
}

print(machineText(here))
if (device === 'cuda' && (here.reason !== undefined || gpus === 0)) {
  process.stderr.write(`gpu: ${here.reason ?? 'no GPU'}\n`)
  process.exit(1)
}
if (torch?.name === null) note(torch.reason)
if (wants('ops')) await ops()
if (wants('train')) await training(1)
if (wants('two') && gpus < 2) note('two GPUs: not run, one GPU found')
if (wants('two') && gpus >= 2) await training(2)
if (wants('speed', 'profile', 'kernels')) await measureCeilings()
if (wants('speed', 'memory', 'profile')) {
  for (const shape of models) {
    await speed(shape, 1, 0)
    if (wants('speed')) await peersOf(shape, 1, options.peers)
  }
}
if (wants('speed', 'offload')) {
  await measureHost()
  await speed(offloaded, 1, 2, true)
}
if (wants('two') && gpus >= 2) {
  for (const shape of models.filter((name) => name !== 'd12')) {
    for (const stage of [1, 2, 3] as const) await speed(shape, 2, stage)
    if (shape === 'd24')
      await peersOf(
        shape,
        2,
        options.peers.filter((mode) => mode === 'compile'),
      )
  }
}
if (found.speed.length > 0) print(`\n${speedTable(found.speed, found.peers)}`)
if (wants('profile') && found.ceilings) {
  for (const one of found.speed.filter(({ profile }) => profile.length > 0)) print(profileTable(one, found.ceilings))
}
if (wants('kernels')) {
  await run('kernels', { smaller: device === 'cuda' ? 1 : 128 }, (finding: KernelFinding) =>
    found.kernels.push(finding),
  )
  const peers = torch && torch.name !== null ? await attentionPeers(torch) : []
  if (typeof peers === 'string') note(`PyTorch's attention: ${peers}`)
  else found.attentionPeers.push(...peers)
  if (found.ceilings) print(`\n${kernelTable(found.kernels, found.ceilings, found.attentionPeers)}`)
}
save()
const failed = found.ops.some(({ wrong }) => wrong.length > 0) || found.training.some(({ ok }) => !ok)
print(failed ? 'checks: some failed' : 'checks: none failed')
process.exitCode = failed ? 1 : 0
