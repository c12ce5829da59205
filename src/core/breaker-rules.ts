// When a circuit opens, for how long, and how it comes back: the numbers behind core/breaker.ts.

import type { CallWindow } from './call-window.ts'
import type { BreakerVerdict } from './fault.ts'

/** The resolved options under `breaker`. */
export interface BreakerSettings {
  readonly failureThreshold: number
  /** Share of failed calls in the window that opens it. */
  readonly errorRate: number
  readonly windowMs: number
  /** Calls in the window below which neither rate says anything. */
  readonly minimumCalls: number
  /** A call that takes this long is slow; 0: only those that ran into their timeout are. */
  readonly slowCallMs: number
  /** Share of slow calls in the window that opens it. */
  readonly slowCallRate: number
  readonly recoveryMinMs: number
  readonly recoveryMaxMs: number
  readonly halfOpenMaxCalls: number
  /** It changes its state and tells so, and refuses nobody. */
  readonly metricsOnly: boolean
}

// Without it all processes that lost the same server would come back to it in the same millisecond.
const JITTER = 0.2
/** How long a circuit that has closed admits only a share of the calls, and with which share it begins. */
const RAMP_MS = 5_000
const RAMP_BEGINS_WITH = 0.1

/** How long to stay open the n-th time in a row: min, 2 min, 4 min … max, ±20 %. */
export function openMs(
  openings: number,
  { recoveryMinMs, recoveryMaxMs }: Pick<BreakerSettings, 'recoveryMinMs' | 'recoveryMaxMs'>,
  chance: number,
): number {
  const plainMs = Math.min(recoveryMaxMs, recoveryMinMs * 2 ** (openings - 1))
  return plainMs * (1 - JITTER + 2 * JITTER * chance)
}

/**
 * The share of calls let through so long after the circuit has closed: 10 % at first, all of them after five seconds
 * (Envoy's slow start): a server that has just come back has cold caches.
 */
export function rampShare(sinceMs: number): number {
  return Math.min(1, RAMP_BEGINS_WITH + ((1 - RAMP_BEGINS_WITH) * sinceMs) / RAMP_MS)
}

/** Why a closed circuit opens now, or null: any one of three reasons is enough. */
export function whyOpened(
  failuresInARow: number,
  { calls, failed, slow }: Pick<CallWindow, 'calls' | 'failed' | 'slow'>,
  { failureThreshold, errorRate, slowCallRate, minimumCalls, windowMs }: BreakerSettings,
  outcome: BreakerVerdict,
): string | null {
  if (failuresInARow >= failureThreshold) {
    const starting = outcome === 'soft' ? 'the server is starting or stopping, ' : ''
    return `${starting}${failuresInARow} failures in a row`
  }
  if (calls < minimumCalls) return null
  const within = `of ${calls} calls within ${windowMs / 1000} s`
  if (failed / calls >= errorRate) return `${failed} ${within} failed`
  return slow / calls >= slowCallRate ? `${slow} ${within} were slow` : null
}
