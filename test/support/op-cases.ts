// One list of calls for every op that computes: shapes even and odd, optional operands there and not, edges of tiles and chunks.
// The gradient suite takes those that are differentiable, the backend suite all of them.
import { activationKinds } from '../../kernels/ops/activation.js'
import { type Attributes, elements } from '../../kernels/ops/definition.js'
import { dtypeNumbers } from '../../kernels/ops/elementwise.js'
import type { FusionName } from '../../kernels/ops/fusion.js'
import type { ReferenceTensor } from '../../kernels/reference/index.js'
import { candidates, type Operand, type RandomTensors, runReference, type ScalarRoles, tensorOf } from './tensors.js'

export interface OpCase {
  readonly op: string
  readonly title: string
  readonly attributes: Attributes
  readonly roles: ScalarRoles
  readonly rank: number
  readonly ranks: number
  /** Only for comparing backends: too large for finite differences, or not smooth. */
  readonly compareOnly: boolean
  /** Only where the op's floats have 16 bits. */
  readonly halvesOnly: boolean
  /** The fused form that a backend has to have for it. */
  readonly needs?: FusionName
  inputs(random: RandomTensors): Operand[]
}

type Make = (random: RandomTensors) => Operand[]
type Options = Partial<Pick<OpCase, 'attributes' | 'roles' | 'rank' | 'ranks' | 'compareOnly' | 'halvesOnly' | 'needs'>>

export const opCase = (op: string, title: string, inputs: Make, options: Options = {}): OpCase => ({
  op,
  title: `${op}: ${title}`,
  attributes: {},
  roles: {},
  rank: 0,
  ranks: 1,
  compareOnly: options.halvesOnly ?? false,
  halvesOnly: false,
  ...options,
  inputs,
})

/** More elements than finite differences and repeated runs need; enough that kernels split their work between threads. */
const isLarge = (shape: readonly number[]): boolean => elements(shape) > 10_000
const show = (shape: readonly number[]): string => `[${shape.join(', ')}]`
const flags = (names: Readonly<Record<string, unknown>>): string =>
  Object.entries(names)
    .flatMap(([name, on]) => (on ? [name] : []))
    .join(', ')

function* elementwiseCases(): Generator<OpCase> {
  for (const [a, b] of [
    [
      [3, 5],
      [3, 5],
    ],
    [[2, 3, 5], [5]],
    [
      [2, 3, 7],
      [3, 7],
    ],
    [[1], [1]],
    [[33, 67], [67]],
    [[301, 259], [259]],
    [
      [301, 259],
      [301, 259],
    ],
  ] as const) {
    for (const op of ['add', 'multiply']) {
      yield opCase(op, `${show(a)} and ${show(b)}`, (r) => [r.normal(a), r.normal(b)], {
        compareOnly: isLarge(a),
      })
    }
    yield opCase('add', `${show(a)} in f32 and ${show(b)}`, (r) => [r.wide(a), r.normal(b)], { halvesOnly: true })
  }
  for (const shape of [[1], [7, 3], [301, 259]]) {
    yield opCase('scale', show(shape), (r) => [r.normal(shape)], {
      attributes: { factor: -0.7 },
      compareOnly: isLarge(shape),
    })
    yield opCase('copy', show(shape), (r) => [r.normal(shape)], { compareOnly: isLarge(shape) })
  }
  yield opCase('copy', 'of tokens', (r) => [r.integers([5, 3], 0, 100)], { compareOnly: true })
  const numberOf = (dtype: 'f32' | 'f64' | 'bf16' | 'f16') => dtypeNumbers.indexOf(dtype)
  for (const dtype of ['f32', 'f64', 'bf16', 'f16'] as const) {
    const options = { attributes: { dtype: numberOf(dtype) }, compareOnly: true }
    yield opCase('cast', `to ${dtype}`, (r) => [r.normal([67, 3], 10)], { ...options, compareOnly: dtype !== 'f64' })
    yield opCase('cast', `to ${dtype}, edges`, (r) => [tensorOf(r.float, [edges.length], edges)], options)
    yield opCase('cast', `f64 to ${dtype}, edges`, () => [tensorOf('f64', [edges.length], edges)], options)
  }
  yield opCase('reshape', '[6, 5] to [2, 15]', (r) => [r.normal([6, 5])], { attributes: { shape: [2, 15] } })
  for (const [shape, rank] of [
    [[3, 5], 1],
    [[2, 3, 5], 2],
    [[7], 1],
    [[1, 9], 1],
    [[5, 1], 1],
  ] as const) {
    yield opCase('sum_leading', `${show(shape)} to ${rank}`, (r) => [r.normal(shape)], { attributes: { rank } })
  }
  for (const shape of [
    [257, 17],
    [1025, 33],
    [300, 613],
  ]) {
    for (const wide of [0, 1]) {
      const options = { attributes: { rank: 1, wide }, compareOnly: true, halvesOnly: wide === 1 }
      yield opCase('sum_leading', `${show(shape)} ${flags({ wide })}`, (r) => [r.normal(shape)], options)
    }
  }
}

