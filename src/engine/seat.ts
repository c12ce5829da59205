// Where a statement is sent from: the connection of its lease alone, or a place on one that others use as well.

import type { Permit } from '../core/breaker.ts'
import type { Rows, Session, Statement } from '../core/types.ts'

/** What the spine needs of it. */
export interface Seat {
  readonly session: Session
  /** The circuit's permit; null once it is settled. */
  permit: Permit | null
  /** A cancel request on its way, which would hit whatever is sent now. */
  readonly cancelling: Promise<void> | null
  /** Whether the statement was ended by its deadline. */
  readonly timedOut: boolean
  sends(now: number, doing: string, timeoutMs: number): void
  send(statement: Statement): Promise<Rows>
  settles(now: number): void
}
