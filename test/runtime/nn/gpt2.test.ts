// GPT-2 against PyTorch, and configurations that it must refuse.
// The figures are of transformers 5.18 with PyTorch 2.13 in float64 (eager attention): GPT2LMHeadModel of the sizes below, parameter p
// of named_parameters() filled with 0.3 sin(0.7 i + p), + 1 in layer norm weights; loss = cross_entropy(logits, targets).
import test from 'ava'
import { differentiate, gradientName } from '../../../runtime/graph/autodiff.js'
import { trace } from '../../../runtime/graph/trace.js'
import { ModelError } from '../../../runtime/nn/error.js'
import { GPT2 } from '../../../runtime/nn/models/gpt2.js'
import { namedParameters } from '../../../runtime/nn/module.js'
import { interpret } from '../../support/interpret.js'
import { formulaWeights } from '../../support/weights.js'

const sizes = { vocab_size: 13, n_positions: 8, n_embd: 12, n_layer: 2, n_head: 3 }
const tokens = { shape: [2, 6], dtype: 'i32' } as const
const batch = { ids: [1, 5, 2, 12, 0, 7, 3, 3, 9, 4, 11, 8], targets: [5, 2, 12, 0, 7, 6, 3, 9, 4, 11, 8, 10] }

interface Figures {
  readonly loss: number
  /** Of the last position of the second sequence, the first four. */
  readonly logits: readonly number[]
  /** Sum of squares of all logits. */
  readonly energy: number
  /** First and last element and norm. */
  readonly gradients: Readonly<Record<string, readonly [number, number, number]>>
}

const tied: Figures = {
  loss: 4.045698341513864,
  logits: [2.425753140822081, -1.0153430252205793, -1.3712409147549636, 2.439482723406255],
  energy: 577.147983223842,
  gradients: {
    'transformer.wte.weight': [-0.029230546624431183, 0.16441467311402405, 1.1839723615923605],
    'transformer.wpe.weight': [0.013441748016310314, 0.0, 0.42253994330745503],
    'transformer.h.0.ln_1.weight': [0.002746140141011496, -0.0019145498357604376, 0.006721338211132273],
    'transformer.h.0.attn.c_attn.weight': [0.001587122582348778, 0.031801491556274736, 0.43919937027452005],
    'transformer.h.1.mlp.c_fc.weight': [-0.012020044190655527, -0.025917014663008393, 0.5679004706242564],
    'transformer.h.1.mlp.c_proj.bias': [0.015637722262249413, 0.005394274107047598, 0.13380244940342564],
  },
}

/** tie_word_embeddings false, activation_function gelu, n_inner 20. */
const untied: Figures = {
  loss: 3.87346546398537,
  logits: [-2.217972399760598, 0.16541186026107385, 2.046179395180771, -2.2905273486705098],
  energy: 565.2904103848834,
  gradients: {
    'transformer.wte.weight': [0.003033705285829417, 0.0010265887414072387, 0.23419054455113675],
    'transformer.wpe.weight': [0.0019136808497110633, 0.0, 0.24955339615253966],
    'transformer.h.0.ln_1.weight': [0.006617186219884184, 0.00109147617582078, 0.01845026704779913],
    'transformer.h.0.attn.c_attn.weight': [-0.004249653704305961, 0.01423977662200958, 0.3031707995120216],
    'transformer.h.1.mlp.c_fc.weight': [0.0029290129653610666, 0.04782723357062532, 1.3188327077685194],
    'transformer.h.1.mlp.c_proj.bias': [0.0942143426352139, -0.010510255926102972, 0.2986745946214823],
    'lm_head.weight': [-0.04629713010569831, -0.12034424837580786, 1.2524398538882278],
  },
}