/** Zeros, ties, subnormals, the largest numbers and what lies beyond, in the 16-bit formats. */
const edges = [
  0,
  -0,
  1,
  -1,
  65504,
  65519,
  65520,
  -65520,
  2 ** -14,
  2 ** -15,
  2 ** -24,
  2 ** -25,
  3 * 2 ** -25,
  1 + 2 ** -11,
  1 + 3 * 2 ** -11,
  1 + 2 ** -8,
  1 + 3 * 2 ** -8,
  2 ** -126,
  2 ** -133,
  2 ** -134,
  3.38e38,
  3.4e38,
  -3.4e38,
  Infinity,
  -Infinity,
  NaN,
  // Between two numbers of 16 bits only to those who have not rounded to f32 before.
  1 + 2 ** -8 + 2 ** -40,
  1 + 2 ** -8 - 2 ** -40,
  -1 - 2 ** -11 - 2 ** -40,
  2 ** -25 + 2 ** -60,
  2 ** -134 + 2 ** -170,
  2 ** -160,
  1e300,
  -1e300,
]

function* activationCases(): Generator<OpCase> {
  for (const [kind, name] of activationKinds.entries()) {
    for (const shape of [[5, 3], [1], [130, 257]]) {
      const options = { attributes: { kind }, compareOnly: isLarge(shape) }
      yield opCase('activation', `${name} ${show(shape)}`, (r) => [r.normal(shape, 2)], options)
      const backward: Make = (r) => [r.normal(shape), r.normal(shape, 2)]
      yield opCase('activation_backward', `${name} ${show(shape)}`, backward, options)
    }
    const tails: Make = (r) => [tensorOf(r.float, [8], [-40, -9, -5.5, -1e-4, 1e-30, 5.5, 9, 40])]
    yield opCase('activation', `${name}, tails`, tails, { attributes: { kind }, compareOnly: true })
    const backwardTails: Make = (r) => [r.normal([8]), ...tails(r)]
    yield opCase('activation_backward', `${name}, tails`, backwardTails, { attributes: { kind } })
  }
}

