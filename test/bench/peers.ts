// Finds the peers on this machine. What is missing is no error: a row then shows ours alone and says what would bring the peer.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { DType } from '../../kernels/ops/definition.js'
import { projectRoot } from '../../native/paths.js'
import { type ChildResult, runChild } from './child.js'

const sources = join(projectRoot, 'test/bench/peers')

/** PyTorch, or why there is none. */
export type PyTorch =
  | { readonly name: string; run(script: string, request: object, threads: number): Promise<ChildResult> }
  | { readonly name: null; readonly reason: string }

/** The first of `python`, DEEPTROUPE_PYTHON and python3 that is given; it must import torch. */
export function findPyTorch(python: string | undefined): PyTorch {
  const command = python ?? process.env.DEEPTROUPE_PYTHON ?? 'python3'
  const { status, stdout } = spawnSync(command, ['-c', 'import torch; print(torch.__version__)'], { encoding: 'utf8' })
  if (status !== 0) {
    return {
      name: null,
      reason: `no PyTorch for ${command}: pip install torch, then --python PATH or DEEPTROUPE_PYTHON`,
    }
  }
  return {
    name: `PyTorch ${stdout.trim()}`,
    run: (script, request, threads) =>
      runChild(command, [join(sources, script), JSON.stringify(request)], { OMP_NUM_THREADS: String(threads) }),
  }
}

interface Library {
  readonly name: string
  readonly define: string
  readonly headers: readonly string[]
  readonly link: string
  readonly dtypes: readonly DType[]
}

const libraries: readonly Library[] = [
  {
    name: 'OpenBLAS',
    define: 'PEER_OPENBLAS',
    headers: ['/usr/include/x86_64-linux-gnu/cblas-openblas.h', '/usr/include/cblas-openblas.h'],
    link: '-lopenblas',
    dtypes: ['f32'],
  },
  {
    name: 'oneDNN',
    define: 'PEER_ONEDNN',
    headers: ['/usr/include/dnnl.hpp', '/usr/include/oneapi/dnnl/dnnl.hpp'],
    link: '-ldnnl',
    dtypes: ['f32', 'bf16'],
  },
]

/** A compiled peer of the matrix products. */
export interface ProductPeer {
  readonly name: string
  readonly dtypes: readonly DType[]
  run(request: readonly (string | number)[], threads: number): Promise<ChildResult>
}

/** Compiles `products.cpp` into `folder` for each library whose headers are here. */
export function buildProductPeers(folder: string): {
  readonly peers: readonly ProductPeer[]
  readonly missing: readonly string[]
} {
  const peers: ProductPeer[] = []
  const missing: string[] = []
  for (const { name, define, headers, link, dtypes } of libraries) {
    if (!headers.some(existsSync)) {
      missing.push(`${name} not found: apt-get install libopenblas-dev libdnnl-dev`)
      continue
    }
    const binary = join(folder, name)
    const args = ['-std=c++20', '-O2', `-D${define}`, join(sources, 'products.cpp'), '-o', binary, link]
    const { status, stderr } = spawnSync('g++', args, { encoding: 'utf8' })
    if (status !== 0) {
      missing.push(`${name} did not compile: ${stderr?.split('\n').find((line) => line.includes('error')) ?? 'no g++'}`)
      continue
    }
    peers.push({
      name,
      dtypes,
      run: (request, threads) => {
        const count = String(threads)
        return runChild(binary, request.map(String), { OPENBLAS_NUM_THREADS: count, OMP_NUM_THREADS: count })
      },
    })
  }
  return { peers, missing }
}
