// Where a statement runs, as far as the statement, its caller and the rules decide it; which replica takes a read, if
// any may, is balance.ts's question. Positively recognised reads may leave the primary, everything else stays,
// whether a builder wrote the text or a person.

import type { RouteReason } from './cells.ts'
import type { Facts } from './types.ts'

/** What a caller has said about where his statement runs (`db.onPrimary()`, `db.onReplica({ … })`). */
export interface Wish {
  readonly target: 'primary' | 'replica'
  /** Instead of `routing.maxLag`. */
  readonly maxLagMs?: number
  readonly maxLagBytes?: number
  /** That replica and no other. */
  readonly name?: string
  /** Only replicas with all of these tags. */
  readonly tags?: readonly string[]
}

export interface RouteAsk {
  readonly facts: Facts
  readonly transaction: 'none' | 'read-write' | 'read-only'
  readonly wish: Wish | undefined
  /** A standby has refused this text before. */
  readonly refused: boolean
}

export interface RouteRules {
  readonly replicas: number
  readonly readWriteSplit: boolean
  readonly readOnlyTransactions: boolean
}

export interface Destination {
  readonly target: 'primary' | 'replica'
  readonly because: RouteReason
}

export function destinationOf({ facts, transaction, wish, refused }: RouteAsk, rules: RouteRules): Destination {
  if (wish?.target === 'primary') return primary('hint')
  if (transaction === 'read-write') return primary('transaction')
  if (transaction === 'read-only') return readOnlyTransaction(wish, rules)
  if (facts.kind === 'transaction') return primary('transaction')
  // Before the caller's wish: what a standby has refused it would refuse again.
  if (refused) return primary('refused')
  // Whoever asks for a replica vouches for what nobody knows; what is known to write he cannot ask for.
  if (wish !== undefined) return rules.replicas === 0 ? primary('no-replica') : replica('hint')
  if (facts.writes) return primary(facts.kind === 'unknown' ? 'unknown' : 'write')
  if (!facts.safeOnReplica) return primary('unknown')
  return offload(rules, 'read')
}

function readOnlyTransaction(wish: Wish | undefined, rules: RouteRules): Destination {
  if (wish !== undefined) return rules.replicas === 0 ? primary('no-replica') : replica('hint')
  return rules.readOnlyTransactions ? offload(rules, 'read-only-transaction') : primary('transaction')
}

function offload(rules: RouteRules, because: RouteReason): Destination {
  if (rules.replicas === 0) return primary('no-replica')
  if (!rules.readWriteSplit) return primary('split-off')
  return replica(because)
}

function primary(because: RouteReason): Destination {
  return { target: 'primary', because }
}

function replica(because: RouteReason): Destination {
  return { target: 'replica', because }
}
