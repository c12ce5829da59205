// Whether a transaction that failed is run again from its beginning: where nothing of it can have been kept, and
// another run may well succeed. What nobody knows the outcome of is never run again.

import { backoffMs } from './retry.ts'
import type { Chance } from './types.ts'

export interface FailedTransaction {
  /** Codes of the error and of its causes: SQLSTATEs, and our own. */
  readonly codes: readonly string[]
  /** Its connection was lost, and COMMIT had not been sent. */
  readonly lostUncommitted: boolean
  /** What should be the primary has refused a write because it is a standby by now. */
  readonly demoted: boolean
  /** The caller's own COMMIT was carried out in it: what stood before that is kept. */
  readonly partlyKept: boolean
  /** 1 for the first try. */
  readonly attempt: number
  readonly attempts: number
  readonly baseMs: number
  readonly maxMs: number
  /** `RetryBudget.left` of the server it ran on. */
  readonly budgetLeft: boolean
}

export type NextTry =
  | { readonly do: 'again'; readonly after: number; readonly because: string }
  | { readonly do: 'fail'; readonly because: string }

/** What next. `chance` spreads the backoff, because those who stood in each other's way failed together. */
export function nextTry(failed: FailedTransaction, chance: Chance): NextTry {
  const { attempt, attempts, baseMs, maxMs } = failed
  const why = whyAgain(failed)
  if (why === null) return { do: 'fail', because: reasonNotTo(failed) }
  if (attempt >= attempts) return { do: 'fail', because: `${attempt} of ${attempts} attempts made` }
  if (!failed.budgetLeft) return { do: 'fail', because: 'the retry budget is exhausted' }
  return { do: 'again', after: backoffMs(attempt, baseMs, maxMs, chance()), because: why }
}

function whyAgain({ codes, demoted, lostUncommitted, partlyKept }: FailedTransaction): string | null {
  if (partlyKept || codes.some((code) => UNKNOWN.has(code))) return null
  if (codes.includes('40001')) return 'serialization failure'
  if (codes.includes('40P01')) return 'deadlock'
  if (codes.includes('SMARTPG_NOT_EXECUTED')) return 'it was certainly not executed'
  if (demoted) return 'its server is no primary any more'
  return lostUncommitted ? 'its connection was lost before COMMIT was sent' : null
}

function reasonNotTo({ codes, partlyKept }: FailedTransaction): string {
  if (codes.some((code) => UNKNOWN.has(code))) return 'something of it may have been kept'
  if (partlyKept) return 'it has committed by hand what another run would do twice'
  return 'another run would fail as well'
}

const UNKNOWN: ReadonlySet<string> = new Set(['SMARTPG_OUTCOME_UNKNOWN', '08007', '40003'])
