// Plans for GPUs, which need none: memory of GPT-2 as it is trained, logits in chunks, addresses, what fingerprints say, and what a
// machine that is too small is told.
import test from 'ava'
import { chooseDevice, expectDevice } from '../../../actors/engine/device.js'
import { type InitializeOptions, type Prepared, prepare } from '../../../actors/engine/prepare.js'
import { expectRoom } from '../../../actors/engine/room.js'
import { gpuBackend } from '../../../kernels/gpu/backend.js'
import { byteLength } from '../../../kernels/ops/definition.js'
import { opNamed } from '../../../kernels/ops/index.js'
import { machine } from '../../../native/index.js'
import { verifyProgram } from '../../../native/verify.js'
import { planTotals } from '../../../runtime/graph/compile.js'
import { modelOf, type ShapeName, shapes } from '../../gpu/models.js'
import { formulaSource, smallModel, sourceFor, trainConfig } from '../../support/training.js'

const bf16 = { bf16: { enabled: true } }
const hasGpu = machine().gpu.devices.length > 0

function prepared(options: Partial<InitializeOptions> = {}, config: object = {}): Prepared {
  const model = options.model ?? smallModel()
  return prepare({
    model,
    data: sourceFor(model, 500),
    config: trainConfig({ train: 8, micro: 8 }, { ...bf16, ...config }),
    device: 'cuda',
    ...options,
  })
}

const gpt2 = (name: ShapeName, options: Partial<InitializeOptions> = {}): Prepared =>
  prepare({
    model: modelOf(shapes[name]),
    data: formulaSource(200, 1024, 50304),
    config: { train_micro_batch_size_per_gpu: shapes[name].batch, ...bf16 },
    device: 'cuda',
    ...options,
  })

const totalOf = ({ compilation }: Prepared): number => planTotals(compilation.plan).total

// torch.cuda.max_memory_allocated of the compiled step of PyTorch 2.11 under autocast on an H200, same shapes.
for (const [name, peer] of [
  ['d12', 28.5],
  ['d24', 35.1],
  ['d48', 64.7],
] as const) {
  test.serial(`${name} is planned in less memory than PyTorch's compiled step took`, (t) => {
    // On a machine whose GPU is smaller, logits come in chunks.
    const plan = gpt2(name)
    t.log(`${(totalOf(plan) / 2 ** 30).toFixed(1)} GiB`)
    t.true(totalOf(plan) < peer * 2 ** 30)
    // One micro-step sends and keeps its gradients in bf16.
    const { gradients, parameters } = plan.compilation.plan.arenas
    t.is(gradients, parameters)
  })
}

test('under a limit the logits come in as few chunks as fit, before anything is recomputed', (t) => {
  const model = smallModel({ vocab: 5000 })
  const config = { train_batch_size: 64, train_micro_batch_size_per_gpu: 64 }
  const free = prepared({ model }, config)
  t.is(free.choices.logitChunks, 1)
  const memoryLimit = totalOf(free) - 2 * 64 * 64 * 5000 * 0.6
  const fitted = prepared({ model, memoryLimit }, config)
  const { logitChunks, recompute } = fitted.choices
  t.true(logitChunks > 1)
  t.deepEqual(recompute, { cheap: [], blocks: 0 })
  t.true(totalOf(fitted) <= memoryLimit)
  const fewer = free.planner({ ...fitted.choices, logitChunks: logitChunks - 1 })
  t.true(planTotals(fewer.plan).total > memoryLimit)
  const head = fitted.compilation.programs.only!.program.instructions.find(({ op }) =>
    op.endsWith('_entropy_gradients'),
  )
  t.is(head!.attributes['rows'], gpuBackend(logitChunks).logitRows(64 * 64, 5000))
})

