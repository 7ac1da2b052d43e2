// `node dist/native/build.js`: builds the addon with CMake where a source is newer than it, or nvcc came or went; does nothing otherwise.
// Without the tools it says in one line what is missing and succeeds: the reference backend needs no addon. With nvcc the addon has the
// GPU's part; `--gpu` fails where nvcc is missing.
import { spawnSync } from 'node:child_process'
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { addonPath, buildFolder, projectRoot } from './paths.js'

const require = createRequire(import.meta.url)

/** The latest change of a source or of a folder of sources (a folder changes when a file appears or goes), in milliseconds. */
function newestSource(): number {
  const folders = [
    'native',
    'native/memory',
    'native/collective',
    'native/executor',
    'native/addon',
    'kernels/abi',
    'kernels/cpu',
    'kernels/gpu',
  ].filter((folder) => existsSync(join(projectRoot, folder)))
  const paths = folders.flatMap((folder) => [
    ...(folder === 'native' ? [] : [folder]),
    ...readdirSync(join(projectRoot, folder))
      .filter((file) => /\.(cpp|cu|h|txt)$/.test(file))
      .map((file) => `${folder}/${file}`),
  ])
  return Math.max(...paths.map((path) => statSync(join(projectRoot, path)).mtimeMs))
}

const changed = (path: string): number => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0
const works = (command: string, ...args: string[]): boolean => spawnSync(command, args).status === 0

/** The path of nvcc: `NVCC` names it, or it is found on the path or where CUDA is usually installed; '' where there is none. */
function findNvcc(): string {
  const { NVCC, CUDA_HOME = '/usr/local/cuda', PATH = '' } = process.env
  const places = NVCC ? [NVCC] : [...PATH.split(':'), join(CUDA_HOME, 'bin')].map((folder) => join(folder, 'nvcc'))
  return places.find(isExecutable) ?? ''
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** Which nvcc the addon was built with. */
const nvccStamp = join(buildFolder, 'nvcc')

function isCurrent(nvcc: string): boolean {
  const built = existsSync(nvccStamp) ? readFileSync(nvccStamp, 'utf8') : ''
  return changed(addonPath) > newestSource() && built === nvcc
}

function missingTools(): string[] {
  const compiler = process.env.CXX ?? 'c++'
  return [
    ...(works('cmake', '--version') ? [] : ['cmake']),
    ...(works('make', '--version') ? [] : ['make']),
    ...(works(compiler, '-std=c++20', '-fsyntax-only', '-x', 'c++', '/dev/null') ? [] : ['a C++20 compiler']),
  ]
}

/** Runs a tool; prints its log and ends the process with 1 where it fails. */
function run(command: string, args: readonly string[]): void {
  const child = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 })
  if (child.status === 0) return
  process.stderr.write(`${child.stdout}${child.stderr}`)
  console.error(`native: build, expected ${command} to succeed, got exit code ${child.status ?? child.signal}`)
  process.exit(1)
}

function main(): void {
  const nvcc = findNvcc()
  if (process.argv.includes('--gpu') && nvcc === '') {
    console.error(
      'native: build of the GPU part, expected nvcc on the path, in NVCC or under CUDA_HOME, got none; install the CUDA toolkit 13',
    )
    process.exit(1)
  }
  if (isCurrent(nvcc)) return
  const missing = missingTools()
  if (missing.length) {
    console.error(
      `native: build, expected cmake, make and a C++20 compiler, got no ${missing.join(', no ')}; ` +
        'the reference backend works without, ' +
        'the fast CPU backend needs: apt-get install g++ make cmake',
    )
    return
  }
  console.error('native: building the addon')
  if (nvcc) console.error(`native: its GPU part by ${nvcc}`)
  mkdirSync(buildFolder, { recursive: true })
  const headers: { include_dir: string } = require('node-api-headers')
  run('cmake', [
    ...['-S', join(projectRoot, 'native'), '-B', buildFolder],
    `-DNODE_API_HEADERS=${headers.include_dir}`,
    `-DNODE_ADDON_API=${dirname(require.resolve('node-addon-api'))}`,
    `-DNVCC=${nvcc}`,
  ])
  run('cmake', ['--build', buildFolder, '--parallel', String(availableParallelism())])
  writeFileSync(nvccStamp, nvcc)
  const now = new Date()
  utimesSync(addonPath, now, now)
}

main()
