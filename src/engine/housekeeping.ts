// What a pool does by the clock: statements over their deadline, leases held too long, idle connections that
// have outlived their use or must be asked whether they live. One timer per pool, only while there is something
// to look after.

import type { NodePoolConfig } from '../config/options.ts'
import { planShrink } from '../core/pool-plan.ts'
import type { PoolBounds, PoolState } from '../core/pool-plan.ts'
import type { Clock } from '../core/types.ts'
import type { PooledSession } from './pooled-session.ts'

/** After CancelRequest the server answers at once or not at all; with it a statement settles within its time and a second. */
const CANCEL_GRACE_MS = 800
/** From one look at something to the next at least this. */
export const SHORTEST_TICK_MS = 10

/** How often to look: a tenth of the finest deadline, so that none is overstepped by more. */
export function tickMs(config: NodePoolConfig, queryTimeoutMs: number): number {
  const deadlines = [queryTimeoutMs, config.leakDetectionMs, config.idleTimeoutMs, config.keepaliveMs]
  const finest = Math.min(...deadlines.filter((ms) => ms > 0).map((ms) => ms / 10))
  return Math.min(500, Math.max(SHORTEST_TICK_MS, finest))
}

/** How long until the next look: `tick`, or until something is to be done about a statement that takes too long. */
export function untilNextLook(busy: Iterable<PooledSession>, now: number, tick: number): number {
  let ms = tick
  for (const { sentAt, timeoutMs, overdue, overdueSince } of busy) {
    if (sentAt === 0) continue
    if (overdue === 'no') ms = Math.min(ms, sentAt + timeoutMs - now)
    else ms = Math.min(ms, overdue === 'seen' ? 0 : overdueSince + CANCEL_GRACE_MS - now)
  }
  return Math.max(SHORTEST_TICK_MS, ms)
}

/**
 * A statement over its time: cancel, then destroy. An overdue statement is only acted upon at the tick after the one that saw
 * it, so that an answer that waits in the socket of a blocked process is read first. True: its server is silent.
 */
export function enforceDeadline(pooled: PooledSession, now: number, clock: Clock): boolean {
  const { sentAt, timeoutMs } = pooled
  if (sentAt === 0 || now - sentAt < timeoutMs) return false
  if (pooled.overdue === 'no') {
    pooled.overdue = 'seen'
  } else if (pooled.overdue === 'seen') {
    pooled.overdue = 'cancelled'
    pooled.overdueSince = now
    void pooled.cancel(clock, CANCEL_GRACE_MS)
  } else if (now - pooled.overdueSince >= CANCEL_GRACE_MS) {
    pooled.session.destroy(new Error(`no answer within ${timeoutMs} ms, nor to a cancel request`))
    return true
  }
  return false
}

/** Whether a lease has just become one to report; true once per lease. */
export function leaked(pooled: PooledSession, now: number, leakDetectionMs: number): boolean {
  if (leakDetectionMs === 0 || pooled.leakReported || pooled.heldSince === 0) return false
  if (now - pooled.heldSince < leakDetectionMs) return false
  return (pooled.leakReported = true)
}

/** The idle connections to close, the longest idle first. */
export function surplus(
  idle: readonly PooledSession[],
  now: number,
  state: PoolState,
  bounds: PoolBounds,
  idleTimeoutMs: number,
): PooledSession[] {
  if (idleTimeoutMs === 0) return []
  const idleFor = idle.map((pooled) => now - pooled.idleSince)
  return idle.slice(0, planShrink(state, bounds, idleFor, idleTimeoutMs))
}

/** The idle connections to ask whether they live. */
export function silent(idle: readonly PooledSession[], now: number, keepaliveMs: number): PooledSession[] {
  if (keepaliveMs === 0) return []
  return idle.filter((pooled) => now - Math.max(pooled.idleSince, pooled.pingedAt) >= keepaliveMs)
}
