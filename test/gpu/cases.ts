// Calls beside test/support/op-cases.ts that reach what only the GPU has: tensor cores' head sizes, classes by the thousand, rows that fill
// blocks, tensors that fill a device. None is so large that the reference would take long.
import { type OpCase, opCase, orderOf } from '../support/op-cases.js'
import { type Operand, type RandomTensors, runReference, tensorOf } from '../support/tensors.js'

type Make = (random: RandomTensors) => Operand[]

const large = { compareOnly: true } as const
const roles = { seed: 2 ** 41 + 77, step: 3, sample: 5 }

function* attention(): Generator<OpCase> {
  for (const size of [64, 80, 96, 128]) {
    for (const [batch, sequence, heads] of [
      [1, 1, 2],
      [2, 64, 1],
      [1, 65, 3],
      [1, 128, 2],
      [1, 321, 1],
    ] as const) {
      for (const causal of [1, 0]) {
        for (const dropout of [0, 0.2]) {
          const title = `[${batch}, ${sequence}, ${heads}, ${size}]${causal ? ' causal' : ''}${dropout ? ' dropout' : ''}`
          const attributes = { heads, causal, scale: 1 / Math.sqrt(size), dropout, op_id: 3 }
          const shape = [batch, sequence, 3 * heads * size]
          const backward: Make = (r) => {
            const qkv = r.normal(shape)
            const [o, lse] = runReference('attention', [qkv], attributes, roles)
            return [r.normal(o!.shape), qkv, o!, lse!]
          }
          yield opCase('attention', title, (r) => [r.normal(shape)], { ...large, attributes, roles })
          yield opCase('attention_backward', title, backward, { ...large, attributes, roles })
        }
      }
    }
  }
}

function* heads(): Generator<OpCase> {
  for (const [rows, features, classes, chunk] of [
    [130, 64, 5003, 130],
    [200, 40, 4608, 128],
    [7, 64, 50304, 7],
  ] as const) {
    const targets = (r: RandomTensors) => {
      const { data } = r.integers([rows], 0, classes)
      return tensorOf(
        'i32',
        [rows],
        data.map((target, row) => (row % 5 ? target : -1)),
      )
    }
    for (const transposed of [0, 1]) {
      const inputs: Make = (r) => [
        r.normal([rows, features]),
        r.normal(transposed ? [features, classes] : [classes, features], 0.3),
        targets(r),
      ]
      const attributes = { transposed, scale: 1 / rows, rows: chunk }
      const title = `[${rows}, ${classes}] in rows of ${chunk}${transposed ? ', transposed' : ''}`
      yield opCase('linear_cross_entropy', title, inputs, { ...large, attributes })
      for (const wide of [0, 1]) {
        yield opCase(
          'linear_cross_entropy_gradients',
          `${title}${wide ? ', wide' : ''}`,
          (r) => [...inputs(r), r.wide([1])],
          { ...large, attributes: { ...attributes, wide }, halvesOnly: wide === 1 },
        )
      }
    }
  }
}

function* products(): Generator<OpCase> {
  for (const [rows, k, n] of [
    [256, 128, 384],
    [384, 256, 128],
    [129, 72, 200],
  ] as const) {
    for (const transposed of [0, 1]) {
      const title = `[${rows}] x ${k} x ${n}${transposed ? ', transposed' : ''}`
      const weight = transposed ? [k, n] : [n, k]
      const options = { ...large, attributes: { transposed } }
      const activated = { ...large, attributes: { transposed, kind: 0 } }
      const operands: Make = (r) => [r.normal([rows, k]), r.normal(weight), r.normal([n])]
      yield opCase('linear', title, (r) => [...operands(r), r.normal([rows, n])], options)
      yield opCase('linear_activation', title, operands, activated)
      const gradient: Make = (r) => [r.normal([rows, n]), r.normal(weight)]
      yield opCase('linear_input_gradient', title, gradient, options)
      yield opCase('linear_weight_gradient', title, (r) => [r.normal([rows, k]), r.normal([rows, n])], options)
      const derivative: Make = (r) => [...gradient(r), r.normal([rows, k])]
      yield opCase('linear_input_gradient_activation', title, derivative, activated)
      for (const wide of [0, 1]) {
        yield opCase('linear_input_gradient_activation', `${title}, sum${wide ? ', wide' : ''}`, derivative, {
          ...large,
          attributes: { ...activated.attributes, sum: 1, wide },
          needs: 'linear_input_gradient_activation_sum',
          halvesOnly: wide === 1,
        })
      }
    }
  }
}

