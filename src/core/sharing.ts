// Which statements may run on a connection that others use at the same time: those that leave nothing behind in the
// session and ask nothing about it.

import type { TextCost } from './text-cost.ts'
import type { Facts } from './types.ts'

/** Reads under one Sync are answered when the last of them is: those that take longer have one of their own. */
const SHARED_MS = 0.2
/** Measured with 100 callers: more per second than 8 or 32, at less time of client and server. */
const READS_PER_SYNC = 16

/** Whether a statement may share its connection with those of others: it leaves nothing behind in the session. */
export function mayShare(facts: Facts): boolean {
  const { stateful, multiple, kind, verb } = facts
  if (stateful || multiple || kind === 'transaction' || kind === 'unknown') return false
  return verb !== 'copy' && verb !== 'show' && !asksForItsSession(facts)
}

/** What it is told is true of one session only, which should then be the caller's own. */
function asksForItsSession({ functions, tablesRead }: Facts): boolean {
  if (functions.some((name) => SESSION_FUNCTIONS.has(name))) return true
  return tablesRead.some((name) => SESSION_TABLES.has(name))
}

const inCatalog = (names: readonly string[]): Set<string> =>
  new Set(names.flatMap((name) => [name, `pg_catalog.${name}`]))
const SESSION_FUNCTIONS = inCatalog(['pg_backend_pid', 'current_setting', 'pg_listening_channels', 'pg_my_temp_schema'])
const SESSION_TABLES = inCatalog(['pg_settings', 'pg_prepared_statements', 'pg_cursors'])

/**
 * How many statements like this may stand under one Sync; 0: nobody else is under way. A third of what is under way at
 * most, so that the server works on some while this process works on others.
 */
export function readsPerSync({ pure, known, ms }: TextCost, riding: number): number {
  if (riding <= 1) return 0
  if (!pure || !known || ms > SHARED_MS) return 1
  return Math.max(1, Math.min(READS_PER_SYNC, Math.floor(riding / 3)))
}
