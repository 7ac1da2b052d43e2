// The compiled programs of a small GPT-2: what the plan promises, checked instruction by instruction without running anything.
import test from 'ava'
import { decodeProgram, type Program } from '../../../kernels/abi/program.js'
import { cpuBackend } from '../../../kernels/cpu/backend.js'
import { byteLength, dtypeBytes } from '../../../kernels/ops/definition.js'
import { opNamed } from '../../../kernels/ops/index.js'
import { stepState } from '../../../kernels/ops/step.js'
import { verifyProgram } from '../../../native/verify.js'
import {
  type Compilation,
  type CompileOptions,
  compile,
  fullPrecision,
  type Precision,
  type Recompute,
} from '../../../runtime/graph/compile.js'
import { fragmentsOf } from '../../../runtime/graph/partition/layout.js'
import { cheapOps } from '../../../runtime/graph/passes/recompute.js'
import { crossEntropy } from '../../../runtime/nn/functional.js'
import { GPT2 } from '../../../runtime/nn/models/gpt2.js'
import { namedParameters } from '../../../runtime/nn/module.js'
import { noLossScale } from '../../../runtime/optim/index.js'

const model = () =>
  new GPT2({
    vocab_size: 64,
    n_positions: 24,
    n_embd: 48,
    n_layer: 3,
    n_head: 3,
    resid_pdrop: 0.1,
    embd_pdrop: 0.1,
    attn_pdrop: 0.1,
  })

const precisions: Readonly<Record<string, Partial<Precision>>> = {
  f32: {},
  bf16: { dtype: 'bf16', gradients: 'bf16' },
  'f16 with f32 gradients': { dtype: 'f16' },
  'bf16 accumulation': { dtype: 'bf16', gradients: 'bf16', accumulation: 'bf16' },
  'bf16 with norms in f32': { dtype: 'bf16', gradients: 'bf16', keeps: (path) => /ln_/.test(path) },
}

function compiled(
  options: Partial<CompileOptions> & {
    accumulation?: number
    checkpointActivations?: boolean
    recompute?: Recompute
    lossScaling?: boolean
    optimizer?: 'adam' | 'sgd'
    stochasticRounding?: boolean
  } = {},
): Compilation {
  const gpt = options.model ?? model()
  return compile({
    model: gpt,
    ranks: 2,
    stage: 2,
    microBatch: 2,
    sequence: 16,
    gathers: { maxReuseDistance: 0, maxLiveParameters: 1e9, prefetchBucketSize: 0 },
    persistenceThreshold: 0,
    persistenceLimit: 1e9,
    backend: cpuBackend(1),
    training: {
      optimizer: {
        kind: options.optimizer ?? 'adam',
        attributes:
          options.optimizer === 'sgd' ? { momentum: 0, dampening: 0, nesterov: 0 } : { decoupled: 1, epsilon: 1e-8 },
        groups: [{ names: namedParameters(gpt).map(({ name }) => name), weightDecay: 0.1 }],
        stochasticRounding: options.stochasticRounding ?? false,
      },
      accumulation: options.accumulation ?? 1,
      clipping: 1,
      reduceBucketSize: 40_000,
      allgatherBucketSize: 40_000,
      recompute: options.recompute ?? { cheap: [], blocks: options.checkpointActivations ? 3 : 0 },
      overflow: { skips: false, scales: options.lossScaling ?? false, lossScale: noLossScale },
    },
    environment: {},
    ...options,
  })
}

const bytesOf = (program: Program, index: number): number =>
  program.tensors[index]!.shape.reduce((a, b) => a * b, 1) * dtypeBytes[program.tensors[index]!.dtype]

/**
 * Plays a program on an imaginary memory that remembers which instruction wrote each 64-byte line last, and reports reads of lines
 * that nobody wrote. A temporary that was overwritten too early shows as a read of another tensor's write.
 */
