// The counters of one server. The engine increments them in passing, as plain fields, because a query must not pay
// for being counted (tens of nanoseconds in all; a metrics library asks 2.5–4 µs). Nobody is told: metrics, status and
// history read the cells when they want to know. Every name that can become a label comes from a closed list here.

import type { BreakerStateName } from './events.ts'
import type { ErrorCategory, FaultClass } from './fault.ts'
import { Histogram, sizeLadder } from './histogram.ts'
import type { QueryKind, Role } from './types.ts'

/** What a failed query is counted as. */
export const ERROR_CATEGORIES = namesOf<ErrorCategory>({
  connection_timeout: 0,
  connection_refused: 0,
  authentication_failed: 0,
  query_timeout: 0,
  query_error: 0,
  pool_exhausted: 0,
  circuit_open: 0,
  connection_lost: 0,
  serialization_failure: 0,
  deadlock: 0,
  cancelled: 0,
})

export const QUERY_KINDS = namesOf<QueryKind>({
  read_simple: 0,
  read_complex: 0,
  write_simple: 0,
  write_bulk: 0,
  ddl: 0,
  transaction: 0,
  unknown: 0,
})

/** How an attempt to get a connection ended; `rejected`: the queue was full or the pool is closing. */
export const ACQUIRE_RESULTS = ['ok', 'timeout', 'aborted', 'rejected'] as const
export type AcquireResult = (typeof ACQUIRE_RESULTS)[number]

/** Why a connection was closed. */
export const CLOSE_REASONS = ['idle', 'lifetime', 'error', 'shrink', 'failover', 'drain', 'leak'] as const
export type CloseReason = (typeof CLOSE_REASONS)[number]

export const BREAKER_STATES = namesOf<BreakerStateName>({ closed: 0, 'half-open': 0, open: 0 })

/** Why a statement may be sent again: the class of the fault before it. */
export const RETRY_REASONS = namesOf<FaultClass>({
  unreachable: 0,
  starting: 0,
  'too-many-connections': 0,
  authentication: 0,
  'connection-lost': 0,
  'outcome-unknown': 0,
  'rolled-back': 0,
  'lock-not-available': 0,
  cancelled: 0,
  'server-resources': 0,
  'read-only': 0,
  'recovery-conflict': 0,
  'prepared-statement': 0,
  query: 0,
  internal: 0,
  refused: 0,
})

/** `ok`, `failed`: it was sent again. `refused`: the retry budget or the deadline left no room, nothing was sent. */
export const RETRY_OUTCOMES = ['ok', 'failed', 'refused'] as const
export type RetryOutcome = (typeof RETRY_OUTCOMES)[number]

/** Why a statement went where it went. */
export const ROUTE_REASONS = [
  'write',
  'transaction',
  'refused',
  'hint',
  'unknown',
  'read',
  'own-write',
  'stale-replicas',
  'no-replica',
  'split-off',
  'pinned',
  'read-only-transaction',
  'fallback',
] as const
export type RouteReason = (typeof ROUTE_REASONS)[number]

const ROLES = namesOf<Role>({ primary: 0, replica: 0 })

export const BATCH_STRATEGIES = ['transactional', 'best-effort', 'sequential', 'parallel'] as const
export type BatchStrategy = (typeof BATCH_STRATEGIES)[number]

/** `partial`: some queries of the batch succeeded and some did not. */
export const BATCH_RESULTS = ['ok', 'partial', 'failed'] as const
export type BatchResult = (typeof BATCH_RESULTS)[number]

/** Statements of one kind. */
export class OperationCells {
  queries = 0
  readonly duration = new Histogram()
}

/** Batches of one strategy. */
export class BatchCells {
  readonly results = each(BATCH_RESULTS, zero)
  readonly duration = new Histogram()
}

/** Everything that is counted about one server, since the node was made. Durations are in microseconds. */
export class NodeCells {
  /** Statements settled, well or badly; the sum of `operations[kind].queries`. */
  queries = 0
  /** Of these, the failed; the sum of `errorsByCategory`. */
  queryErrors = 0
  readonly errorsByCategory = each(ERROR_CATEGORIES, zero)
  /** Look it up once per statement: `const operation = cells.operations[facts.kind]`. */
  readonly operations = each(QUERY_KINDS, () => new OperationCells())

  readonly acquires = each(ACQUIRE_RESULTS, zero)
  /** Acquires that found no connection free and had to queue. */
  waitedAcquires = 0
  readonly acquireDuration = new Histogram()
  readonly connectDuration = new Histogram()
  /** How long a connection was held by one caller. */
  readonly useDuration = new Histogram()

  connectionsOpened = 0
  readonly connectErrors = each(ERROR_CATEGORIES, zero)
  readonly connectionsClosed = each(CLOSE_REASONS, zero)
  leaksDetected = 0

  /** `breakerTransitions[from][to]`. */
  readonly breakerTransitions = each(BREAKER_STATES, () => each(BREAKER_STATES, zero))
  /** Statements the open breaker turned away. */
  breakerRejections = 0

  /** `retries[reason][outcome]`. */
  readonly retries = each(RETRY_REASONS, () => each(RETRY_OUTCOMES, zero))
  /** Statements that a replica refused and that then ran on the primary. */
  reruns = 0

  /** Reads sent once more on another connection, because what stood before them did not move. */
  resent = 0
  /** Statements that a lane's short lock timeout gave up, and that then waited on a connection of their own. */
  lockTimeouts = 0

  /** `routed[target][reason]`, by the role the node had then: a failover must not rewrite the past. */
  readonly routed = each(ROLES, () => each(ROUTE_REASONS, zero))

  readonly batches = each(BATCH_STRATEGIES, () => new BatchCells())
  /** Queries per batch. */
  readonly batchSize = new Histogram(sizeLadder)
}

function each<Name extends string, T>(names: readonly Name[], make: () => T): Record<Name, T> {
  return Object.fromEntries(names.map((name) => [name, make()])) as Record<Name, T>
}

function zero(): number {
  return 0
}

/** The names of a union that is written elsewhere; the compiler refuses a missing or a surplus one. */
function namesOf<Name extends string>(names: Record<Name, 0>): readonly Name[] {
  return Object.keys(names) as Name[]
}
