// Durations as a user writes them: milliseconds as a number, or text with a unit. Inside the house there are
// only milliseconds; this file is the one place where the two meet.

import { ConfigError } from '../core/errors.ts'
import { shown } from './describe.ts'

/** Node's timers end at 2^31 − 1 ms (24.8 days) and fire at once beyond; the rest is room for jitter of 15 %. */
export const longestMs = 20 * 86_400_000

const unitMs = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 }

const form = /^(\d{1,12})(?:\.(\d{1,3}))? ?(ms|s|min|m|h|d)$/

/** What a duration may look like, for messages and docs. */
export const durationForms = "milliseconds as a number, or text such as '500ms', '1.5s', '5min', '5m', '1h', '1d'"

/** Milliseconds, or null for what is no duration. A sign and the range are the rule's business. */
export function durationMs(value: unknown): number | null {
  if (typeof value === 'number') return Number.isFinite(value) ? value : null
  const match = typeof value === 'string' ? form.exec(value) : null
  if (match === null) return null
  const [, whole, fraction = '', unit] = match
  // Thousandths first, so that '1.1s' is 1100 and not 1100.0000000000002.
  const thousandths = Number(whole) * 1000 + Number(fraction.padEnd(3, '0'))
  return (thousandths * unitMs[unit as keyof typeof unitMs]) / 1000
}

/** The shortest text that `durationMs` reads back as the same value: 300000 → '5min'. */
export function durationText(ms: number): string {
  const unit = (['d', 'h', 'min', 's'] as const).find((name) => ms !== 0 && ms % unitMs[name] === 0) ?? 'ms'
  return `${ms / unitMs[unit]}${unit}`
}

/** The milliseconds of a wait that is an argument and no option. Throws a ConfigError that names `path`. */
export function waitMs(value: unknown, path: string): number {
  const ms = durationMs(value)
  if (ms !== null && ms >= 0 && ms <= longestMs) return ms
  const expected = `a duration of at most ${durationText(longestMs)}: ${durationForms}`
  throw new ConfigError([{ path, received: shown(value), expected }])
}
