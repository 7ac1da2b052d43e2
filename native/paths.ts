// Where the project lies, whichever folder its JavaScript was compiled into.
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The folder of package.json. */
export const projectRoot: string = (() => {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder)
  return folder
})()

export const buildFolder = join(projectRoot, 'build/native')
export const addonPath = join(buildFolder, 'deeptroupe.node')
