// Everything of a session that its next user could stumble over, asked of every connection of a pool at the same
// moment, so that none can hide. What a session as new as can be looks like is asked of a pool that nobody has used.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'

// oxlint-disable-next-line typescript/no-explicit-any -- whatever its tables are
type AnyDb = Kysely<any>

/**
 * Settings that are not as RESET would leave them, and those that came with the startup message. Settings of the user's own (with a dot) do not stand in pg_settings, and a reset leaves them empty, not unknown.
 * Of prepared statements those with our names stay, which is what they are for. Temporary things are whatever lies in
 * the session's own schema: tables, functions, types, operators.
 */
const FINGERPRINT = `select
  current_user::text, session_user::text, current_setting('role') as role,
  (select json_agg(concat_ws(' ', name, setting) order by name) from pg_settings
    where name not like '%.%' and (setting is distinct from reset_val or source = 'client')) as settings,
  (select json_object_agg(name, nullif(current_setting(name, true), '')) from unnest(array[
    'app.tenant', 'app.other', 'local.tenant', 'app.init', 'app.settled']) as name) as own,
  (select json_agg(name) from pg_prepared_statements where from_sql or name !~ '^s_[A-Za-z0-9+/=-]+(_[0-9a-z]+)?$') as prepared,
  (select json_agg(name) from pg_cursors where name <> '') as cursors,
  (select json_agg(c) from pg_listening_channels() as c) as channels,
  (select json_agg(concat_ws(' ', locktype, mode)) from pg_locks
    where pid = pg_backend_pid() and locktype = 'advisory') as locks,
  (select json_agg(relname order by relname) from pg_class where relnamespace = pg_my_temp_schema()) as tables,
  (select json_agg(proname) from pg_proc where pronamespace = pg_my_temp_schema()) as functions,
  (select json_agg(typname order by typname) from pg_type where typnamespace = pg_my_temp_schema()) as types,
  (select json_agg(slot_name) from pg_replication_slots where active_pid = pg_backend_pid()) as slots,
  pg_replication_origin_session_is_setup() as origin,
  pg_current_xact_id_if_assigned()::text as transaction,
  to_regclass('harvest')::oid = 'public.harvest'::regclass::oid as sees_the_real_table`

/** Outside of a transaction it is refused, in a failed one as well, each with a code of its own. */
const IN_TRANSACTION = 'savepoint probe'
/** Where no sequence has been drawn from there is no last value. */
const LAST_VALUE = 'select lastval()'

export type Fingerprint = Readonly<Record<string, unknown>>

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'answered',
    (error: unknown) => String((error as { code?: string }).code ?? error),
  )

async function fingerprint(one: AnyDb): Promise<Fingerprint> {
  const { rows } = await sql.raw<Record<string, unknown>>(FINGERPRINT).execute(one)
  return {
    ...rows[0]!,
    savepoint: await codeOf(sql.raw(IN_TRANSACTION).execute(one)),
    lastval: await codeOf(sql.raw(LAST_VALUE).execute(one)),
  }
}

/** What `look` sees on `count` connections that are held at the same moment. */
export async function ofAll<T>(db: AnyDb, count: number, look: (one: AnyDb) => Promise<T>): Promise<T[]> {
  let arrived = 0
  let everybodyIsHere!: () => void
  const here = new Promise<void>((resolve) => (everybodyIsHere = resolve))
  const lease = (): Promise<T> =>
    db.connection().execute(async (one) => {
      try {
        return await look(one)
      } finally {
        if (++arrived === count) everybodyIsHere()
        await here
      }
    })
  return Promise.all(Array.from({ length: count }, lease))
}

/** Fingerprints of `count` connections that are held at the same moment; `alsoDo` does more on each. */
export function fingerprints(
  db: AnyDb,
  count: number,
  alsoDo: (one: AnyDb) => Promise<unknown> = () => Promise.resolve(),
): Promise<Fingerprint[]> {
  return ofAll(db, count, async (one) => {
    const found = await fingerprint(one)
    await alsoDo(one)
    return found
  })
}
