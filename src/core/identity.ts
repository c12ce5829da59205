// Which server answers: whose cluster it is of, when it was started, whether it is a standby, and on which timeline it
// is. Everything is asked for as text, because a type parser of the user may be in force; whatever a server does not
// tell is null.

import { READ_FACTS } from './statements.ts'
import type { Row, Statement } from './types.ts'

export interface ServerIdentity {
  /** When its postmaster was started: tells it from others behind the same address. */
  readonly server: string | null
  /** The same for a primary and all that were copied from it. */
  readonly systemIdentifier: string | null
  /** It is in recovery. */
  readonly standby: boolean | null
  /** A primary's own; of a standby the one of its last restart point, which may be older than what it replays. */
  readonly timeline: number | null
}

/** Amazon Aurora has the functions that tell of the write-ahead log, and they throw. Its own drivers know it by this. */
export const HIDES_LOG = `coalesce(current_setting('rds.extensions', true) like '%aurora_stat_utils%', false)`

export const SERVER = 'extract(epoch from pg_catalog.pg_postmaster_start_time())::text'

export const RECOVERING = 'pg_catalog.pg_is_in_recovery()'

/**
 * A question that a server may refuse to an ordinary role, or throw at, without the others being lost. PostgreSQL checks
 * all rights before it evaluates anything, so CASE alone does not help: the text must not be seen until it is allowed.
 * Of what runs a text from within a text, ts_stat is what every server has. `text` answers with one word.
 */
function ifAllowed(functions: readonly string[], condition: string, text: string): string {
  const rights = functions.map((name) => `has_function_privilege(to_regprocedure('pg_catalog.${name}'), 'execute')`)
  const question = `select pg_catalog.array_to_tsvector(array[${text}`
  const when = ['not ' + HIDES_LOG, condition, ...rights].join(' and ')
  return `(select word from pg_catalog.ts_stat(case when ${when} then '${question}' end))`
}

export const SYSTEM_IDENTIFIER = ifAllowed(
  ['pg_control_system()'],
  'true',
  'system_identifier::text]) from pg_catalog.pg_control_system()',
)

/** In hexadecimal digits, as in the name of a WAL file. */
export const PRIMARY_TIMELINE = ifAllowed(
  ['pg_walfile_name(pg_lsn)', 'pg_current_wal_insert_lsn()'],
  `not ${RECOVERING}`,
  'substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)])',
)

const STANDBY_TIMELINE = ifAllowed(
  ['pg_control_checkpoint()'],
  RECOVERING,
  'to_hex(timeline_id)]) from pg_catalog.pg_control_checkpoint()',
)

/** One row, for `identityOf`. PostgreSQL answers it in full to an ordinary role. */
export const IDENTITY: Statement = {
  sql: `select ${SERVER} as server, ${RECOVERING}::text as recovering,
  ${SYSTEM_IDENTIFIER} as system, coalesce(${PRIMARY_TIMELINE}, ${STANDBY_TIMELINE}) as timeline`,
  parameters: [],
  facts: READ_FACTS,
}

export function identityOf(row: Row): ServerIdentity {
  const { server, recovering, system, timeline } = row
  return {
    server: textOf(server),
    systemIdentifier: textOf(system),
    standby: recovering === 'true' || (recovering === 'false' ? false : null),
    timeline: timelineOf(timeline),
  }
}

export function textOf(value: unknown): string | null {
  return typeof value === 'string' && value !== '' ? value : null
}

/** From hexadecimal digits; there is no timeline 0. */
export function timelineOf(value: unknown): number | null {
  if (typeof value !== 'string' || !/^[0-9A-Fa-f]{1,8}$/.test(value)) return null
  return Number.parseInt(value, 16) || null
}
