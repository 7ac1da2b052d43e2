// The build step in a project made for it: what it says without tools and with a broken source, and that it does nothing twice.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { projectRoot } from '../../native/paths.js'

const compiled = dirname(fileURLToPath(new URL('../../native/build.js', import.meta.url)))
const hasTools = ['cmake', 'make', 'c++'].every((tool) => spawnSync(tool, ['--version']).status === 0)

interface BuildOptions {
  readonly args?: readonly string[]
  readonly nvcc?: string
}

/** A project whose CMake file holds `commands`; gives a function that builds it. */
function project(commands: string): {
  build: (path?: string, options?: BuildOptions) => { status: number | null; stdout: string; stderr: string }
  end: () => void
} {
  const folder = mkdtempSync(join(tmpdir(), 'deeptroupe-build-'))
  for (const part of ['memory', 'collective', 'executor', 'addon'])
    mkdirSync(join(folder, 'native', part), { recursive: true })
  for (const part of ['abi', 'cpu']) mkdirSync(join(folder, 'kernels', part), { recursive: true })
  cpSync(join(compiled, 'build.js'), join(folder, 'dist/native/build.js'), { recursive: true })
  cpSync(join(compiled, 'paths.js'), join(folder, 'dist/native/paths.js'))
  symlinkSync(join(projectRoot, 'node_modules'), join(folder, 'node_modules'))
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  writeFileSync(
    join(folder, 'native/CMakeLists.txt'),
    `cmake_minimum_required(VERSION 3.18)\nproject(fake LANGUAGES NONE)\n${commands}\n`,
  )
  return {
    build: (path = process.env.PATH, { args = [], nvcc } = {}) =>
      spawnSync(process.execPath, [join(folder, 'dist/native/build.js'), ...args], {
        encoding: 'utf8',
        env: { ...process.env, PATH: path, ...(nvcc !== undefined && { NVCC: nvcc }) },
      }),
    end: () => rmSync(folder, { recursive: true }),
  }
}

test('without tools the build says in one line what is missing, and succeeds', (t) => {
  const { build, end } = project('')
  const { status, stderr } = build('/nowhere')
  end()
  t.is(status, 0)
  t.is(stderr.trim().split('\n').length, 1)
  t.regex(stderr, /got no cmake, no make, no a C\+\+20 compiler; .*reference.*apt-get install g\+\+ make cmake/)
})

test('a build that must have the GPU part fails in one line where nvcc is missing', (t) => {
  const { build, end } = project('')
  const { status, stderr } = build(process.env.PATH, { args: ['--gpu'], nvcc: '/nowhere/nvcc' })
  end()
  t.is(status, 1)
  t.regex(stderr, /^native: build of the GPU part, expected nvcc .*, got none; install .*\n$/)
})

if (hasTools) {
  test('a failing build prints its log and exits 1', (t) => {
    const { build, end } = project('message(FATAL_ERROR "this source is broken")')
    const { status, stderr } = build()
    end()
    t.is(status, 1)
    t.regex(stderr, /this source is broken/)
    t.regex(stderr, /native: build, expected cmake to succeed/)
  })

  test('a build that is current does nothing', (t) => {
    const { build, end } = project(
      `add_custom_target(addon ALL COMMAND \${CMAKE_COMMAND} -E touch \${CMAKE_BINARY_DIR}/deeptroupe.node)`,
    )
    const [first, second] = [build(), build()]
    end()
    t.is(first.status, 0, first.stderr)
    t.regex(first.stderr, /^native: building the addon$/m)
    t.deepEqual([second.status, second.stdout, second.stderr], [0, '', ''])
  })

  test('a build with another nvcc, or without it, is made anew', (t) => {
    const { build, end } = project(
      `add_custom_target(addon ALL COMMAND \${CMAKE_COMMAND} -E touch \${CMAKE_BINARY_DIR}/deeptroupe.node)`,
    )
    const nvccs = [process.execPath, process.execPath, '/nowhere/nvcc', '/nowhere/nvcc', process.execPath]
    const said = nvccs.map((nvcc) => build(process.env.PATH, { nvcc }).stderr.split('\n')[0])
    end()
    const built = 'native: building the addon'
    t.deepEqual(said, [built, '', built, '', built])
  })
}
