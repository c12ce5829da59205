// Where a statement runs, as far as the statement and the rules decide it; which replica takes a read, if
// any may, is balance.ts's question. Positively recognised reads may leave the primary, everything else stays.

import type { RouteReason } from './cells.ts'
import type { Facts } from './types.ts'

export interface RouteAsk {
  readonly facts: Facts
  /** Raw SQL of the user: nobody vouches for it but him. */
  readonly raw: boolean
  readonly transaction: 'none' | 'read-write' | 'read-only'
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

export function destinationOf(ask: RouteAsk, rules: RouteRules): Destination {
  if (ask.transaction === 'read-write') return primary('transaction')
  if (ask.transaction === 'read-only') {
    if (!rules.readOnlyTransactions) return primary('transaction')
    return offload(rules, 'read-only-transaction')
  }
  const { facts } = ask
  if (facts.kind === 'transaction') return primary('transaction')
  if (ask.raw) return primary('raw')
  if (facts.writes) return primary(facts.kind === 'unknown' ? 'unknown' : 'write')
  if (!facts.safeOnReplica) return primary('unknown')
  return offload(rules, 'read')
}

function offload(rules: RouteRules, because: RouteReason): Destination {
  if (rules.replicas === 0) return primary('no-replica')
  if (!rules.readWriteSplit) return primary('split-off')
  return { target: 'replica', because }
}

function primary(because: RouteReason): Destination {
  return { target: 'primary', because }
}
