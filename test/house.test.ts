// The house's rules that a compiler does not know: folders import only to their left, the top level holds nothing else.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'

const order = ['kernels', 'native', 'runtime', 'transports', 'actors', 'examples', 'test']
const root = (() => {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder)
  return folder
})()

const sources = order.flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.(ts|cpp|h|cu|cuh)$/.test(file))
    .map((file) => join(folder, file)),
)

/** Paths that a file imports from within the project. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8')
  const pattern = file.endsWith('.ts') ? /(?:from|import\()\s*'(\.{1,2}\/[^']+)'/g : /#include\s+"([^"]+)"/g
  return [...text.matchAll(pattern)].map((match) => {
    const path = match[1]!
    const beside = normalize(join(dirname(file), path))
    return file.endsWith('.ts') || existsSync(join(root, beside)) ? beside : normalize(path)
  })
}

test('a file imports from its own folder and from folders to its left', (t) => {
  t.true(sources.length > 50)
  const wrong = sources.flatMap((file) => {
    const own = order.indexOf(file.split(sep)[0]!)
    return importsOf(file)
      .filter((path) => order.indexOf(path.split(sep)[0]!) > own)
      .map((path) => `${file} imports ${path}`)
  })
  t.deepEqual(wrong, [])
})

test('kernels/ops imports nothing from outside it', (t) => {
  const wrong = sources
    .filter((file) => file.startsWith(join('kernels', 'ops')))
    .flatMap((file) => importsOf(file).filter((path) => !path.startsWith(join('kernels', 'ops'))))
  t.deepEqual(wrong, [])
})

test('the top level holds the seven folders and the usual files', (t) => {
  const usual = new Set([...order, 'package.json', 'package-lock.json', 'tsconfig.json', 'README.md', 'LICENSE'])
  const tracked = execFileSync('git', ['ls-files'], { cwd: root, encoding: 'utf8' }).split('\n').filter(Boolean)
  const entries = new Set(tracked.map((file) => file.split('/')[0]!))
  t.deepEqual(
    [...entries].filter((entry) => !usual.has(entry) && !entry.startsWith('.')),
    [],
  )
})