function* linearCases(): Generator<OpCase> {
  const sizes = [
    { rows: [2, 3], k: 5, n: 7, compareOnly: false },
    { rows: [1], k: 1, n: 1, compareOnly: false },
    { rows: [67], k: 35, n: 129, compareOnly: true },
    { rows: [3], k: 771, n: 130, compareOnly: true },
    { rows: [130], k: 17, n: 1029, compareOnly: true },
    { rows: [515], k: 64, n: 48, compareOnly: true },
    { rows: [137], k: 803, n: 549, compareOnly: true },
    { rows: [11], k: 4099, n: 37, compareOnly: true },
  ]
  // So deep that packed panels do not hold all of it, and sums of 16-bit results wait for the rest.
  yield opCase(
    'linear',
    '[5] x 5003 x 481 residual',
    (r) => [r.normal([5, 5003]), r.normal([481, 5003]), null, r.normal([5, 481])],
    {
      attributes: { transposed: 0 },
      compareOnly: true,
    },
  )
  for (const { rows, k, n, compareOnly } of sizes) {
    for (const transposed of [0, 1]) {
      const title = `${show(rows)} x ${k} x ${n}${transposed ? ', transposed' : ''}`
      const options = { attributes: { transposed }, compareOnly }
      const weight = transposed ? [k, n] : [n, k]
      const [x, y] = [
        [...rows, k],
        [...rows, n],
      ]
      for (const [bias, residual] of [
        [true, true],
        [true, false],
        [false, true],
        [false, false],
      ]) {
        if (compareOnly && bias !== residual) continue
        yield opCase(
          'linear',
          `${title} ${flags({ bias, residual })}`,
          (r) => [r.normal(x), r.normal(weight), bias ? r.normal([n]) : null, residual ? r.normal(y) : null],
          options,
        )
      }
      yield opCase('linear_input_gradient', title, (r) => [r.normal(y), r.normal(weight)], options)
      yield opCase('linear_weight_gradient', title, (r) => [r.normal(x), r.normal(y)], options)
      yield opCase('linear_weight_gradient', `${title}, wide`, (r) => [r.normal(x), r.normal(y)], {
        attributes: { transposed, wide: 1 },
        halvesOnly: true,
      })
      for (const [kind, name] of activationKinds.entries()) {
        if (compareOnly && kind > 0) continue
        const fused = { attributes: { transposed, kind }, compareOnly }
        const bias = kind !== 1
        yield opCase(
          'linear_activation',
          `${title} ${name} ${flags({ bias })}`,
          (r) => [r.normal(x), r.normal(weight), bias ? r.normal([n]) : null],
          fused,
        )
        yield opCase(
          'linear_input_gradient_activation',
          `${title} ${name}`,
          (r) => [r.normal(y), r.normal(weight), r.normal(x)],
          fused,
        )
        yield opCase(
          'linear_input_gradient_activation',
          `${title} ${name}, sum`,
          (r) => [r.normal(y), r.normal(weight), r.normal(x)],
          { ...fused, attributes: { ...fused.attributes, sum: 1 }, needs: 'linear_input_gradient_activation_sum' },
        )
      }
    }
  }
}

function* normCases(): Generator<OpCase> {
  for (const shape of [
    [3, 5],
    [2, 3, 8],
    [1, 1],
    [65, 33],
    [300, 160],
  ]) {
    const width = shape[shape.length - 1]!
    for (const [weight, bias] of [
      [true, true],
      [true, false],
      [false, true],
      [false, false],
    ]) {
      const title = `${show(shape)} ${flags({ weight, bias })}`
      const options = { attributes: { epsilon: 0.1 }, compareOnly: shape[0]! > 100 }
      const forward: Make = (r) => [
        r.normal(shape, 1.5, 0.5),
        weight ? r.normal([width]) : null,
        bias ? r.normal([width]) : null,
      ]
      yield opCase('layer_norm', title, forward, options)
      if (bias) continue
      for (const [residual, wide, sum] of [
        [false, 0, 0],
        [true, 0, 0],
        [true, 1, 0],
        [true, 0, 1],
        [false, 1, 1],
      ] as const) {
        yield opCase(
          'layer_norm_backward',
          `${title} ${flags({ residual, wide, sum })}`,
          (r) => {
            const [x, w] = forward(r) as [Operand & object, Operand]
            const [, mean, rstd] = runReference('layer_norm', [x, w, null], options.attributes)
            return [r.normal(shape), x, w, mean!, rstd!, residual ? r.normal(shape) : null]
          },
          {
            attributes: { wide, sum },
            compareOnly: options.compareOnly,
            halvesOnly: wide === 1,
            ...(sum === 1 && { needs: 'layer_norm_backward_sum' as const }),
          },
        )
      }
    }
  }
}