function lateReads(program: Program, fixedBytes: Record<string, number>): string[] {
  const problems: string[] = []
  const writer = new Map<string, string>()
  program.instructions.forEach((instruction, at) => {
    const op = opNamed(instruction.op)
    const lines = (index: number): string[] => {
      const { arena, byteOffset } = program.tensors[index]!
      const keys: string[] = []
      for (let line = byteOffset; line < byteOffset + bytesOf(program, index); line += 64)
        keys.push(`${arena} ${line >> 6}`)
      return keys
    }
    for (const [i, index] of instruction.inputs.entries()) {
      if (index === null) continue
      const { arena, byteOffset } = program.tensors[index]!
      if (byteOffset < (fixedBytes[arena] ?? 0)) continue
      for (const line of lines(index)) {
        if (!writer.has(line)) problems.push(`${at} ${instruction.op} reads input ${i} (${line}) that nobody wrote`)
      }
    }
    instruction.outputs.forEach((index, o) => {
      if (index === null) return
      for (const line of lines(index)) writer.set(line, `${at}`)
      // An output may lie on an input only where the op allows it.
      for (const [i, input] of instruction.inputs.entries()) {
        if (input === null) continue
        const a = program.tensors[input]!
        const b = program.tensors[index]!
        const overlap =
          a.arena === b.arena &&
          a.byteOffset < b.byteOffset + bytesOf(program, index) &&
          b.byteOffset < a.byteOffset + bytesOf(program, input)
        const allowed = [...(op.inPlace ?? []), ...(op.aliases ?? [])].some(([from, to]) => from === i && to === o)
        if (overlap && !(allowed && a.byteOffset === b.byteOffset)) {
          problems.push(`${at} ${instruction.op}: output ${o} lies on input ${i}`)
        }
      }
    })
    instruction.outputs.forEach((a, i) => {
      instruction.outputs.slice(i + 1).forEach((b) => {
        if (a === null || b === null) return
        const [x, y] = [program.tensors[a]!, program.tensors[b]!]
        if (
          x.arena === y.arena &&
          x.byteOffset < y.byteOffset + bytesOf(program, b) &&
          y.byteOffset < x.byteOffset + bytesOf(program, a)
        ) {
          problems.push(`${at} ${instruction.op}: two outputs share memory`)
        }
      })
    })
  })
  return problems
}

for (const ranks of [1, 2, 3]) {
  for (const stage of [0, 1, 2, 3] as const) {
    for (const accumulation of [1, 2, 3]) {
      for (const checkpointActivations of [false, true]) {
        test(`no operand is read before it is written: ${ranks} ranks, stage ${stage}, ${accumulation} micro-steps${checkpointActivations ? ', checkpointing' : ''}`, (t) => {
          const { programs, plan } = compiled({ ranks, stage, accumulation, checkpointActivations })
          const fixed: Record<string, number> = {}
          for (const { arena, byteOffset, bytes } of plan.fixed.values()) {
            fixed[arena] = Math.max(fixed[arena] ?? 0, byteOffset + bytes)
          }
          for (const { program, bytes } of Object.values(programs)) {
            t.deepEqual(lateReads(program, fixed), [])
            t.deepEqual(decodeProgram(bytes), JSON.parse(JSON.stringify(program)))
          }
          const steps = Object.keys(programs).filter((name) => ['only', 'first', 'middle', 'last'].includes(name))
          t.deepEqual(
            steps,
            accumulation === 1 ? ['only'] : accumulation === 2 ? ['first', 'last'] : ['first', 'middle', 'last'],
          )
        })
      }
    }
  }
}

for (const [name, given] of Object.entries(precisions).slice(1)) {
  for (const optimizer of ['adam', 'sgd'] as const) {
    test(`${name}, ${optimizer}: no operand is read before it is written, in all stages`, (t) => {
      const precision = { ...fullPrecision, ...given }
      for (const ranks of [1, 2, 3]) {
        for (const stage of [0, 1, 2, 3] as const) {
          for (const recompute of [
            { cheap: [], blocks: 0 },
            { cheap: cheapOps, blocks: 1 },
          ]) {
            const lossScaling = precision.dtype === 'f16'
            const options = { ranks, stage, precision, accumulation: 3, recompute, lossScaling, optimizer }
            const { programs, plan } = compiled({ ...options, persistenceThreshold: stage === 3 ? 50 : 0 })
            const fixed: Record<string, number> = {}
            for (const { arena, byteOffset, bytes } of plan.fixed.values()) {
              fixed[arena] = Math.max(fixed[arena] ?? 0, byteOffset + bytes)
            }
            for (const { program, bytes } of Object.values(programs)) {
              t.deepEqual(lateReads(program, fixed), [])
              t.deepEqual(decodeProgram(bytes), JSON.parse(JSON.stringify(program)))
              verifyProgram(program, { rank: ranks - 1, ranks, backend: cpuBackend(1) })
            }
          }
        }
      }
    })
  }
}

