// `node dist/native/build.js`: builds the addon with CMake where a source is newer than it; does nothing otherwise.
// Without the tools it says in one line what is missing and succeeds: the reference backend needs no addon.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, statSync, utimesSync } from 'node:fs'
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
  ]
  const paths = folders.flatMap((folder) => [
    ...(folder === 'native' ? [] : [folder]),
    ...readdirSync(join(projectRoot, folder))
      .filter((file) => /\.(cpp|h|txt)$/.test(file))
      .map((file) => `${folder}/${file}`),
  ])
  return Math.max(...paths.map((path) => statSync(join(projectRoot, path)).mtimeMs))
}

const changed = (path: string): number => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0
const works = (command: string, ...args: string[]): boolean => spawnSync(command, args).status === 0

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
  if (changed(addonPath) > newestSource()) return
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
  mkdirSync(buildFolder, { recursive: true })
  const headers: { include_dir: string } = require('node-api-headers')
  run('cmake', [
    ...['-S', join(projectRoot, 'native'), '-B', buildFolder],
    `-DNODE_API_HEADERS=${headers.include_dir}`,
    `-DNODE_ADDON_API=${dirname(require.resolve('node-addon-api'))}`,
  ])
  run('cmake', ['--build', buildFolder, '--parallel', String(availableParallelism())])
  const now = new Date()
  utimesSync(addonPath, now, now)
}

main()