function* attentionCases(): Generator<OpCase> {
  const roles = { seed: 2 ** 40 + 12345, step: 7, sample: 11 }
  for (const [batch, sequence, heads, size, compareOnly] of [
    [2, 5, 2, 3, false],
    [1, 1, 1, 1, false],
    [1, 17, 3, 8, false],
    [2, 65, 2, 16, true],
    [1, 131, 3, 20, true],
    [1, 301, 2, 64, true],
    [1, 40, 1, 129, true],
  ] as const) {
    for (const causal of [1, 0]) {
      for (const dropout of [0, 0.3]) {
        const title = `${show([batch, sequence, heads, size])} ${flags({ causal, dropout })}`
        const attributes = { heads, causal, scale: 1 / Math.sqrt(size), dropout, op_id: 5 }
        const shape = [batch, sequence, 3 * heads * size]
        yield opCase('attention', title, (r) => [r.normal(shape)], { attributes, roles, compareOnly })
        const backward: Make = (r) => {
          const qkv = r.normal(shape)
          const [o, lse] = runReference('attention', [qkv], attributes, roles)
          return [r.normal(o!.shape), qkv, o!, lse!]
        }
        yield opCase('attention_backward', title, backward, { attributes, roles, compareOnly })
      }
    }
  }
}

function* softmaxCases(): Generator<OpCase> {
  for (const shape of [
    [3, 5],
    [2, 2, 7],
    [4, 1],
    [33, 259],
  ]) {
    yield opCase('softmax', show(shape), (r) => [r.normal(shape, 3)])
    const backward: Make = (r) => [r.normal(shape), runReference('softmax', [r.normal(shape, 3)], {})[0]!]
    yield opCase('softmax_backward', show(shape), backward)
  }
  yield opCase('softmax', 'far from zero', (r) => [r.normal([5, 19], 3, 300)])
}

function* crossEntropyCases(): Generator<OpCase> {
  for (const [rows, classes, compareOnly] of [
    [[2, 3], 5, false],
    [[1], 1, false],
    [[7], 33, false],
    [[67], 1027, true],
    [[9], 5003, true],
  ] as const) {
    for (const masked of [false, true]) {
      const scale = 0.125
      const targets = (r: RandomTensors) => {
        const tensor = r.integers(rows, 0, classes)
        return masked
          ? tensorOf(
              'i32',
              rows,
              tensor.data.map((target, row) => (row % 3 ? target : -1)),
            )
          : tensor
      }
      const logits = (r: RandomTensors) => r.normal([...rows, classes], 2)
      const title = `${show([...rows, classes])} ${flags({ masked })}`
      const options = { attributes: { scale }, compareOnly }
      yield opCase('cross_entropy', title, (r) => [logits(r), targets(r)], options)
      yield opCase(
        'cross_entropy_backward',
        title,
        (r) => {
          const [x, t] = [logits(r), targets(r)]
          return [x, t, runReference('cross_entropy', [x, t], { scale })[1]!, r.wide([1])]
        },
        options,
      )
      if (classes > 5000) continue
      for (const transposed of [0, 1]) {
        const features = 19
        const head: Make = (r) => [
          r.normal([...rows, features]),
          r.normal(transposed ? [features, classes] : [classes, features], 0.5),
          targets(r),
        ]
        const fused = { attributes: { transposed, scale, rows: 16 }, compareOnly }
        const headTitle = `${title}${transposed ? ', transposed' : ''}`
        yield opCase('linear_cross_entropy', headTitle, head, fused)
        for (const wide of [0, 1]) {
          const options = { attributes: { ...fused.attributes, wide }, compareOnly, halvesOnly: wide === 1 }
          const operands: Make = (r) => [...head(r), r.wide([1])]
          yield opCase('linear_cross_entropy_gradients', `${headTitle} ${flags({ wide })}`, operands, options)
        }
      }
    }
  }
}

