// Ctrl-C and SIGTERM: the first asks the run to leave, the second ends the process.
import { constants } from 'node:os'

export interface Interrupt {
  readonly signal: AbortSignal
  /** 128 and the number of the signal that came, as shells say it; undefined: none did. */
  exitCode(): number | undefined
  dispose(): void
}

/** Listens until disposed. */
export function interruptible(): Interrupt {
  const controller = new AbortController()
  let exitCode: number | undefined
  const interrupt = (name: 'SIGINT' | 'SIGTERM'): void => {
    if (exitCode !== undefined) process.exit(exitCode)
    exitCode = 128 + constants.signals[name]
    process.stderr.write('\nleaving after the steps under way (again: at once)\n')
    controller.abort()
  }
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt)
  return {
    signal: controller.signal,
    exitCode: () => exitCode,
    dispose: () => void process.off('SIGINT', interrupt).off('SIGTERM', interrupt),
  }
}
