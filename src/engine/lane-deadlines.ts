// queryTimeout where callers share connections: a statement that is alone is cancelled, as on a connection of its own.
// Where others stand, a cancel could hit them, so the caller is told and the statement is left to end; when nobody on
// the connection is waited for any more, its head is cancelled after all, and what does not hear it is destroyed.

import { SmartPgError } from '../core/errors.ts'
import type { Clock } from '../core/types.ts'
import type { LanePassage, SharedLane } from './passage.ts'

export interface DeadlineHost {
  readonly node: string
  readonly clock: Clock
  /** A connection went silent. */
  silent(): void
}

/** After CancelRequest the server answers at once or not at all. */
const CANCEL_GRACE_MS = 800

/** Statements over their deadline: cancelled where that hits nobody else, otherwise their callers are told. */
export function enforceLaneDeadlines(lanes: Iterable<SharedLane>, host: DeadlineHost, now: number): void {
  for (const lane of lanes) {
    for (const passage of [...lane.passages]) enforceOne(lane, passage, host, now)
    enforceEnd(lane, host, now)
  }
}

/** Milliseconds until a deadline is to be looked at, at most `most`. */
export function untilLaneDeadline(lanes: Iterable<SharedLane>, now: number, most: number): number {
  let ms = most
  for (const { passages, cancellingSince } of lanes) {
    if (cancellingSince > 0) ms = Math.min(ms, cancellingSince + CANCEL_GRACE_MS - now)
    for (const { timeoutMs, overdue, sentAt } of passages) {
      if (timeoutMs === 0 || overdue === 'told') continue
      ms = Math.min(ms, overdue === 'seen' ? 0 : sentAt + timeoutMs - now)
    }
  }
  return ms
}

function enforceOne(lane: SharedLane, passage: LanePassage, host: DeadlineHost, now: number): void {
  const { timeoutMs, overdue, sentAt } = passage
  if (timeoutMs === 0 || overdue === 'told' || now - sentAt < timeoutMs) return
  if (overdue === 'no') {
    // An answer that waits in the socket of a blocked process is read first.
    passage.overdue = 'seen'
    return
  }
  passage.overdue = 'told'
  if (passage.dropped) return
  if (lane.passages.length === 1) {
    passage.timesOut()
    cancelHead(lane, host.clock)
  } else passage.abandon(late(passage, host.node))
}

/** What stands behind has been told, or there is nothing: then the head can be cancelled, and nobody else is hit. */
function enforceEnd(lane: SharedLane, host: DeadlineHost, now: number): void {
  const { cancellingSince, passages, pooled } = lane
  if (cancellingSince === 0) {
    if (passages[0]?.overdue === 'told' && passages.every(({ dropped }) => dropped)) cancelHead(lane, host.clock)
  } else if (now - cancellingSince >= CANCEL_GRACE_MS) {
    const why = `no answer within ${passages[0]?.timeoutMs} ms, nor to a cancel request`
    pooled.session.destroy(new Error(why))
    host.silent()
  }
}

function cancelHead(lane: SharedLane, clock: Clock): void {
  lane.ending = true
  lane.cancellingSince = clock.now()
  void lane.pooled.cancel(clock, CANCEL_GRACE_MS)
}

/** Others stand on the connection, so it is not cancelled: it may still be executed. */
function late({ doing, timeoutMs }: LanePassage, node: string): SmartPgError {
  const message = `No answer within ${timeoutMs} ms on a shared connection: ${doing} on node '${node}'.`
  return new SmartPgError('SMARTPG_QUERY_TIMEOUT', message, { node, phase: 'execute' })
}