function* dropoutCases(): Generator<OpCase> {
  for (const shape of [
    [3, 5],
    [2, 3, 7],
    [1, 1],
    [5, 33, 21],
    [2, 20011],
  ]) {
    for (const [p, residual] of [
      [0.1, true],
      [0.5, false],
      [0, false],
    ] as const) {
      yield opCase(
        'dropout',
        `${show(shape)} ${p} ${flags({ residual })}`,
        (r) => [r.normal(shape), residual ? r.normal(shape) : null],
        {
          attributes: { p, op_id: 9 },
          roles: { seed: 2 ** 33 + 99, step: 3, sample: 40 },
          compareOnly: isLarge(shape),
        },
      )
    }
  }
}

/** Positions sorted by index, then by position. */
export function orderOf({ data }: ReferenceTensor): ReferenceTensor {
  const positions = Array.from(data, (_, i) => i).sort((a, b) => data[a]! - data[b]! || a - b)
  return tensorOf('i32', [data.length], positions)
}

function* embeddingCases(): Generator<OpCase> {
  for (const [indices, rows, width] of [
    [[2, 3], 5, 7],
    [[1], 1, 1],
    [[67], 11, 33],
    [[5, 131], 40, 97],
  ] as const) {
    const title = `${show(indices)} of ${show([rows, width])}`
    yield opCase('embedding', title, (r) => [r.normal([rows, width]), r.integers(indices, 0, rows)])
    for (const base of [false, true]) {
      yield opCase(
        'embedding_backward',
        `${title} ${flags({ base })}`,
        (r) => [r.integers(indices, 0, rows), r.normal([...indices, width]), base ? r.normal([rows, width]) : null],
        { attributes: { rows } },
      )
      yield opCase(
        'embedding_backward',
        `${title} ${flags({ base })}, wide`,
        (r) => [r.integers(indices, 0, rows), r.normal([...indices, width]), base ? r.wide([rows, width]) : null],
        { attributes: { rows, wide: 1 }, halvesOnly: true },
      )
      yield opCase(
        'embedding_backward',
        `${title} ${flags({ base })}, in a given order`,
        (r) => {
          const tokens = r.integers(indices, 0, rows)
          const dy = r.normal([...indices, width])
          return [tokens, dy, base ? r.normal([rows, width]) : null, orderOf(tokens)]
        },
        { attributes: { rows } },
      )
    }
  }
  yield opCase('arange', '37', () => [], { attributes: { count: 37 } })
}

function* fillCases(): Generator<OpCase> {
  for (const [value, dtype, shape] of [
    [0.1, 'f32', [301, 259]],
    [0.1, 'f64', [3, 11]],
    [0.1, 'bf16', [3, 11]],
    [0.1, 'f16', [3, 11]],
    [-1, 'i32', [3, 11]],
  ] as const) {
    const attributes = { value, dtype: dtypeNumbers.indexOf(dtype), shape }
    yield opCase('fill', `${value} in ${dtype} ${show(shape)}`, () => [], { attributes })
  }
  for (const [length, shards, rank, start, count] of [
    [64, 1, 0, 3, 61],
    [64, 2, 0, 3, 61],
    [64, 2, 1, 3, 61],
    [64, 4, 3, 3, 61],
    [64, 1, 0, 0, 64],
    [80000, 2, 1, 1, 79998],
  ] as const) {
    const title = `${start} and ${count} of ${length}, slice ${rank} of ${shards}`
    const options = { rank, ranks: shards, roles: { seed: 2 ** 35 + 3 } }
    const inputs: Make = (r) => [r.wide([length / shards])]
    const range = { start, count, shards }
    yield opCase('initialize_constant', title, inputs, { ...options, attributes: { ...range, value: 0.3 } })
    const attributes = { ...range, mean: 0.1, std: 0.02, key_low: 0x89abcdef, key_high: 0x01234567 }
    yield opCase('initialize_normal', title, inputs, { ...options, attributes })
  }
}