test('the order of tokens is an input of every micro-step, and the scratch memory holds no sort', (t) => {
  const { compilation } = prepared({}, { train_batch_size: 24, train_micro_batch_size_per_gpu: 8 })
  for (const name of ['first', 'middle', 'last'] as const) {
    const { program } = compilation.programs[name]!
    const gradient = program.instructions.find(({ op, inputs }) => op === 'embedding_backward' && inputs[3] !== null)!
    t.is(gradient.inputs[0], program.bindings['tokens'])
    t.is(gradient.inputs[3], program.bindings['order'])
    const [tokens, order] = [
      program.tensors[program.bindings['tokens']!]!,
      program.tensors[program.bindings['order']!]!,
    ]
    t.deepEqual(order.shape, [tokens.shape[0]! * tokens.shape[1]!])
    const rows = program.tensors[gradient.outputs[0]!]!.shape[0]!
    t.is(byteLength(program.tensors[gradient.workspace!]!), Math.ceil((4 * (rows + 1)) / 256) * 256)
  }
  t.false('order' in compilation.programs.evaluate!.program.bindings)
})

test('addresses are multiples of 256; collectives have scratch memory that nothing else uses', (t) => {
  for (const stage of [0, 1, 2, 3] as const) {
    const { compilation } = prepared(
      { ranks: 2 },
      { train_batch_size: 16, train_micro_batch_size_per_gpu: 4, zero_optimization: { stage } },
    )
    for (const { program } of Object.values(compilation.programs)) {
      verifyProgram(program, { rank: 1, ranks: 2, backend: gpuBackend() })
      const ends = { own: 0, collective: Number.POSITIVE_INFINITY }
      for (const { op, workspace } of program.instructions) {
        if (workspace === null) continue
        const scratch = program.tensors[workspace]!
        t.is(scratch.byteOffset % 256, 0)
        t.true(scratch.byteOffset + byteLength(scratch) <= program.arenas.workspace)
        if ('ranks' in opNamed(op).attributes) ends.collective = Math.min(ends.collective, scratch.byteOffset)
        else ends.own = Math.max(ends.own, scratch.byteOffset + byteLength(scratch))
      }
      t.true(ends.own <= ends.collective)
    }
    for (const { byteOffset } of compilation.plan.fixed.values()) t.is(byteOffset % 256, 0)
  }
})

test('the memory of a bucket on its way is not written before the next one goes', (t) => {
  for (const stage of [1, 2, 3] as const) {
    const zero = { stage, reduce_bucket_size: 1, stage3_param_persistence_threshold: 0 }
    const batch = { train_batch_size: 16, train_micro_batch_size_per_gpu: 8 }
    const { compilation } = prepared({ ranks: 2 }, { ...batch, zero_optimization: zero })
    const { tensors, instructions } = compilation.programs.only!.program
    let onTheWay: { readonly from: number; readonly to: number } | null = null
    let seen = 0
    for (const { op, inputs, outputs } of instructions) {
      const span = (index: number) => {
        const { byteOffset } = tensors[index]!
        return { from: byteOffset, to: byteOffset + byteLength(tensors[index]!) }
      }
      for (const index of outputs) {
        if (index === null || tensors[index]!.arena !== 'buckets' || !onTheWay) continue
        const { from, to } = span(index)
        t.false(from < onTheWay.to && onTheWay.from < to, `${op} in stage ${stage}`)
      }
      if (op !== 'reduce_scatter' || tensors[inputs[0]!]!.arena !== 'buckets') continue
      onTheWay = span(inputs[0]!)
      seen += 1
    }
    t.true(seen >= 4)
  }
})

test('the fingerprint names device, GPU, library and stored products; options that change bits change it', (t) => {
  const hash = (options: Partial<InitializeOptions>) => prepared(options).compilation.programs.only!.hash
  const { environment } = prepared().target
  t.deepEqual(Object.keys(environment), ['device', 'gpu', 'compute', 'cublasLt', 'products'])
  if (!hasGpu) t.is(environment['gpu'], 'unknown')
  t.is(hash({}), hash({}))
  t.not(hash({}), hash({ device: 'cpu' }))
  t.not(hash({}), hash({ gpu: { tf32: true } }))
  t.not(hash({ gpu: { tf32: true } }), hash({ gpu: { geluEpilogues: true } }))
})

