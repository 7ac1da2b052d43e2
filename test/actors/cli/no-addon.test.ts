// Without the addon: everything that does not need it works on the reference backend and says what would bring more.
import { cpSync, existsSync, mkdirSync, symlinkSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { failsWith, linesOf, type Outcome, start, tiny, workshop } from './command.js'

const compiled = fileURLToPath(new URL('../../..', import.meta.url))

/** The package's JavaScript beside no build folder. */
function bare(folder: string): (...args: readonly string[]) => Promise<Outcome> {
  let root = dirname(compiled)
  while (!existsSync(join(root, 'node_modules'))) root = dirname(root)
  const copy = join(folder, 'package')
  mkdirSync(copy)
  cpSync(compiled, join(copy, 'dist'), { recursive: true, filter: (path) => basename(path) !== 'test' })
  cpSync(join(root, 'package.json'), join(copy, 'package.json'))
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  return (...args) => start(args, { main: join(copy, 'dist/actors/cli/main.js') }).outcome
}

test('without the addon: report has a remedy, train says what trains, --device cpu is one error', async (t) => {
  const { folder, data } = workshop(t)
  const command = bare(folder)
  const report = await command('report')
  t.is(report.code, 0, report.stderr)
  t.regex(report.stdout, /^addon +not found: .*npx deeptroupe build.*apt-get install/m)
  t.regex(report.stdout, /^backends +reference$/m)
  const trained = await command('train', ...tiny, '--data', data, '--steps', '2', '--ranks', '2', '--json')
  t.is(trained.code, 0, trained.stderr)
  const lines = linesOf(trained)
  t.regex(String(lines[0]!['message']), /addon: .*npx deeptroupe build.*reference backend/)
  t.deepEqual(
    lines.map(({ type }) => type),
    ['notice', 'step', 'step'],
  )
  failsWith(
    t,
    await command('train', ...tiny, '--data', data, '--device', 'cpu'),
    /addon: .*, expected a file, got nothing; .*npx deeptroupe build/,
  )
})
