// What one caller does to his session stays with him. `db.connection()` is one session from its first statement
// to its last, and whatever was set, locked, made or left open on it is gone before the next caller gets it.

import { sql } from 'kysely'
import { describe, expect, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import { backendsOf, failureOf, hasReplicas, inDatabase, ownPidOf, pidOf, rowOf, run } from './support.ts'

const place = inDatabase()
const dora = { name: 'dora', age: 1 }

describe('db.connection()', () => {
  test('is one session: the same backend for every statement from the second on', async () => {
    const { db } = place.open()
    const pids = await db.connection().execute(async (one) => [await ownPidOf(one), await pidOf(one), await pidOf(one)])
    expect(new Set(pids).size).toBe(1)
  })

  test('shows its own settings and temporary tables to its later statements', async () => {
    const { db } = place.open()
    await db.connection().execute(async (one) => {
      await run(one, "set timezone to 'Asia/Tokyo'")
      await run(one, 'create temporary table mine as select 7 as n')
      expect(await rowOf(one, 'show timezone')).toEqual({ TimeZone: 'Asia/Tokyo' })
      expect(await rowOf(one, 'select n from mine')).toEqual({ n: 7 })
    })
  })

  test('is nobody else’s while it lasts', async () => {
    const { db } = place.open()
    await db.connection().execute(async (one) => {
      const pid = await ownPidOf(one)
      expect(await Promise.all([pidOf(db), pidOf(db), pidOf(db)])).not.toContain(pid)
    })
  })

  test('can hold a transaction, which ends as it should', async () => {
    const { db } = place.openOne()
    await db.connection().execute(async (one) => {
      const pid = await ownPidOf(one)
      await one.transaction().execute(async (trx) => {
        expect(await pidOf(trx)).toBe(pid)
        await trx.insertInto('person').values(dora).execute()
      })
      expect(await place.names()).toContain('dora')
    })
  })

  test('refuses statements once its callback has ended', async () => {
    const { db } = place.openOne()
    const kept = await db.connection().execute(async (one) => {
      await pidOf(one)
      return one
    })
    const failure = await failureOf(kept.insertInto('person').values(dora).execute())
    expect(isSmartPgError(failure, 'SMARTPG_RELEASED')).toBe(true)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test.skipIf(!hasReplicas)(
    'may read its first rows on a replica, and everything after that is on the primary',
    async () => {
      const { db, dialect, applicationName } = await place.openWithReplicas()
      const roles: string[] = []
      using _ = dialect.on('query', ({ role }) => void roles.push(role))
      await db.connection().execute(async (one) => {
        await one
          .selectFrom('person')
          .select(['name', sql.lit('here').as('marker')])
          .execute()
        const seen = await Promise.all(place.replicaUrls.map((url) => backendsOf(url, applicationName)))
        expect(seen.flat().filter(({ query }) => query.includes('marker'))).toHaveLength(1)
        const pid = await pidOf(one)
        await one.insertInto('person').values(dora).execute()
        expect(await one.selectFrom('person').select('name').where('name', '=', 'dora').execute()).toHaveLength(1)
        expect(await rowOf(one, 'select pg_is_in_recovery() as standby')).toEqual({ standby: false })
        expect(await pidOf(one)).toBe(pid)
      })
      expect(roles).toEqual(['replica', 'primary', 'primary', 'primary', 'primary', 'primary'])
    },
  )
})

// One connection, so that the next caller gets exactly what the one before left behind.
describe('the next caller does not see', () => {
  const newcomer = async (mess: readonly string[], look: string): Promise<unknown> => {
    const { db } = place.openOne()
    await db.connection().execute(async (one) => {
      for (const statement of mess) await run(one, statement)
    })
    return rowOf(db, look)
  }

  test('a search_path', async () => {
    expect(await newcomer(['set search_path to pg_catalog'], 'show search_path')).toEqual({
      search_path: '"$user", public',
    })
  })

  // PostgreSQL remembers the names of such settings, with an empty value.
  test.for([
    "select set_config('app.tenant', 'a', false)",
    "do $$ begin perform set_config('app.tenant', 'b', false); end $$",
  ])('a setting made by %s', async (mess) => {
    expect(await newcomer([mess], "select coalesce(current_setting('app.tenant', true), '') as t")).toEqual({ t: '' })
  })

  test('a setting that a function of the user’s makes', async () => {
    await place.ask(`create or replace function stain() returns text language sql as
      $$ select set_config('app.tenant', 'stained', false) $$`)
    const look = "select coalesce(current_setting('app.tenant', true), '') as t"
    expect(await newcomer(['select stain()'], look)).toEqual({ t: '' })
    const { db } = place.openOne()
    await db.selectNoFrom((eb) => eb.fn<string>('stain').as('stained')).execute()
    expect(await rowOf(db, look)).toEqual({ t: '' })
  })

  test('a role', async () => {
    expect(await newcomer(['set role pg_read_all_data'], 'select current_user as "user"')).toEqual({ user: 'postgres' })
  })

  test('a session authorization', async () => {
    expect(await newcomer(['set session authorization pg_monitor'], 'select session_user as "user"')).toEqual({
      user: 'postgres',
    })
  })

  test('an isolation level for the session', async () => {
    expect(
      await newcomer(
        ['set session characteristics as transaction isolation level serializable'],
        'show transaction_isolation',
      ),
    ).toEqual({ transaction_isolation: 'read committed' })
  })

  test('a temporary table, made by hand or by the schema builder', async () => {
    expect(await newcomer(['create temp table secret as select 1'], "select to_regclass('secret') as t")).toEqual({
      t: null,
    })
    const { db } = place.openOne()
    await db.schema.createTable('hidden').temporary().addColumn('id', 'integer').execute()
    expect(await rowOf(db, "select to_regclass('hidden') as t")).toEqual({ t: null })
  })

  test('an advisory lock: it is free again', async () => {
    expect(
      await newcomer(
        ['select pg_advisory_lock(42)'],
        "select count(*)::int as held from pg_locks where locktype = 'advisory'",
      ),
    ).toEqual({ held: 0 })
    const { db } = place.openOne()
    await db.selectNoFrom((eb) => eb.fn<boolean>('pg_try_advisory_lock', [eb.lit(43)]).as('got')).execute()
    await pidOf(db)
    expect(await place.ask("select 1 from pg_locks where locktype = 'advisory'")).toEqual([])
  })

  test('a channel somebody listened to', async () => {
    expect(await newcomer(['listen news'], 'select count(*)::int as n from pg_listening_channels()')).toEqual({ n: 0 })
  })

  test('a statement prepared by SQL', async () => {
    const look = 'select count(*)::int as n from pg_prepared_statements where from_sql'
    expect(await newcomer(['prepare stranger as select 1'], look)).toEqual({ n: 0 })
  })

  test('a cursor held open', async () => {
    const mess = ['begin', 'declare c cursor with hold for select * from person', 'commit']
    expect(await newcomer(mess, "select count(*)::int as n from pg_cursors where name = 'c'")).toEqual({ n: 0 })
  })

  test('a transaction that was begun by hand and forgotten, nor loses his own writes to it', async () => {
    const { db, applicationName } = place.openOne()
    await db.connection().execute(async (one) => {
      await run(one, 'begin')
      await one.insertInto('person').values(dora).execute()
    })
    await db.insertInto('person').values({ name: 'ben', age: 2 }).execute()
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'ben'])
    expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
  })

  test('a transaction begun by a single statement without db.connection()', async () => {
    const { db } = place.openOne()
    await run(db, 'begin')
    await db.insertInto('person').values({ name: 'ben', age: 2 }).execute()
    expect(await place.names()).toContain('ben')
  })

  test('a transaction that had failed', async () => {
    const { db } = place.openOne()
    await db.connection().execute(async (one) => {
      await run(one, 'begin')
      await run(one, 'select 1/0').catch(() => undefined)
    })
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('what several statements in one text left behind', async () => {
    expect(await newcomer(["select 1; set timezone to 'Asia/Tokyo'"], 'show timezone')).not.toEqual({
      TimeZone: 'Asia/Tokyo',
    })
    expect(await newcomer(['begin; create table half (id int)'], "select to_regclass('half') as t")).toEqual({
      t: null,
    })
  })

  test('what a failed statement left behind before it failed', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db.connection().execute((one) => run(one, 'set search_path to pg_catalog; select 1/0')),
    )
    expect(failure).toMatchObject({ code: '22012' })
    await db.connection().execute((one) =>
      run(one, "set work_mem to '1MB'")
        .then(() => run(one, 'select 1/0'))
        .catch(() => undefined),
    )
    expect(await rowOf(db, 'show work_mem')).not.toEqual({ work_mem: '1MB' })
  })

  test('whatever a transaction set for the session', async () => {
    const { db } = place.openOne()
    await db.transaction().execute((trx) => run(trx, "set application_name to 'stained'"))
    expect(await rowOf(db, 'show application_name')).not.toEqual({ application_name: 'stained' })
  })
})

describe('what the session was given at its start', () => {
  test('session.settings hold on every connection and survive a reset', async () => {
    const { db } = place.openOne({
      session: { settings: { search_path: 'pg_temp, public', statement_timeout: '31s' } },
    })
    const look = "select current_setting('search_path') as path, current_setting('statement_timeout') as timeout"
    expect(await rowOf(db, look)).toEqual({ path: 'pg_temp, public', timeout: '31s' })
    await db.connection().execute((one) => run(one, 'set search_path to pg_catalog; set statement_timeout to 0'))
    expect(await rowOf(db, look)).toEqual({ path: 'pg_temp, public', timeout: '31s' })
  })

  test('session.init runs on a new connection and again after a reset', async () => {
    const { db } = place.openOne({ session: { init: "set app.tenant to 'home'" } })
    const look = "select current_setting('app.tenant') as tenant"
    expect(await rowOf(db, look)).toEqual({ tenant: 'home' })
    const pid = await pidOf(db)
    await db.connection().execute((one) => run(one, "set app.tenant to 'elsewhere'"))
    expect(await rowOf(db, look)).toEqual({ tenant: 'home' })
    expect(await pidOf(db)).toBe(pid)
  })

  test('session.init may be a function', async () => {
    let calls = 0
    const { db } = place.openOne({
      session: {
        init: async (connection) => {
          calls++
          await connection.executeQuery({ sql: "select set_config('app.tenant', $1, false)", parameters: ['home'] })
        },
      },
    })
    expect(await rowOf(db, "select current_setting('app.tenant') as tenant")).toEqual({ tenant: 'home' })
    expect(calls).toBe(1)
  })

  test('a connection that did nothing lasting is not reset: the same backend serves on, its prepared statements kept', async () => {
    const { db } = place.openOne()
    const query = db.selectFrom('person').select('name').where('id', '=', 1)
    for (let n = 0; n < 4; n++) await query.execute()
    const { n } = await rowOf<{ n: number }>(
      db,
      "select count(*)::int as n from pg_prepared_statements where not from_sql and statement like '%person%'",
    )
    expect(n).toBe(1)
  })
})
