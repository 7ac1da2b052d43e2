// The page of guarantees and its tests hold each other: every sentence in bold is the name of a test here or in test/transports.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { viewText } from '../../../transports/index.js'
import { LoopbackSystem } from '../../../transports/testing.js'
import { mortal, parent } from '../../transports/cast.js'

const root = (() => {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder)
  return folder
})()

test('every guarantee of the page is the name of a test', (t) => {
  const page = readFileSync(join(root, 'runtime/actor/README.md'), 'utf8')
  const guarantees = [...page.matchAll(/\*\*(.+?)\*\*/gs)]
    .map((match) => match[1]!.replace(/\s+/g, ' ').replace(/\.$/, ''))
    .filter((sentence) => sentence.includes(' '))
  const sources = ['test/runtime/actor', 'test/transports'].flatMap((folder) =>
    readdirSync(join(root, folder)).map((file) => readFileSync(join(root, folder, file), 'utf8')),
  )
  const names = new Set(
    sources.flatMap((source) => [...source.matchAll(/^test(?:\.serial)?\(\s*'(.+)',/gm)].map((match) => match[1]!)),
  )
  t.true(guarantees.length > 60)
  t.deepEqual(
    guarantees.filter((sentence) => !names.has(sentence)),
    [],
  )
})

test('viewText shows the tree, restarts and causes', async (t) => {
  const system = await LoopbackSystem.start({ workers: 1 })
  const top = await system.spawn(parent, { names: ['a'], worker: 0 }, { name: 'top', worker: 'main' })
  const other = await system.spawn(mortal, undefined, { name: 'other', worker: 0 })
  await top.ask({ type: 'children' })
  await t.throwsAsync(other.ask({ type: 'throwNow' }))
  await system.advance(50)
  t.is(
    viewText(await system.inspect()),
    `loopback: actors by worker main 1, 0 2; dead letters 0
  top  main, running, mailbox 0/1000, handled 1 (p50 0.00 ms, p99 0.00 ms)
    a  worker 0, running, mailbox 0/1000
  other  worker 0, running, mailbox 0/1000, restarts 1, last ended by exception: now`,
  )
  await system.stop()
})