function* optimizerCases(): Generator<OpCase> {
  const adamRolesAt = (step: number) => ({
    learning_rate: 1e-3 * step,
    beta1: 0.9 - 0.01 * step,
    beta2: 0.999 - 0.001 * step,
    correction1: 1 - 0.9 ** step,
    correction2: 1 - 0.999 ** step,
  })
  const adamRoles = { ...candidates(adamRolesAt(3), adamRolesAt(4)), seed: 2 ** 33 + 5, step: 3 }
  const control = (finite = 1, candidate = 0) => tensorOf('f64', [4], [2.5, 0.37, finite, candidate])
  for (const [length, shards, rank, whole] of [
    [4096, 1, 0, false],
    [4096, 2, 1, false],
    [4096, 2, 1, true],
    [4096, 4, 2, true],
    [200 * 1024, 1, 0, false],
  ] as const) {
    const part = length / shards
    const ranges = [0, 1111, 1500, 7, 2000, 1024, 3100, length - 3106]
    const place = { rank, ranks: shards }
    const title = `slice ${rank} of ${shards} of ${length}${whole ? ', parameters and gradients whole' : ''}`
    const operand = (r: RandomTensors) => r.normal([whole ? length : part])
    const master = (r: RandomTensors) => r.wide([whole ? length : part])
    const squares = (r: RandomTensors) => {
      const tensor = r.wide([part])
      return { ...tensor, data: tensor.data.map((x) => x * x) } as typeof tensor
    }
    for (const decoupled of [0, 1]) {
      yield opCase(
        'adam',
        `${title} ${decoupled ? 'decoupled' : 'L2'}`,
        (r) => [master(r), operand(r), r.wide([part]), squares(r), control(1, decoupled)],
        {
          attributes: { decoupled, epsilon: 1e-8, weight_decay: 0.1, length, shards, ranges },
          roles: adamRoles,
          ...place,
        },
      )
      for (const gradient of ['wide', 'half']) {
        yield opCase(
          'adam',
          `${title} ${decoupled ? 'decoupled' : 'L2'}, ${gradient} gradient, copied`,
          (r) => [
            master(r),
            gradient === 'wide' ? master(r) : operand(r),
            r.wide([part]),
            squares(r),
            control(),
            operand(r),
          ],
          {
            attributes: { decoupled, epsilon: 1e-8, weight_decay: 0.1, length, shards, ranges },
            roles: adamRoles,
            halvesOnly: true,
            ...place,
          },
        )
      }
    }
    for (const origin of [0, 3072, 2 ** 35 - 1021]) {
      yield opCase(
        'adam',
        `${title}, bf16 rounded stochastically from ${origin}`,
        (r) => [r.normal([whole ? length : part], 1, 0, 'bf16'), operand(r), r.wide([part]), squares(r), control()],
        {
          attributes: { decoupled: 1, epsilon: 1e-8, weight_decay: 0.1, length, shards, origin, ranges },
          roles: adamRoles,
          ...place,
        },
      )
    }
    for (const [momentum, nesterov, first] of [
      [0, 0, 0],
      [0.9, 0, 1],
      [0.9, 0, 0],
      [0.9, 1, 0],
    ] as const) {
      yield opCase(
        'sgd',
        `${title} ${flags({ momentum, nesterov, first })}`,
        (r) => [master(r), operand(r), momentum ? r.wide([part]) : null, control(1, nesterov)],
        {
          attributes: { momentum, dampening: 0.2, nesterov, weight_decay: 0.01, length, shards, ranges },
          roles: candidates({ learning_rate: 0.05, first }, { learning_rate: 0.04, first: 0 }),
          ...place,
        },
      )
    }
    yield opCase('norm_chunks', title, (r) => [operand(r)], { attributes: { length, shards }, ...place })
  }
  yield opCase('adam', 'norm not finite', (r) => [1, 2, 3, 4].map(() => r.wide([1024]) as Operand).concat(control(0)), {
    attributes: { decoupled: 1, epsilon: 1e-8, weight_decay: 0.1, length: 1024, shards: 1, ranges: [0, 1024] },
    roles: adamRoles,
  })
  for (const [title, maxNorm, values] of [
    ['clips', 1, [4, 9, 16, 25, 0.5, 3]],
    ['below the limit', 100, [4, 9, 16, 25, 0.5, 3]],
    ['no limit', 0, [4, 9, 16, 25, 0.5, 3]],
    ['infinite', 1, [4, Infinity, 16, 25, 0.5, 3]],
    ['NaN', 1, [4, 9, 16, 25, NaN, 3]],
  ] as const) {
    yield opCase('clip_control', title, () => [tensorOf('f64', [6], values)], {
      attributes: { max_norm: maxNorm, ranges: [4, 2, 0, 3] },
    })
    const scaled = () => [tensorOf('f64', [6], values), tensorOf('f32', [1], [4])]
    yield opCase('clip_control', `${title}, of a loss scale`, scaled, {
      attributes: { max_norm: maxNorm, ranges: [4, 2, 0, 3] },
    })
  }
  const gaps = [3, 5, 60, 4]
  for (const dtype of ['f32', 'bf16', 'f16'] as const) {
    const attributes = { length: 64, dtype: dtypeNumbers.indexOf(dtype), gaps }
    yield opCase('bucket', `gaps in ${dtype}`, () => [], { attributes })
  }
}

