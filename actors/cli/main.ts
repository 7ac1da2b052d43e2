#!/usr/bin/env node
// The `deeptroupe` command. Whatever goes wrong for a reason that a person can mend ends as one line on stderr and exit code 1.
import { readFileSync } from 'node:fs'
import { Command } from 'commander'
import { addGenerate, runGenerate } from './generate.js'
import { report } from './report.js'
import { addStart, start } from './start.js'
import { addTrain, train } from './train.js'

const { version, description } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'))

/** Errors of our own classes carry a code and a message for people; anything else is a defect and shows its stack. */
function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const known = 'code' in error && /^[A-Z_]+$/.test(String(error.code))
  const text = known ? error.message : (error.stack ?? error.message)
  return process.env['DEEPTROUPE_DEBUG'] ? `${text}\n${error.stack}` : text
}

const program = new Command('deeptroupe').description(description).version(version)
addTrain(program, train)
addGenerate(program, runGenerate)
addStart(program, start)
program
  .command('report')
  .description('What this machine has, and what would make it faster')
  .option('--json', 'as JSON')
  .action(report)

try {
  await program.parseAsync()
} catch (error) {
  process.stderr.write(`error: ${explain(error)}\n`)
  process.exitCode = 1
}