test('16-bit weights: half the bytes, f32 masters in the shard, accumulators as asked', (t) => {
  const ranks = 4
  for (const stage of [0, 1, 2, 3] as const) {
    const sizes = (name: string): Record<string, number> => {
      const precision = { ...fullPrecision, ...precisions[name] }
      const { plan, layout } = compiled({ ranks, stage, precision, accumulation: 2 })
      const unit = layout.length
      return Object.fromEntries(
        (['parameters', 'gradients', 'optimizer'] as const).map((arena) => [
          arena,
          (plan.arenas[arena] - (arena === 'parameters' ? byteLength(stepState) : 0)) / unit,
        ]),
      )
    }
    const [whole, slice] = [1, 1 / ranks]
    const share = (from: number): number => (stage >= from ? slice : whole)
    t.deepEqual(sizes('f32'), { parameters: 4 * share(3), gradients: 4 * share(1), optimizer: 8 * share(1) })
    t.deepEqual(sizes('bf16'), { parameters: 2 * share(3), gradients: 4 * share(1), optimizer: 12 * share(1) })
    t.deepEqual(sizes('bf16 accumulation'), {
      parameters: 2 * share(3),
      gradients: 2 * share(1),
      optimizer: 12 * share(1),
    })
  }
})

test('rounded stochastically, 16-bit weights have no masters; each element has one number in every stage', (t) => {
  const precision = { ...fullPrecision, ...precisions['bf16'] }
  const numbersOf = (options: Partial<CompileOptions>): Record<string, number> => {
    const { programs, layout } = compiled({ precision, stochasticRounding: true, ...options })
    const numbers = new Map<string, number>()
    const { tensors, instructions } = programs.only!.program
    for (const { op, inputs, attributes, debug } of instructions) {
      if (op !== 'adam') continue
      t.is(tensors[inputs[0]!]!.arena, 'parameters')
      t.is(tensors[inputs[0]!]!.dtype, 'bf16')
      t.is(inputs[5], null)
      const unit = layout.units.find(({ name }) => name === debug.module)!
      const ranges = attributes['ranges'] as number[]
      for (let r = 0; r < ranges.length; r += 2) {
        const { name } = unit.parameters.find(({ start }) => start === ranges[r])!
        numbers.set(name, (attributes['origin'] as number) + ranges[r]!)
      }
    }
    return Object.fromEntries(numbers)
  }
  const whole = numbersOf({ ranks: 1, stage: 0 })
  t.is(Object.keys(whole).length, namedParameters(model()).length)
  t.is(new Set(Object.values(whole)).size, Object.keys(whole).length)
  t.true(Object.values(whole).every((number) => number % 1024 === 0))
  for (const stage of [0, 1, 2, 3] as const) {
    for (const persistenceThreshold of [0, 200, 1e6])
      t.deepEqual(numbersOf({ ranks: 4, stage, persistenceThreshold }), whole)
  }
  for (const stage of [0, 3] as const) {
    const { plan, layout } = compiled({ ranks: 4, stage, precision, stochasticRounding: true, accumulation: 2 })
    t.is(plan.arenas.optimizer / layout.length, 8 / (stage === 0 ? 1 : 4))
  }
})

test('in 16 bits what crosses between ranks is 16 bits; f32 stays where it must', (t) => {
  const precision = { ...fullPrecision, ...precisions['bf16'] }
  const { programs } = compiled({ ranks: 2, stage: 3, precision, accumulation: 2 })
  const { program } = programs.last!
  const dtypesOf = (op: string, side: 'inputs' | 'outputs', position: number): Set<string | undefined> =>
    new Set(
      program.instructions
        .filter((instruction) => instruction.op === op)
        .map((instruction) => program.tensors[instruction[side][position]!]?.dtype),
    )
  t.deepEqual(dtypesOf('all_gather', 'outputs', 0), new Set(['bf16', 'f64']))
  t.deepEqual(dtypesOf('reduce_scatter', 'inputs', 0), new Set(['bf16']))
  t.deepEqual(dtypesOf('reduce_scatter', 'outputs', 0), new Set(['f32']))
  t.deepEqual(dtypesOf('linear', 'inputs', 1), new Set(['bf16']))
  t.deepEqual(dtypesOf('layer_norm', 'outputs', 1), new Set(['f32']))
  t.deepEqual(dtypesOf('linear_cross_entropy_gradients', 'outputs', 0), new Set(['f32']))
  // The rows of a table are added up in f32, then rounded once.
  t.deepEqual(dtypesOf('embedding_backward', 'outputs', 0), new Set(['f32']))
  t.deepEqual(dtypesOf('adam', 'inputs', 0), new Set(['f32']))
  t.deepEqual(dtypesOf('adam', 'outputs', 3), new Set(['bf16']))
})

