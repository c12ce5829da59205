// Whether a statement may go to a replica because its caller asks for one (`db.onReplica()`). He vouches for reads that
// cannot be recognised as such: a function that nobody knows, the catalog, an answer that is each server's own. For what
// is known to write, to lock or to change its session nobody can vouch: a standby would refuse some of it, and do the
// rest to itself, where it helps nobody (an advisory lock) or harms (`pg_promote`).

import { SmartPgError } from './errors.ts'
import type { Facts } from './types.ts'

/** Asked where a lease's first statement is routed, outside any transaction. */
export function mayTravel(facts: Facts): boolean {
  if (facts.safeOnReplica) return true
  switch (facts.because) {
    case 'unknown function':
    case 'empty':
      return true
    // One of its functions may be known to act, and another one not known at all; without the catalog they cannot be told
    // apart. A temporary table that its text does not name as such may only be newer than what is known of the catalog.
    case 'temporary table':
    case 'function stays on the primary':
    case 'server answers for itself':
    case 'system catalog':
    case 'migration table':
    case 'unicode name':
      return !facts.writes && !facts.stateful && !facts.lockWaiter
    default:
      return false
  }
}

/** What to tell the caller of a statement that may not travel. */
export function cannotTravel({ summary, because }: Facts): SmartPgError {
  return new SmartPgError('SMARTPG_INVALID_QUERY', `${summary} cannot run on a replica: ${because}.`, {
    phase: 'send',
    hint:
      'Nothing was sent. onReplica() is for reads; use the Kysely it was made from. Functions of your own that only read ' +
      'can be named in routing.functions.readOnly.',
  })
}
