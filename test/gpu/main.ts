// `node dist/test/gpu/main.js`: what the GPUs of this machine do with this build: kernels against the reference, training against the CPU,
// speed and memory beside PyTorch's. It needs no development package. Tables go to stdout, all findings as JSON to --json; the exit
// code is 1 where a check failed.
import { writeFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { Command, InvalidArgumentError } from 'commander'
import { referenceKernels } from '../../kernels/reference/index.js'
import { type DeviceName, machine } from '../../native/index.js'
import { findPyTorch } from '../bench/peers.js'
import type { Ceilings, CeilingsRequest, HostRates, HostRequest } from './ceilings.js'
import { runWork } from './children.js'
import { compareDeclarations } from './declarations.js'
import type { KernelFinding } from './kernels.js'
import { type ShapeName, shapes, type TrainMode } from './models.js'
import { type OpFinding, type OpsRequest, units, unitsOf } from './ops.js'
import {
  type AttentionPeer,
  attentionPeers,
  besides,
  type PeerFinding,
  type PeerMode,
  peerModes,
  runPeer,
} from './peers.js'
import { soakCases } from './soak.js'
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

const parts = ['ops', 'train', 'two', 'speed', 'offload', 'memory', 'profile', 'kernels', 'soak'] as const
type Part = (typeof parts)[number]

interface Options {
  readonly only: readonly Part[]
  readonly json?: string
  readonly quick?: boolean
  readonly python?: string
  readonly peers: readonly PeerMode[]
  readonly models: readonly ShapeName[]
  readonly ops: readonly string[]
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
    `parts to run: ${parts.join(',')}; checks: the first three; default: all but soak`,
    listOf(parts, { checks: ['ops', 'train', 'two'] }),
    parts.filter((part) => part !== 'soak'),
  )
  .option('--json <file>', 'write all findings there')
  .option('--ops <names>', 'ops to compare (all)', listOf([...referenceKernels.keys()]), [...referenceKernels.keys()])
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

/** In several processes, for the reference is slow; where a kernel breaks the device, the next process goes on behind it. */
async function ops(): Promise<void> {
  const waiting = unitsOf(options.ops, quick)
  const lane = async (): Promise<void> => {
    while (waiting.length > 0) {
      let current: number | undefined
      let broken = false
      const take = (finding: OpFinding): void => {
        found.ops.push(finding)
        broken ||= finding.broken
        current = undefined
      }
      const order = (): number | undefined => {
        current = broken ? undefined : waiting.shift()
        return current
      }
      const ending = await runWork('ops', { device, seed, quick } satisfies OpsRequest, take, order)
      if (current === undefined) continue
      const { op, float } = units[current]!
      const wrong = [`${op}: the process, expected to end in order, got ${ending}`]
      found.ops.push({
        unit: current,
        op,
        float,
        cases: 0,
        left: 0,
        error: Infinity,
        share: Infinity,
        wrong,
        broken: true,
      })
    }
  }
  const lanes = Math.max(1, Math.min(12, availableParallelism() - 1, waiting.length))
  await Promise.all(Array.from({ length: lanes }, lane))
  found.ops.sort((a, b) => a.unit - b.unit)
  print(`\n${opsTable(found.ops)}`)
}

/** Ways of collectives, each case in a process of its own, which a hang ends. */
async function soaking(): Promise<void> {
  const steps = quick || device !== 'cuda' ? 50 : 1000
  for (const name of soakCases) {
    await run('soak', { steps, name }, (finding: TrainingFinding) => {
      found.training.push(finding)
      print(trainingTable([finding]))
    })
    save()
  }
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

async function speed(
  shape: ShapeName,
  ranks: number,
  stage: 0 | 1 | 2 | 3,
  { mode = 'bf16', offload = false }: { readonly mode?: TrainMode; readonly offload?: boolean } = {},
): Promise<void> {
  const request = {
    shape,
    ranks,
    stage,
    mode,
    offload,
    free: wants('speed', 'two', 'offload') && !quick ? 50 : 0,
    profile: wants('profile') && ranks === 1 && (stage === 0 || offload) && mode === 'bf16',
    geluEpilogues: options.geluEpilogues ?? false,
  } satisfies Omit<SpeedRequest, 'device'>
  await run('speed', request, (finding: SpeedFinding) => found.speed.push(finding))
  save()
}

/** A step in each stage on one GPU, where nothing is sliced, against stage 0. */
async function stagesOf(shape: ShapeName): Promise<void> {
  for (const stage of [1, 2, 3] as const) await speed(shape, 1, stage)
  const ms = (finding: SpeedFinding): number => finding.freeMs ?? finding.ms
  const own = found.speed.filter((one) => one.shape === shape && one.ranks === 1 && one.mode === 'bf16' && !one.offload)
  const whole = own.find(({ stage }) => stage === 0)
  const rest = own.filter(({ stage }) => stage > 0)
  if (!whole || rest.length < 3) return
  const shares = rest.map((one) => ms(one) / ms(whole))
  found.training.push({
    check: `${shape} on one GPU: every ZeRO stage within 1 % of stage 0`,
    ok: shares.every((share) => Math.abs(share - 1) <= 0.01),
    got: rest.map(({ stage }, i) => `ZeRO ${stage} ${((shares[i]! - 1) * 100).toFixed(2)} %`).join(', '),
  })
  print(`\n${trainingTable(found.training.slice(-1))}`)
}

async function peersOf(shape: ShapeName, ranks: number, of: readonly PeerMode[]): Promise<void> {
  for (const mode of torch?.name ? of.filter((one) => options.peers.includes(one)) : []) {
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
if (wants('ops')) {
  await ops()
  const compared = compareDeclarations(options.python ?? process.env['DEEPTROUPE_PYTHON'] ?? 'python3')
  if (typeof compared === 'string') note(compared)
  else found.training.push(compared)
  if (typeof compared !== 'string') print(trainingTable([compared]))
}
if (wants('train')) await training(1)
if (wants('two') && gpus < 2) note('two GPUs: not run, one GPU found')
if (wants('two') && gpus >= 2) await training(2)
if (wants('soak') && gpus < 2) note('soak: not run, one GPU found')
if (wants('soak') && gpus >= 2) await soaking()
if (wants('speed', 'profile', 'kernels')) await measureCeilings()
if (wants('speed', 'memory', 'profile')) {
  for (const shape of models) {
    await speed(shape, 1, 0)
    if (!wants('speed')) continue
    await peersOf(shape, 1, besides.bf16)
    if (shape === 'd24' || shape === 'tiny') await stagesOf(shape)
    if (shape === 'd12' || shape === 'tiny') {
      for (const mode of ['stochastic', 'fp32', 'tf32'] as const) {
        await speed(shape, 1, 0, { mode })
        await peersOf(shape, 1, mode === 'stochastic' ? [] : besides[mode])
      }
    }
  }
}
if (wants('speed', 'offload')) {
  await measureHost()
  await speed(offloaded, 1, 2, { offload: true })
}
if (wants('two') && gpus >= 2) {
  for (const shape of models.filter((name) => name !== 'd12')) {
    for (const stage of [1, 2, 3] as const) await speed(shape, 2, stage)
    if (shape === 'd24') await peersOf(shape, 2, ['compile'])
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