for (const [what, options, figures] of [
  ['tied head, gelu_new', {}, tied],
  ['untied head, gelu, n_inner', { tie_word_embeddings: false, activation_function: 'gelu', n_inner: 20 }, untied],
] as const) {
  for (const [dtype, tolerance] of [
    ['f64', 1e-11],
    ['f32', 2e-5],
  ] as const) {
    test(`logits, loss and gradients are PyTorch's: ${what}, ${dtype}`, (t) => {
      const model = new GPT2({ ...sizes, ...options })
      const forward = trace(model, {
        inputs: { ids: tokens, targets: tokens },
        training: false,
        dtype,
        body: (m, { ids, targets }) => ({ loss: m.loss(ids, targets), logits: m.forward(ids) }),
      })
      const inputs = { ...formulaWeights(model), ...batch }
      const near = (a: number, b: number, name: string): void => {
        t.true(Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(b)), `${name}: ${a}, PyTorch ${b}`)
      }
      const { logits } = interpret(forward, inputs)
      figures.logits.forEach((value, i) => {
        near(logits![11 * 13 + i]!, value, `logit ${i}`)
      })
      near(
        [...logits!].reduce((sum, value) => sum + value ** 2, 0),
        figures.energy,
        'energy',
      )
      const wrt = namedParameters(model).map(({ name }) => name)
      const results = interpret(differentiate(forward, { loss: 'loss', wrt, seed: 1 }), inputs)
      near(results.loss![0]!, figures.loss, 'loss')
      for (const [name, [first, last, norm]] of Object.entries(figures.gradients)) {
        const gradient = results[gradientName(name)]!
        near(gradient[0]!, first, `${name}, first`)
        near(gradient.at(-1)!, last, `${name}, last`)
        near(Math.hypot(...gradient), norm, `${name}, norm`)
      }
    })
  }
}

test('the sum of losses is what evaluation divides', (t) => {
  const model = new GPT2(sizes)
  const graph = trace(model, {
    inputs: { ids: tokens, targets: tokens },
    training: false,
    dtype: 'f64',
    body: (m, { ids, targets }) => ({ mean: m.loss(ids, targets), sum: m.loss(ids, targets, 'sum') }),
  })
  const { mean, sum } = interpret(graph, { ...formulaWeights(model), ...batch })
  t.true(Math.abs(sum![0]! - 12 * mean![0]!) < 1e-12)
})

test('configurations that cannot be followed are one error with the key', (t) => {
  const refused: [Record<string, unknown>, string | RegExp][] = [
    [{ n_embd: 10, n_head: 3 }, 'GPT2: n_embd, expected a multiple of n_head (3), got 10'],
    [{ n_layer: 0 }, 'GPT2: n_layer, expected a whole number of at least 1, got 0'],
    [{ n_head: '12' }, 'GPT2: n_head, expected a whole number of at least 1, got "12"'],
    [{ resid_pdrop: 1 }, 'GPT2: resid_pdrop, expected a number from 0 to below 1, got 1'],
    [{ layer_norm_epsilon: null }, 'GPT2: layer_norm_epsilon, expected a number of at least 0, got null'],
    [{ tie_word_embeddings: 'no' }, 'GPT2: tie_word_embeddings, expected true or false, got "no"'],
    [{ scale_attn_by_inverse_layer_idx: true }, /^GPT2: scale_attn_by_inverse_layer_idx, expected false/],
    [{ reorder_and_upcast_attn: true }, /^GPT2: reorder_and_upcast_attn, expected false/],
    [{ add_cross_attention: true }, /^GPT2: add_cross_attention, expected false/],
    [{ activation_function: 'mish' }, /^GPT2: activation_function, expected one of gelu_new, .*, got "mish"$/],
  ]
  for (const [config, message] of refused) t.throws(() => new GPT2(config), { instanceOf: ModelError, message })
})

test('a sequence beyond n_positions is refused', (t) => {
  const long = { shape: [1, 9], dtype: 'i32' } as const
  t.throws(
    () =>
      trace(new GPT2(sizes), { inputs: { ids: long }, training: false, body: (m, { ids }) => ({ y: m.forward(ids) }) }),
    {
      instanceOf: ModelError,
      message: 'GPT2: shape of ids, expected [batch, sequence of at most 8 (n_positions)], got [1, 9]',
    },
  )
})
