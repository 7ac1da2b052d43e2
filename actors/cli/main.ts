#!/usr/bin/env node
// The `deeptroupe` command: what each subcommand takes; its work is loaded when asked for. Whatever goes wrong for a reason that a
// person can mend ends as one line on stderr and exit code 1.
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { addGenerate } from './generate.js'
import { addTrain } from './train.js'

const { version, description } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'))

/** Errors of our own classes carry a code and a message for people; anything else is a defect and shows its stack. */
function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const known = 'code' in error && /^[A-Z_]+$/.test(String(error.code))
  const text = known ? error.message : (error.stack ?? error.message)
  return process.env['DEEPTROUPE_DEBUG'] ? `${text}\n${error.stack}` : text
}

const fail = (text: string): void => {
  process.stderr.write(`error: ${text}\n`)
  process.exitCode = 1
}

// A reader that has seen enough (`| head`) ends the command, as it ends others.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  throw error
})

const program = new Command('deeptroupe')
  .description(description)
  .version(version)
  .exitOverride()
  .configureOutput({ outputError: () => {} })
addTrain(program)
addGenerate(program)
program
  .command('start')
  .description('Train a small GPT on text and let it write')
  .option('--data <path...>', "text files or folders (the project's own source and documents)")
  .action(async (flags: { readonly data?: readonly string[] }) => (await import('./start.js')).start(flags))
program
  .command('build')
  .description('Build the native addon, if it is not built')
  .action(async () => void (await import('../../native/build.js')))
program
  .command('report')
  .description('What this machine has, and what would make it faster')
  .option('--json', 'as JSON')
  .action(async (flags: { readonly json?: boolean }) => (await import('./report.js')).report(flags))

try {
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) fail(explain(error))
  else if (error.exitCode !== 0) {
    if (error.code === 'commander.help') process.exitCode = 1
    else fail(error.message.replace(/^error: /, '').replace(/\s*\n\s*/g, ' '))
  }
}