function* rows(): Generator<OpCase> {
  for (const shape of [
    [77, 768],
    [130, 1600],
    [21, 3072],
    [4200, 96],
    [33, 5001],
  ]) {
    const title = `[${shape.join(', ')}]`
    const [, width] = shape as [number, number]
    const attributes = { epsilon: 1e-5 }
    const operands: Make = (r) => [r.normal(shape, 1.5, 0.5), r.normal([width]), r.normal([width])]
    yield opCase('layer_norm', title, operands, { ...large, attributes })
    for (const [sum, wide] of [
      [0, 0],
      [1, 0],
      [1, 1],
    ] as const) {
      const backward: Make = (r) => {
        const [x, weight] = operands(r)
        const [, mean, rstd] = runReference('layer_norm', [x!, weight!, null], attributes)
        return [r.normal(shape), x!, weight!, mean!, rstd!, r.normal(shape)]
      }
      yield opCase('layer_norm_backward', `${title}${sum ? ', sum' : ''}${wide ? ', wide' : ''}`, backward, {
        ...large,
        attributes: { sum, wide },
        halvesOnly: wide === 1,
        ...(sum === 1 && { needs: 'layer_norm_backward_sum' as const }),
      })
    }
    yield opCase('softmax', title, (r) => [r.normal(shape, 3)], large)
    yield opCase('sum_leading', title, (r) => [r.normal(shape)], { ...large, attributes: { rank: 1 } })
  }
  yield opCase('cross_entropy', '[5, 50304]', (r) => [r.normal([5, 50304], 2), r.integers([5], 0, 50304)], {
    ...large,
    attributes: { scale: 0.2 },
  })
}

function* tables(): Generator<OpCase> {
  for (const [count, size, width] of [
    [3000, 300, 64],
    [2000, 3, 96],
    [257, 50304, 8],
  ] as const) {
    const title = `[${count}] of [${size}, ${width}]`
    yield opCase('embedding', title, (r) => [r.normal([size, width]), r.integers([count], 0, size)], large)
    for (const wide of [0, 1]) {
      const inputs: Make = (r) => [
        r.integers([count], 0, size),
        r.normal([count, width]),
        wide ? r.wide([size, width]) : r.normal([size, width]),
      ]
      const options = { ...large, attributes: { rows: size, wide }, halvesOnly: wide === 1 }
      yield opCase('embedding_backward', `${title}${wide ? ', wide' : ''}`, inputs, options)
      const told: Make = (r) => {
        const [tokens, dy, base] = inputs(r)
        return [tokens!, dy!, base!, orderOf(tokens!)]
      }
      yield opCase('embedding_backward', `${title}${wide ? ', wide' : ''}, in a given order`, told, options)
    }
  }
}

function* streams(): Generator<OpCase> {
  const shape = [1031, 1021]
  const title = `[${shape.join(', ')}]`
  yield opCase('add', title, (r) => [r.normal(shape), r.normal(shape)], large)
  yield opCase('activation', `gelu_tanh ${title}`, (r) => [r.normal(shape, 2)], { ...large, attributes: { kind: 0 } })
  yield opCase('dropout', title, (r) => [r.normal(shape), r.normal(shape)], {
    ...large,
    attributes: { p: 0.1, op_id: 4 },
    roles,
  })
  const length = 2048 * 1024
  yield opCase('norm_chunks', `${length}`, (r) => [r.normal([length])], { ...large, attributes: { length, shards: 1 } })
  const chunks = 5000
  yield opCase(
    'clip_control',
    `${chunks} chunks`,
    (r) => [
      tensorOf(
        'f64',
        [chunks],
        Float64Array.from(r.normal([chunks], 1, 0, 'f64').data as Float64Array, (x) => x * x),
      ),
    ],
    { ...large, attributes: { max_norm: 1, ranges: [1000, 4000, 0, 1000] } },
  )
}

export const gpuCases: readonly OpCase[] = [
  ...products(),
  ...attention(),
  ...heads(),
  ...rows(),
  ...tables(),
  ...streams(),
]
