// Which modules compute in fp32 beside lower precision: those that the user keeps, and under torch_autocast all but its safe classes.
import type { PrecisionConfig } from '../../runtime/config/index.js'
import { fullPrecision, type Precision } from '../../runtime/graph/compile.js'
import { type Module, namedModules } from '../../runtime/nn/module.js'
import { EngineError } from './errors.js'

/** Chooses modules by path, e.g. `transformer.ln_f`. */
export type ModuleMatch = RegExp | ((path: string) => boolean)

/**
 * The compiler's precision. A module that `keepInFp32` matches stays in fp32 with all modules within it. Throws {@link EngineError}
 * where it matches none.
 */
export function precisionOf(model: Module, config: PrecisionConfig, keepInFp32?: ModuleMatch): Precision {
  const { dtype, gradients, accumulation, autocast } = config
  const modules = namedModules(model)
  const matches = (path: string): boolean =>
    keepInFp32 instanceof RegExp ? path.search(keepInFp32) >= 0 : (keepInFp32?.(path) ?? false)
  if (keepInFp32 && !modules.some(({ name }) => matches(name))) {
    const message = `initialize: keepInFp32 (${keepInFp32 instanceof RegExp ? keepInFp32 : 'function'}), expected at least one module, got none of ${modules.length}`
    throw new EngineError('ENGINE_USAGE', message, { key: 'keepInFp32' })
  }
  if (dtype === 'f32') return fullPrecision
  const safe = autocast && new Set(modules.flatMap(({ name, module }) => (isOf(module, autocast) ? [name] : [])))
  const keeps = (path: string): boolean => pathsTo(path).some(matches) || (safe !== null && !safe.has(path))
  return { dtype, gradients, accumulation, keeps }
}

/** Whether a module's class, or one that it extends, has one of these names. */
function isOf(module: Module, classes: readonly string[]): boolean {
  for (let at = Object.getPrototypeOf(module); at; at = Object.getPrototypeOf(at)) {
    if (classes.includes(at.constructor.name)) return true
  }
  return false
}

/** The root's path and that of every module on the way: of `a.b` the paths ``, `a` and `a.b`. */
function pathsTo(path: string): string[] {
  const parts = path === '' ? [] : path.split('.')
  return ['', ...parts.map((_, i) => parts.slice(0, i + 1).join('.'))]
}
