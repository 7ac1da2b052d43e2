// The scalars of a step: with them, the update written out in float64 must give PyTorch's parameters. Figures: torch 2.13 (CPU),
// float64, one parameter 1.0, gradients 0.5, -0.25, 0.1, lr 0.1, weight_decay 0.1; Adam betas (0.9, 0.99); SGD momentum 0.9, dampening 0.5.
import test from 'ava'
import { OptimError } from '../../../runtime/optim/error.js'
import { resolveGroups } from '../../../runtime/optim/groups.js'
import { type AdamSpec, optimizerScalars, type SgdSpec } from '../../../runtime/optim/optimizer.js'

const gradients = [0.5, -0.25, 0.1]
const adamSpec: AdamSpec = {
  kind: 'adam',
  decoupled: true,
  lr: 0.1,
  betas: [0.9, 0.99],
  eps: 1e-8,
  weightDecay: 0.1,
  biasCorrection: true,
  stochasticRounding: false,
}

function adam(spec: AdamSpec): number[] {
  let [p, m, v] = [1, 0, 0]
  return gradients.map((gradient, i) => {
    const s = optimizerScalars(spec, i + 1, { lr: spec.lr })
    const g = spec.decoupled ? gradient : gradient + spec.weightDecay * p
    m = s.beta1 * m + (1 - s.beta1) * g
    v = s.beta2 * v + (1 - s.beta2) * g * g
    if (spec.decoupled) p *= 1 - s.learning_rate * spec.weightDecay
    p -= ((s.learning_rate / s.correction1) * m) / (Math.sqrt(v) / Math.sqrt(s.correction2) + spec.eps)
    return p
  })
}

const close = (got: readonly number[], expected: readonly number[]): boolean =>
  got.length === expected.length && got.every((value, i) => Math.abs(value - expected[i]!) < 1e-14)

test('AdamW and Adam follow PyTorch', (t) => {
  t.true(close(adam(adamSpec), [0.890000002, 0.8544300597479334, 0.814254743031925]))
  t.true(close(adam({ ...adamSpec, decoupled: false }), [0.9000000016666666, 0.8543516770478369, 0.8021314814643679]))
})

test('SGD follows PyTorch: the first step takes the gradient whole', (t) => {
  const spec: SgdSpec = { kind: 'sgd', lr: 0.1, momentum: 0.9, dampening: 0.5, nesterov: false, weightDecay: 0.1 }
  let [p, buffer] = [1, 0]
  const got = gradients.map((gradient, i) => {
    const s = optimizerScalars(spec, i + 1, { lr: spec.lr })
    const g = gradient + spec.weightDecay * p
    buffer = s.first ? g : spec.momentum * buffer + (1 - spec.dampening) * g
    p -= s.learning_rate * buffer
    return p
  })
  t.true(close(got, [0.94, 0.8937999999999999, 0.8427509999999999]))
})

test('bias corrections: off is 1; a schedule moves rate and betas', (t) => {
  const off = optimizerScalars({ ...adamSpec, biasCorrection: false }, 3, { lr: 0.5 })
  t.deepEqual(off, { learning_rate: 0.5, beta1: 0.9, beta2: 0.99, correction1: 1, correction2: 1 })
  const moved = optimizerScalars(adamSpec, 2, { lr: 0.5, beta1: 0.5, beta2: 0.75 })
  t.deepEqual(moved, { learning_rate: 0.5, beta1: 0.5, beta2: 0.75, correction1: 0.75, correction2: 0.4375 })
})

const names = ['wte.weight', 'h.0.ln.weight', 'h.0.mlp.weight', 'h.0.mlp.bias']

test('groups: the first match wins, the rest keeps the settings of the optimizer', (t) => {
  const groups = resolveGroups(names, adamSpec, [
    { match: /bias|ln/g, weightDecay: 0 },
    { match: (name) => name.startsWith('h.'), lr: 0.01 },
  ])
  t.deepEqual(groups, [
    { names: ['h.0.ln.weight', 'h.0.mlp.bias'], lr: 0.1, weightDecay: 0 },
    { names: ['h.0.mlp.weight'], lr: 0.01, weightDecay: 0.1 },
    { names: ['wte.weight'], lr: 0.1, weightDecay: 0.1 },
  ])
  t.deepEqual(resolveGroups(names, adamSpec), [{ names, lr: 0.1, weightDecay: 0.1 }])
})

test('groups: nothing matched, and impossible settings, are errors that name the group', (t) => {
  const nothing = t.throws(() => resolveGroups(names, adamSpec, [{ match: /gamma/ }]), { instanceOf: OptimError })
  t.regex(nothing.message, /group 0 \(\/gamma\/\).*none of 4/)
  const shadowed = t.throws(() => resolveGroups(names, adamSpec, [{ match: /./ }, { match: /bias/ }]))
  t.regex(shadowed.message, /group 1.*earlier groups/)
  const negative = t.throws(() => resolveGroups(names, adamSpec, [{ match: /./, lr: -1 }]), { instanceOf: OptimError })
  t.regex(negative.message, /lr of group 0.*>= 0, got -1/)
})
