// Names, ties, units and blocks of modules as users compose them.
import test from 'ava'
import { Embedding, Linear } from '../../../runtime/nn/layers.js'
import { GPT2 } from '../../../runtime/nn/models/gpt2.js'
import {
  countParameters,
  Module,
  namedModules,
  namedParameters,
  Parameter,
  tiedNames,
} from '../../../runtime/nn/module.js'
import type { Tensor } from '../../../runtime/nn/tensor.js'

class Pair extends Module {
  readonly first = new Linear(2, 3)
  readonly gain = new Parameter([3], { kind: 'constant', value: 1 })
  readonly second = new Linear(3, 2, { bias: false })
  override forward(x: Tensor): Tensor {
    return this.second.forward(this.first.forward(x).mul(this.gain))
  }
}

class Nested extends Module {
  readonly pairs = [new Pair()]
  override forward(x: Tensor): Tensor {
    return this.pairs[0]!.forward(x)
  }
}

class Net extends Module {
  readonly table = new Embedding(5, 2)
  readonly layers = [new Nested(), new Nested()]
  readonly head = new Linear(2, 5, { bias: false, weight: this.table.weight })
  /** A way back to the root must not make the walk endless. */
  readonly self: Module = this
  readonly note = 'not a module'
  override forward(x: Tensor): Tensor {
    return this.head.forward(x)
  }
}

test('parameters are named by property path, in definition order, a tied one once by its first path', (t) => {
  t.deepEqual(
    namedParameters(new Net()).map(({ name }) => name),
    [
      'table.weight',
      'layers.0.pairs.0.first.weight',
      'layers.0.pairs.0.first.bias',
      'layers.0.pairs.0.gain',
      'layers.0.pairs.0.second.weight',
      'layers.1.pairs.0.first.weight',
      'layers.1.pairs.0.first.bias',
      'layers.1.pairs.0.gain',
      'layers.1.pairs.0.second.weight',
    ],
  )
  t.deepEqual([...tiedNames(new Net())], [['head.weight', 'table.weight']])
  t.is(countParameters(new Net()), 10 + 2 * (6 + 3 + 3 + 6))
})

test('a unit is the outermost block, or the module that owns the parameter', (t) => {
  const units = new Map(namedParameters(new Net()).map(({ name, unit }) => [name, unit]))
  t.is(units.get('table.weight'), 'table')
  t.is(units.get('layers.0.pairs.0.gain'), 'layers.0')
  t.is(units.get('layers.1.pairs.0.first.bias'), 'layers.1')
})

test('modules know their block, the root has neither name nor block', (t) => {
  const modules = namedModules(new Net())
  t.deepEqual(modules.map(({ name, block }) => [name, block]).slice(0, 5), [
    ['', undefined],
    ['table', undefined],
    ['layers.0', 'layers.0'],
    ['layers.0.pairs.0', 'layers.0'],
    ['layers.0.pairs.0.first', 'layers.0'],
  ])
})

test('GPT-2 small has the 124,439,808 parameters that Hugging Face counts', (t) => {
  t.is(countParameters(new GPT2()), 124_439_808)
  t.is(countParameters(new GPT2({ tie_word_embeddings: false })), 124_439_808 + 50257 * 768)
})

test('starts follow GPT-2 and PyTorch', (t) => {
  const init = new Map(namedParameters(new GPT2({ n_layer: 8 })).map(({ name, parameter }) => [name, parameter.init]))
  t.deepEqual(init.get('transformer.wpe.weight'), { kind: 'normal', mean: 0, std: 0.02 })
  t.deepEqual(init.get('transformer.h.3.attn.c_attn.weight'), { kind: 'normal', mean: 0, std: 0.02 })
  t.deepEqual(init.get('transformer.h.3.mlp.c_proj.weight'), { kind: 'normal', mean: 0, std: 0.005 })
  t.deepEqual(init.get('transformer.h.3.mlp.c_proj.bias'), { kind: 'constant', value: 0 })
  t.deepEqual(init.get('transformer.ln_f.weight'), { kind: 'constant', value: 1 })
  // PyTorch draws uniformly within 1 / sqrt(48) = 1/12 * sqrt(3): variance 1 / (3 * 48) = 1 / 144.
  const { init: uniform } = new Linear(48, 7).weight
  t.true(uniform.kind === 'normal' && Math.abs(uniform.std - 1 / 12) < 1e-15)
})
