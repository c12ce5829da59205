// Which replica takes a read: of those that answer, are fresh enough and have replayed this process's own
// writes, the one with the least work under way; among equals, chance. When none will do, the answer says why.

import type { RouteReason } from './cells.ts'

export interface Candidate {
  /** It answers and its circuit lets queries through. */
  readonly reachable: boolean
  /** Its lag is within the limits. */
  readonly fresh: boolean
  /** Every write of this process that has ended is visible there. */
  readonly showsOwnWrites: boolean
  /** Statements running and waiting there. */
  readonly load: number
}

export type Choice<C> = { readonly chosen: C } | { readonly chosen: null; readonly because: RouteReason }

export function chooseReplica<C extends Candidate>(candidates: readonly C[], chance: () => number): Choice<C> {
  let best: C | null = null
  let ties = 0
  let because: RouteReason = 'fallback'
  for (const candidate of candidates) {
    if (!candidate.reachable) continue
    if (!candidate.fresh) {
      if (because === 'fallback') because = 'stale-replicas'
    } else if (!candidate.showsOwnWrites) {
      because = 'own-write'
    } else if (best === null || candidate.load < best.load) {
      best = candidate
      ties = 1
    } else if (candidate.load === best.load && chance() < 1 / ++ties) {
      // Reservoir sampling: each of n equals is kept with probability 1/n, without a second list.
      best = candidate
    }
  }
  return best === null ? { chosen: null, because } : { chosen: best }
}