test('settings that a device does not have are refused', (t) => {
  t.throws(() => prepared({ threads: 2 }), { message: /threads, expected none with device cuda, got 2/ })
  t.throws(() => prepared({ isa: 'avx2' }), { message: /isa, expected none with device cuda, got avx2/ })
  t.throws(() => prepared({ device: 'reference', gpu: {} }), { message: /gpu, expected device cuda with it/ })
})

test('a head size without tensor cores is a notice, once', (t) => {
  const slow = (notice: string) => notice.startsWith('attention with heads of')
  t.deepEqual(prepared().notices.filter(slow), [
    'attention with heads of 32 runs without tensor cores; fast sizes are 64, 80, 96, 128',
  ])
  t.deepEqual(prepared({ model: smallModel({ hidden: 128, heads: 2 }) }).notices.filter(slow), [])
  t.deepEqual(prepared({ device: 'cpu', threads: 1 }).notices.filter(slow), [])
})

/** What a run is told whose plan has `share` of the memory that it needs. */
function complaint(plan: Prepared, share: number): string {
  const capacity = Math.floor(share * plan.target.sharers * totalOf(plan))
  // The rules are those of the GPU; only how much is free is asked of the machine.
  const target = { ...plan.target, device: 'reference' as const, capacity }
  try {
    expectRoom({ ...plan, target })
    return ''
  } catch (error) {
    return (error as Error).message
  }
}

test('what does not fit is told with what would, each by itself', (t) => {
  const config = { train_batch_size: 32, train_micro_batch_size_per_gpu: 16 }
  const model = smallModel({ layers: 6 })
  const plan = prepared({ model, ranks: 2 }, config)
  t.is(complaint(plan, 1), '')
  const message = complaint(plan, 0.9)
  t.regex(
    message,
    /memory of the plan, expected at most [\d.]+ .iB on each GPU, got [\d.]+ .iB: [\d.]+ .iB too much; it would fit with /,
  )
  t.regex(message, /with activation checkpointing \(/)
  t.regex(message, /with micro-batches of 8 x 2 \(/)
  const memoryLimit = Math.floor(0.9 * totalOf(plan))
  const halved = prepared({ model, ranks: 2, memoryLimit }, { ...config, train_micro_batch_size_per_gpu: 8 })
  t.true(totalOf(halved) <= memoryLimit)
  t.deepEqual(halved.choices.recompute, { cheap: [], blocks: 0 })
})

test('a ZeRO stage is named where it is enough, the lowest', (t) => {
  const model = smallModel({ layers: 8, hidden: 192, heads: 3 })
  const plan = prepared({ model, ranks: 2 }, { train_batch_size: 2, train_micro_batch_size_per_gpu: 1 })
  const sizes = ([1, 2, 3] as const).map((stage) => planTotals(plan.planner({ ...plan.choices, stage }).plan).total)
  const share = (sizes[0]! + 1) / totalOf(plan)
  t.regex(complaint(plan, share), /it would fit with ZeRO stage 1 \(/)
})

test('what fits only together, and what never fits, is said', (t) => {
  const plan = prepared(
    { model: smallModel({ layers: 6 }), ranks: 2 },
    { train_batch_size: 32, train_micro_batch_size_per_gpu: 16 },
  )
  t.regex(
    complaint(plan, 0.01),
    /it would not fit even with ZeRO stage 3, activation checkpointing, micro-batches of 1 x 16 together \(/,
  )
})

if (!hasGpu) {
  test('without a GPU nothing starts, and one line says why', (t) => {
    t.notThrows(() => chooseDevice({ device: 'cuda' }, 4))
    const error = t.throws(() => expectDevice('cuda', 1))
    t.regex(error!.message, /^(gpu|addon): [^\n]*expected [^\n]*, got [^\n]*$/)
  })
}
