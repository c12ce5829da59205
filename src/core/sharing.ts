// Which statements may run on a connection that others use at the same time: those that leave nothing behind in the
// session and ask nothing about it.

import type { Facts } from './types.ts'

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
