// Compiles headers.cu where nvcc and the real headers of cublasLt and NCCL are: a difference from our own declarations is an error there.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { projectRoot } from '../../native/paths.js'
import type { TrainingFinding } from './training.js'

/** Folders of headers: the system's, CUDA's, and those that come with a Python's packages of NVIDIA's libraries. */
function folders(python: string, nvcc: string): string[] {
  const found = ['/usr/include', '/usr/local/cuda/include', join(nvcc, '../../include')]
  if (process.env['CUDA_HOME']) found.push(join(process.env['CUDA_HOME'], 'include'))
  const where = 'import sysconfig; print(sysconfig.get_paths()["purelib"])'
  const { status, stdout } = spawnSync(python, ['-c', where], { encoding: 'utf8' })
  const packages = join(status === 0 ? stdout.trim() : '', 'nvidia')
  if (status === 0 && existsSync(packages))
    for (const name of readdirSync(packages)) found.push(join(packages, name, 'include'))
  return found.filter(existsSync)
}

/** What the compiler says; a text where there is nothing to compare with or to compile with. */
export function compareDeclarations(python: string): TrainingFinding | string {
  const nvcc = [process.env['NVCC'], 'nvcc', '/usr/local/cuda/bin/nvcc'].find(
    (path) => path && spawnSync(path, ['--version']).status === 0,
  )
  if (!nvcc) return 'declarations of cublasLt and NCCL: not compared, no nvcc'
  const resolved = spawnSync('which', [nvcc], { encoding: 'utf8' }).stdout.trim() || nvcc
  const all = folders(python, resolved)
  const needed = ['cublasLt.h', 'nccl.h'].map(
    (header) => [header, all.find((path) => existsSync(join(path, header)))] as const,
  )
  const missing = needed.find(([, path]) => path === undefined)
  if (missing) return `declarations of cublasLt and NCCL: not compared, no ${missing[0]}`
  const includes = [...new Set(needed.map(([, path]) => `-I${path}`))]
  const source = join(projectRoot, 'test/gpu/headers.cu')
  const args = ['-std=c++20', '-fmad=false', '-arch=sm_80', ...includes, '-c', source, '-o', '/dev/null']
  const { status, stderr, stdout } = spawnSync(nvcc, args, { encoding: 'utf8' })
  const wrong = `${stdout}${stderr}`.split('\n').find((line) => /error/.test(line)) ?? 'nvcc failed'
  return {
    check: 'declarations of cublasLt and NCCL',
    ok: status === 0,
    got: status === 0 ? 'as in their headers' : wrong,
  }
}
