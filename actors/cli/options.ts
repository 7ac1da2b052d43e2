// Values of flags. A bad one is one line that names the flag, what it takes and what came.
import { InvalidArgumentError } from 'commander'

export const integer =
  (least: number) =>
  (text: string): number => {
    const value = Number(text)
    if (Number.isSafeInteger(value) && value >= least) return value
    throw new InvalidArgumentError(`Expected an integer of at least ${least}, got ${text}.`)
  }

export const within =
  (least: number, most: number) =>
  (text: string): number => {
    const value = Number(text)
    if (text.trim() !== '' && value >= least && value <= most) return value
    throw new InvalidArgumentError(`Expected a number from ${least} to ${most}, got ${text}.`)
  }

export const oneOf =
  <T extends string | number>(...values: readonly T[]) =>
  (text: string): T => {
    const value = values.find((candidate) => String(candidate) === text)
    if (value !== undefined) return value
    throw new InvalidArgumentError(`Expected ${values.join(' or ')}, got ${text}.`)
  }
