// No caller meets what the one before left in the session. The pool has one connection, so the next caller gets that
// very session, or a new one; either way it must look like a new one.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { metric, open } from './dialects.ts'

interface Tables {
  numbers: { n: number }
}
type Db = Kysely<Tables>

const raw = (db: Db, text: string): Promise<unknown> => sql.raw(text).execute(db)

/** All of a session that a caller could stumble over. What a reset cannot take back (an empty value) counts as new. */
const STATE = `select
  (select json_object_agg(name, setting order by name) from pg_settings where name not like '%.%') as settings,
  nullif(current_setting('app.tenant', true), '') as tenant,
  current_user::text, session_user::text,
  (select count(*)::int from pg_locks where pid = pg_backend_pid() and locktype = 'advisory') as locks,
  (select json_agg(c) from pg_listening_channels() as c) as channels,
  (select json_agg(name) from pg_prepared_statements where from_sql) as prepared,
  (select json_agg(name) from pg_cursors where name <> '') as cursors,
  (select count(*)::int from pg_class where relpersistence = 't' and pg_table_is_visible(oid)) as tables,
  to_regclass('pg_temp.mine') as mine,
  pg_current_xact_id_if_assigned()::text as transaction,
  (select count(*)::int from numbers) as numbers`

const stateOf = async (db: Db): Promise<unknown> => (await sql.raw(STATE).execute(db)).rows[0]

const onConnection =
  (...texts: string[]) =>
  (db: Db): Promise<unknown> =>
    db.connection().execute(async (one) => {
      for (const text of texts) await raw(one, text).catch(() => undefined)
    })

const alone =
  (text: string) =>
  (db: Db): Promise<unknown> =>
    raw(db, text)

describe('the next caller meets a session as new as a fresh one', () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    await ask(
      database.url,
      `create table numbers (n int primary key);
       create function stain() returns text language sql as $$ select set_config('work_mem', '77MB', false) $$;
       create function lock_quietly() returns void language plpgsql as $$ begin perform pg_advisory_lock(7); end $$`,
    )
  })
  afterAll(() => database.drop())

  const pool = { min: 0, initial: 0, max: 1, minIdle: 0 }
  const connected = () => open<Tables>({ primary: database.url, applicationName: 'clean', pool })

  const adversaries: [what: string, leave: (db: Db) => Promise<unknown>][] = [
    ['BEGIN, left open', onConnection('begin', 'insert into numbers values (1)')],
    ['BEGIN as a statement of its own', alone('begin')],
    ['BEGIN hidden in several statements', alone('select 1; begin; insert into numbers values (2)')],
    ['a failed transaction', onConnection('begin', 'select 1/0')],
    ['a failed transaction hidden in several statements', (db) => alone('begin; select 1/0')(db).catch(() => undefined)],
    ['SET', onConnection("set work_mem = '77MB'", 'set search_path = nowhere', "set statement_timeout = '1h'")],
    ['SET as a statement of its own', alone("set work_mem = '77MB'")],
    ['SET SESSION CHARACTERISTICS', onConnection('set session characteristics as transaction read only')],
    ['SET ROLE', onConnection('set role pg_read_all_data')],
    ['SET SESSION AUTHORIZATION', onConnection('set session authorization pg_read_all_data')],
    ['set_config', alone("select set_config('app.tenant', 'a', false)")],
    ['set_config in a function of the user', alone('select stain()')],
    ['set_config in a function, called through the builder', (db) => db.selectNoFrom((eb) => eb.fn('stain').as('s')).execute()],
    ['set_config in a function, hidden in a CTE', alone('with s as (select stain() as x) select x from s')],
    ['set_config in a DO block', alone("do $$ begin perform set_config('app.tenant', 'b', false); end $$")],
    ['a temporary table', onConnection('create temp table mine as select 1 as n')],
    ['a temporary table made by SELECT INTO', alone('select 1 as n into temp mine')],
    ['a temporary table in front of a real one', onConnection('create temp table numbers as select generate_series(1, 9) as n')],
    ['LISTEN', alone('listen news')],
    ['an advisory lock', alone('select pg_advisory_lock(42)')],
    ['an advisory lock taken in a function', alone('select lock_quietly()')],
    ['an advisory lock through the builder', (db) => db.selectNoFrom((eb) => eb.fn('pg_advisory_lock', [eb.val(43)]).as('l')).execute()],
    ['a cursor WITH HOLD', onConnection('begin', 'declare held cursor with hold for select 1', 'commit')],
    ['a cursor in an open transaction', onConnection('begin', 'declare held cursor for select 1')],
    ['PREPARE', alone('prepare plan as select 1')],
    ['a transaction that was committed by hand and went on', (db) =>
      db.transaction().execute(async (trx) => {
        await raw(trx, 'commit')
        await raw(trx, "set work_mem = '77MB'")
      }).catch(() => undefined)],
    ['a transaction that was rolled back and had set a session', (db) =>
      db.transaction().execute(async (trx) => {
        await raw(trx, "set work_mem = '77MB'; select pg_advisory_lock(44)")
        throw new Error('undo')
      }).catch(() => undefined)],
    ['a transaction that was committed and had set a session', (db) =>
      db.transaction().execute((trx) => raw(trx, "set work_mem = '77MB'"))],
    ['a statement that nobody waited for', (db) =>
      db.connection().execute(async (one) => {
        await raw(one, 'select 1')
        void raw(one, "select pg_sleep(0.02); set work_mem = '77MB'").catch(() => undefined)
      })],
    ['a BEGIN that nobody waited for', (db) =>
      db.connection().execute(async (one) => {
        await raw(one, 'select 1')
        void raw(one, 'begin; insert into numbers values (3)').catch(() => undefined)
      })],
    ['a stream that was left in the middle, in a transaction of its own', (db) =>
      db.connection().execute(async (one) => {
        await raw(one, 'begin')
        for await (const _ of one.selectFrom('numbers').selectAll().stream(1)) break
      })],
  ] // prettier-ignore

  test.each(adversaries)('after %s', async (_, leave) => {
    const fresh = await stateOf(connected().db)
    const { db, dialect } = connected()
    expect(await stateOf(db)).toEqual(fresh)
    await leave(db)
    expect(await stateOf(db)).toEqual(fresh)
    // Writes of its own are the next caller's and are kept.
    await db.insertInto('numbers').values({ n: 100 }).execute()
    expect(await ask(database.url, 'select n from numbers')).toEqual([{ n: 100 }])
    await ask(database.url, 'truncate numbers')
    await expect.poll(() => metric(dialect, 'active_connections')).toBe(0)
  })
})