test('a loss of the user computes in f32 on 16-bit logits', (t) => {
  const precision = { ...fullPrecision, ...precisions['bf16'] }
  const loss: NonNullable<CompileOptions['loss']> = (logits, targets) =>
    crossEntropy(logits.scale(0.5), targets).scale(2)
  const { programs } = compiled({ ranks: 1, precision, loss })
  const { program } = programs.only!
  const scales = program.instructions.filter(({ op, debug }) => op === 'scale' && debug.phase === 'forward')
  // The two above, and the compiler's own.
  t.is(scales.length, 3)
  for (const { inputs, outputs } of scales) {
    t.is(program.tensors[inputs[0]!]!.dtype, 'f32')
    t.is(program.tensors[outputs[0]!]!.dtype, 'f32')
  }
  const dlogits = program.instructions.find(({ op }) => op === 'cross_entropy_backward')
  t.is(program.tensors[dlogits!.outputs[0]!]!.dtype, 'f32')
  const [head] = program.instructions.filter(
    ({ op, debug }) => op === 'linear_weight_gradient' && debug.module === 'lm_head',
  )
  t.is(program.tensors[head!.inputs[1]!]!.dtype, 'bf16')
})

test('modules kept in f32 keep their parameters, in units of their own, and compute in f32', (t) => {
  const precision = { ...fullPrecision, ...precisions['bf16 with norms in f32'] }
  const { programs, layout } = compiled({ ranks: 2, stage: 2, precision })
  for (const { name, unit } of layout.parameters) t.is(unit.dtype, name.includes('ln_') ? 'f32' : 'bf16', name)
  const { program } = programs.only!
  for (const { op, inputs } of program.instructions) {
    if (op === 'layer_norm') t.is(program.tensors[inputs[0]!]!.dtype, 'f32')
    if (op === 'linear' || op === 'attention') t.is(program.tensors[inputs[0]!]!.dtype, 'bf16')
  }
})

test('recomputing costs instructions and saves activations, more with each step', (t) => {
  const steps: Recompute[] = [
    { cheap: [], blocks: 0 },
    { cheap: ['activation'], blocks: 0 },
    { cheap: cheapOps, blocks: 0 },
    { cheap: cheapOps, blocks: 2 },
  ]
  const sizes = steps.map((recompute) => {
    const { plan, programs } = compiled({ ranks: 1, recompute })
    return [plan.arenas.activations, programs.only!.program.instructions.length] as const
  })
  for (let i = 1; i < sizes.length; i++) {
    t.true(sizes[i]![0] < sizes[i - 1]![0], `${sizes[i]![0]} bytes after ${sizes[i - 1]![0]}`)
    t.true(sizes[i]![1] > sizes[i - 1]![1])
  }
})

test('bytes by category fall with the stage', (t) => {
  const ranks = 4
  for (const stage of [0, 1, 2, 3] as const) {
    const { plan, layout } = compiled({ ranks, stage })
    const whole = layout.length * 4
    t.is(plan.arenas.parameters, (stage >= 3 ? whole / ranks : whole) + byteLength(stepState))
    t.is(plan.arenas.gradients, stage >= 1 ? whole / ranks : whole)
    t.is(plan.arenas.optimizer, (stage >= 1 ? whole / ranks : whole) * 2)
  }
})

test('fragments of all ranks cover every element of every parameter once', (t) => {
  for (const ranks of [1, 2, 3, 5]) {
    const { layout } = compiled({ ranks, stage: 2 })
    const covered = new Map(layout.parameters.map((slot) => [slot.name, new Uint8Array(slot.count)]))
    for (let rank = 0; rank < ranks; rank++) {
      for (const { name, start, count } of fragmentsOf(layout, rank)) {
        for (let i = start; i < start + count; i++) covered.get(name)![i]! += 1
      }
    }
    for (const counts of covered.values()) t.true(counts.every((n) => n === 1))
  }
})

test('equal options give equal fingerprints, other options others', (t) => {
  const hash = (options: Parameters<typeof compiled>[0]) => compiled(options).programs.only!.hash
  t.is(hash({}), hash({}))
  t.not(hash({}), hash({ stage: 3 }))
  t.not(hash({}), hash({ environment: { isa: 'avx2' } }))
})

test('checkpointing needs fewer bytes of activations', (t) => {
  const plain = compiled({ sequence: 24, microBatch: 8 })
  const saved = compiled({ sequence: 24, microBatch: 8, checkpointActivations: true })
  t.true(saved.programs.only!.program.arenas.activations < plain.programs.only!.program.arenas.activations * 0.7)
})

test('fusions are made where the backend lists them, and only there', (t) => {
  const names = (c: Compilation) => new Set(c.programs.only!.program.instructions.map((i) => i.op))
  const fused = names(compiled())
  for (const op of ['linear_activation', 'linear_input_gradient_activation', 'linear_cross_entropy_gradients']) {
    t.true(fused.has(op), op)
  }
  t.false(fused.has('activation_backward'))
  const plain = names(compiled({ backend: { ...cpuBackend(1), fusions: [] } }))
  t.false(plain.has('linear_activation'))
  t.true(plain.has('cross_entropy'))
})
