// One connection as its pool sees it: whose it is, since when, until when, and what runs on it now.

import type { Permit } from '../core/breaker.ts'
import type { Session } from '../core/types.ts'

export class PooledSession {
  readonly session: Session
  readonly openedAt: number
  /** Replaced after this. */
  readonly lifetimeEnd: number
  /** The pool's generation it was opened in; an older one is not handed out again. */
  readonly generation: number

  idleSince = 0
  pingedAt = 0
  /** Since when a lease holds it; 0 while nobody does. */
  heldSince = 0
  /** What the lease runs or ran last, for people who look for who holds the connections. */
  doing = ''
  /** Where the connection was asked for; only with leak detection. */
  stack: string | undefined = undefined
  leakReported = false
  /** Something ran that may have left a trace in the session. */
  dirty = false

  /** The circuit's permit for the lease's first statement; null once it is settled. */
  permit: Permit | null = null

  /** When the statement that is under way with a deadline was sent; 0 while there is none. */
  sentAt = 0
  /** How far the deadline has been acted upon. */
  overdue: 'no' | 'seen' | 'cancelled' = 'no'
  overdueSince = 0

  constructor(session: Session, now: number, lifetimeEnd: number, generation: number) {
    this.session = session
    this.openedAt = now
    this.lifetimeEnd = lifetimeEnd
    this.generation = generation
    this.idleSince = now
  }

  /** Out of its pool, whether said goodbye to or destroyed. */
  closed = false

  /** The lease has given it back. */
  returned(): void {
    this.heldSince = 0
    this.leakReported = false
    this.stack = undefined
    this.permit = null
    this.settles()
  }

  /** A statement with a deadline goes out. */
  sends(now: number, doing: string, timed: boolean): void {
    this.doing = doing
    this.sentAt = timed ? now : 0
    this.overdue = 'no'
  }

  settles(): void {
    this.sentAt = 0
  }

  /** Whether the statement that just ended was ended by its deadline. */
  get timedOut(): boolean {
    return this.overdue === 'cancelled'
  }
}
