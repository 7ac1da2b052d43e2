// Takes what `products` (products.cu) measured into the stored table of matrix products:
//   build/gpu/products > products.json && node dist/test/gpu/choices.js products.json
// Lines of the same device, library and product are replaced, and taken out where the library's suggestion is the best by now.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { productChoices } from '../../kernels/gpu/choices.js'
import { projectRoot } from '../../native/paths.js'

/** One product as it was measured: `choice` is its line of the table, of the best candidate. */
interface Measured {
  readonly choice: string
  readonly better: boolean
}

/** A line without its algorithm. */
const productOf = (choice: string): string => choice.slice(0, choice.lastIndexOf('\t'))

/** The table with the measured choices, sorted. */
export function merged(table: string, measured: readonly Measured[]): string[] {
  const lines = new Map(table.split('\n').flatMap((line) => (line ? [[productOf(line), line] as const] : [])))
  for (const { choice, better } of measured) {
    if (better) lines.set(productOf(choice), choice)
    else lines.delete(productOf(choice))
  }
  return [...lines.values()].sort()
}

function main(path: string | undefined): void {
  if (!path) throw new Error('choices: file of measured products, expected a path, got nothing')
  const { rows } = JSON.parse(readFileSync(path, 'utf8')) as { rows: readonly Partial<Measured>[] }
  const measured = rows.filter((row): row is Measured => row.choice !== undefined)
  const target = join(projectRoot, 'kernels/gpu/choices.ts')
  const list = merged(productChoices, measured).map((line) => `  '${line.replaceAll('\t', '\\t')}',\n`)
  const text = `const choices: readonly string[] = [${list.length > 0 ? `\n${list.join('')}` : ''}]\n`
  writeFileSync(
    target,
    readFileSync(target, 'utf8').replace(/const choices: readonly string\[\] = \[[^\]]*\]\n/, () => text),
  )
  process.stdout.write(`${list.length} choices in kernels/gpu/choices.ts\n`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main(process.argv[2])
