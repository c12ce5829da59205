// The states of a circuit, as values, and how each begins.

import type { BreakerStateName } from './events.ts'

export type State = Closed | Open | HalfOpen | Forced

export interface Closed {
  readonly at: 'closed'
  failures: number
  /** When the last loss was counted. */
  lostAt: number
  /** Since when the share of admitted calls grows; NaN when all are admitted. */
  rampFrom: number
  /** How often it had opened in a row when it closed: what breaks again while it recovers was not mended. */
  openings: number
  /** Calls that may still be admitted now, and since when that is so. */
  credit: number
  creditAt: number
}

export interface Open {
  readonly at: 'open'
  readonly failures: number
  readonly until: number
  /** How often in a row; doubles the time. */
  readonly openings: number
  /** When one call may be made to see whether the server is back before its time is over. */
  probeAt: number
  readonly probeEveryMs: number
  probing: boolean
}

export interface HalfOpen {
  readonly at: 'half-open'
  readonly failures: number
  readonly openings: number
  /** Trial calls that may still start. */
  permits: number
  /** Trial calls under way. */
  running: number
  /** Trial calls that the server has answered. */
  answered: number
  /** If the trials are not back until then, others may start. */
  renewAt: number
}

export interface Forced {
  readonly at: 'forced'
  readonly failures: 0
  /** By `isolate` alone: it ends with the last isolation. */
  readonly isolated: boolean
  /** The outage that it stands over: when it ends, the server has to show that that is over, too. */
  readonly over: Pick<Open, 'failures' | 'openings'> | null
}

/** An open circuit is probed at most this often. */
const PROBE_MS = 250

export function closed(now: number, rampFrom: number, openings: number): Closed {
  return { at: 'closed', failures: 0, lostAt: -Infinity, rampFrom, openings, credit: 1, creditAt: now }
}

export function openUntil(until: number, now: number, failures: number, openings: number): Open {
  const probeEveryMs = Math.max(PROBE_MS, (until - now) / 4)
  return { at: 'open', failures, until, openings, probeAt: now + probeEveryMs, probeEveryMs, probing: false }
}

export function nameOf(state: State): BreakerStateName {
  return state.at === 'forced' ? 'open' : state.at
}

export function retryAfter(state: State, now: number): number | null {
  return state.at === 'open' ? Math.max(0, state.until - now) : null
}
