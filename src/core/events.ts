// What the engine tells the outside. One typed Observer with optional methods; metrics, logs and users'
// listeners do not know each other, and a listener that throws never hurts a query.

import type { FaultClass } from './fault.ts'
import type { QueryKind, Role } from './types.ts'

/** One statement settled. Carries no text, because raw SQL may have literals in it; Kysely's own log has the text. */
export interface QueryEvent {
  readonly node: string
  readonly role: Role
  /** Why it ran there. */
  readonly reason: string
  readonly kind: QueryKind
  /** Verb and tables. */
  readonly summary: string
  /** Milliseconds from the call to the answer, waiting included. */
  readonly ms: number
  readonly cached: boolean
  readonly attempts: number
  readonly ok: boolean
  /** SQLSTATE or error code when it failed. */
  readonly code?: string
}

export interface BreakerEvent {
  readonly node: string
  /** Of the two that each node has. */
  readonly circuit: CircuitName
  readonly from: BreakerStateName
  readonly to: BreakerStateName
  readonly because: string
}
/** Connecting and querying fail apart. */
export type CircuitName = 'connect' | 'query'
export type BreakerStateName = 'closed' | 'half-open' | 'open'

export interface LeakEvent {
  readonly node: string
  readonly heldMs: number
  readonly summary: string
  /** Where the connection was asked for. */
  readonly stack: string
}

/** A node left or rejoined the set that reads go to. */
export interface NodeEvent {
  readonly node: string
  readonly role: Role
  readonly up: boolean
  readonly because: string
}

export interface RetryEvent {
  readonly node: string
  readonly attempt: number
  readonly fault: FaultClass
  readonly because: string
}

/** A standby has refused a statement, which then ran on the primary, as its text will from now on. */
export interface RerunEvent {
  /** The standby. */
  readonly node: string
  /** Verb and tables. */
  readonly summary: string
  /** SQLSTATE of its refusal. */
  readonly code: string | undefined
}

/** Another server is the primary now, or none is. */
export interface FailoverEvent {
  readonly from: string
  /** null: for now there is no primary. */
  readonly to: string | null
  readonly because: string
  /** The new primary's, where it can tell. */
  readonly timeline: number | null
}

/** A text runs unnamed from now on: the plan that the server kept for its name was far worse than those before. */
export interface PlanRegressionEvent {
  readonly node: string
  /** Verb and tables. */
  readonly summary: string
  /** Mean time on the server, outliers cut, while it was planned for its parameters each time. */
  readonly baselineMs: number
  /** The same of its last runs. */
  readonly nowMs: number
}

/** The connection of `dialect.listen` was away: notifications on this channel may have been missed. */
export interface GapEvent {
  readonly node: string
  readonly channel: string
  /** Milliseconds on the wall clock: what was notified before `since` has been heard, and what is from `until` on. */
  readonly since: number
  readonly until: number
}

/** A failure in the background that no caller saw. */
export interface BackgroundErrorEvent {
  readonly node?: string
  readonly during: string
  readonly error: unknown
}

export interface Events {
  query: QueryEvent
  breaker: BreakerEvent
  leak: LeakEvent
  node: NodeEvent
  retry: RetryEvent
  'plan-regression': PlanRegressionEvent
  rerun: RerunEvent
  failover: FailoverEvent
  gap: GapEvent
  error: BackgroundErrorEvent
}

export type EventName = keyof Events