/** The state that steps hand on, wherever it may stand, under each rule. */
function* stepCases(): Generator<OpCase> {
  for (const scale of [65536, 3, 2 ** -20])
    yield opCase('loss_scale', `${scale} times a factor`, () => [tensorOf('f64', [8], [scale, 1, -1, 2, 1, 0, 0, 0])], {
      attributes: { factor: 0.3 },
    })
  const rules = [
    { skips: 0, dynamic: 0, window: 1, hysteresis: 1, consecutive: 0, least: 1, most: 2 ** 32 },
    { skips: 1, dynamic: 0, window: 1, hysteresis: 1, consecutive: 0, least: 1, most: 2 ** 32 },
    { skips: 1, dynamic: 1, window: 1, hysteresis: 1, consecutive: 0, least: 1, most: 2 ** 32 },
    { skips: 1, dynamic: 1, window: 3, hysteresis: 2, consecutive: 0, least: 3, most: 2 ** 32 },
    { skips: 1, dynamic: 1, window: 2, hysteresis: 3, consecutive: 1, least: 0.25, most: 2 ** 20 },
  ]
  const states = [
    [65536, 0, -1, 2, 0, 0, 0, 0],
    [4, 7, 3, 1, 5, 0, 0, 0],
    [3, 7, 0, 1, 5, 0, 0, 0],
    [2 ** 32, 2 ** 40 + 1, 2 ** 40 - 5, 3, 2 ** 40 - 9, 0, 0, 0],
    [2 ** 20, 12, 7, 2, 10, 1, 0, 0],
    [0.25, 9, 8, 1, 4, 1, 0, 0],
  ]
  for (const [r, attributes] of rules.entries()) {
    for (const [s, state] of states.entries()) {
      for (const [finite, ahead, follows] of [
        [1, 0, 0],
        [0, 0, 0],
        [1, 1, 1],
        [0, 1, 1],
        [1, 2, 1],
        [1, -1, 0],
      ] as const) {
        const how = flags({ finite, 'one update ahead': ahead === 1, 'another ahead': ahead * (ahead - 1), follows })
        yield opCase(
          'step_control',
          `rule ${r}, state ${s}, ${how}`,
          () => [tensorOf('f64', [4], [finite ? 2.5 : Infinity, 0.37, finite, 0]), tensorOf('f64', [8], state)],
          { attributes, roles: { taken: state[4]! - ahead, follows } },
        )
      }
    }
  }
}

export const opCases: readonly OpCase[] = [
  ...elementwiseCases(),
  ...activationCases(),
  ...linearCases(),
  ...normCases(),
  ...attentionCases(),
  ...softmaxCases(),
  ...crossEntropyCases(),
  ...dropoutCases(),
  ...embeddingCases(),
  ...fillCases(),
  ...optimizerCases(),
  ...stepCases(),
]
