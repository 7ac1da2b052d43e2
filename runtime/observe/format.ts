// Numbers as people read them. Pure functions of their arguments.

const binary = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
const decimal = ['', 'k', 'M', 'G', 'T', 'P']

/** Three digits and a unit; moves to the next unit where rounding would show `base`. */
function scaled(value: number, base: number, units: readonly string[], gap: string): string {
  if (!Number.isFinite(value)) return String(value)
  let scale = 0
  let rest = Math.abs(value)
  while (rest >= base - 0.5 && scale < units.length - 1) {
    rest /= base
    scale++
  }
  const digits = scale === 0 && Number.isInteger(rest) ? 0 : rest >= 99.95 ? 0 : rest >= 9.995 ? 1 : 2
  return `${value < 0 ? '-' : ''}${rest.toFixed(digits)}${units[scale] ? gap + units[scale] : ''}`
}

/** `512 B`, `1.50 KiB`, `12.0 MiB`. */
export const formatBytes = (bytes: number): string => scaled(bytes, 1024, binary, ' ')

/** `950`, `1.20k`, `124M`. */
export const formatCount = (count: number): string => scaled(count, 1000, decimal, '')

/** `85 ms`, `12.3 s`, `4 m 05 s`, `2 h 07 m`, `3 d 04 h`. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '-'
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  const pair = (unit: number, part: number, names: readonly [string, string]): string =>
    `${Math.floor(whole / unit)} ${names[0]} ${String(Math.floor((whole % unit) / part)).padStart(2, '0')} ${names[1]}`
  if (whole < 3600) return pair(60, 1, ['m', 's'])
  if (whole < 86400) return pair(3600, 60, ['h', 'm'])
  return pair(86400, 3600, ['d', 'h'])
}

/** A loss or norm with four digits after the point, or as it is where it is not finite. */
export const formatLoss = (loss: number): string => (Number.isFinite(loss) ? loss.toFixed(4) : String(loss))
