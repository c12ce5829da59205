// Kysely's Migrator over this dialect. It takes a lock of the session by raw SQL, so that it only works where
// one `db.connection()` is one session on the primary, from the lock to its release.

import { join } from 'node:path'
import { sql } from 'kysely'
import * as kysely from 'kysely'
import type { Kysely } from 'kysely'
import type { Migration, Migrator as MigratorType } from 'kysely/migration'
import { beforeEach, describe, expect, test } from 'vitest'
import type { Tables } from './support.ts'
import { failureOf, hasReplicas, inDatabase, run, waitsForLock } from './support.ts'

const place = inDatabase()

let Migrator: typeof MigratorType
// Where the Kysely under test has its Migrator: 0.28 among everything else, later ones in a module of its own.
beforeEach(async ({ task }) => {
  if ('Migrator' in kysely) {
    ;({ Migrator } = kysely as unknown as { Migrator: typeof MigratorType })
  } else {
    const home = task.file.projectName === 'kysely-next' ? 'kysely-next' : 'kysely'
    const file = join(import.meta.dirname, '../../node_modules', home, 'dist/migration/index.js')
    ;({ Migrator } = (await import(file)) as { Migrator: typeof MigratorType })
  }
})

beforeEach(() => place.ask('drop table if exists kysely_migration, kysely_migration_lock, plane, seat, ran'))

const migrations: Record<string, Migration> = {
  '1_planes': {
    up: async (db: Kysely<unknown>) => {
      await db.schema
        .createTable('plane')
        .addColumn('id', 'integer', (column) => column.primaryKey())
        .execute()
      await sql`create table ran (name text)`.execute(db)
      await sql`insert into ran values ('planes')`.execute(db)
    },
    down: async (db: Kysely<unknown>) => {
      await sql`drop table ran; drop table plane`.execute(db)
    },
  },
  '2_seats': {
    up: async (db: Kysely<unknown>) => {
      await sql`create table seat (id int, plane_id int references plane); insert into ran values ('seats')`.execute(db)
    },
    down: async (db: Kysely<unknown>) => {
      await db.schema.dropTable('seat').execute()
    },
  },
}

function migratorFor(db: Kysely<Tables>, all = migrations): MigratorType {
  return new Migrator({ db, provider: { getMigrations: async () => all } })
}

const ran = () => place.ask<{ name: string }>('select name from ran').then((rows) => rows.map(({ name }) => name))
const locksHeld = () => place.ask("select pid from pg_locks where locktype = 'advisory'")

describe('migrations', () => {
  test('run once each, in order, and undo', async () => {
    const { db } = place.open()
    const up = await migratorFor(db).migrateToLatest()
    expect(up.error).toBeUndefined()
    expect(up.results?.map(({ migrationName, status }) => [migrationName, status])).toEqual([
      ['1_planes', 'Success'],
      ['2_seats', 'Success'],
    ])
    expect(await ran()).toEqual(['planes', 'seats'])
    expect((await migratorFor(db).migrateToLatest()).results).toEqual([])
    expect((await migratorFor(db).migrateDown()).results).toMatchObject([
      { migrationName: '2_seats', status: 'Success' },
    ])
    expect(await place.ask("select to_regclass('seat') as seat")).toEqual([{ seat: null }])
    expect(await locksHeld()).toEqual([])
  })

  test('that fail keep nothing, say why, and give back the lock', async () => {
    const { db } = place.openOne()
    const { error, results } = await migratorFor(db, {
      ...migrations,
      '3_wrong': { up: (trx) => sql`select 1/0`.execute(trx).then(() => undefined) },
    }).migrateToLatest()
    expect(error).toMatchObject({ code: '22012' })
    expect(results?.at(-1)).toMatchObject({ migrationName: '3_wrong', status: 'Error' })
    expect(await place.ask("select to_regclass('plane') as plane")).toEqual([{ plane: null }])
    expect(await locksHeld()).toEqual([])
    expect((await migratorFor(db).migrateToLatest()).error).toBeUndefined()
  })

  test('of four processes that start at once run once: the lock holds them apart', async () => {
    const results = await Promise.all(Array.from({ length: 4 }, () => migratorFor(place.open().db).migrateToLatest()))
    expect(results.map(({ error }) => error)).toEqual([undefined, undefined, undefined, undefined])
    expect(results.map(({ results: done }) => done?.length).toSorted((a, b) => a! - b!)).toEqual([0, 0, 0, 2])
    expect(await ran()).toEqual(['planes', 'seats'])
    expect(await locksHeld()).toEqual([])
  })

  test('of two migrators of one process at once run once, also with one connection', async () => {
    const { db } = place.open({ pool: { max: 3 } })
    const results = await Promise.all([migratorFor(db).migrateToLatest(), migratorFor(db).migrateToLatest()])
    expect(results.map(({ error }) => error)).toEqual([undefined, undefined])
    expect(await ran()).toEqual(['planes', 'seats'])
  })

  test.skipIf(!hasReplicas)(
    'run on the primary although there are replicas, and know what has run before',
    async () => {
      const { db } = await place.openWithReplicas()
      expect((await migratorFor(db).migrateToLatest()).error).toBeUndefined()
      expect((await migratorFor(db).migrateToLatest()).results).toEqual([])
      const all = await migratorFor(db).getMigrations()
      expect(all.map(({ executedAt }) => executedAt instanceof Date)).toEqual([true, true])
    },
  )

  test('wait for another’s lock longer than queryTimeout', async () => {
    const { db: first } = place.open()
    await migratorFor(first).migrateToLatest()
    const lock = await place.stranger()
    const { db, applicationName } = place.open({ queryTimeout: 100 })
    // Kysely's own number.
    const id = '3853314791062309107'
    await lock.query('select pg_advisory_lock($1)', [id])
    const migrating = migratorFor(db).migrateToLatest()
    await waitsForLock(place.url, applicationName, 'pg_advisory_lock')
    await waitedFor(applicationName, 500)
    await lock.query('select pg_advisory_unlock($1)', [id])
    expect((await migrating).error).toBeUndefined()
  })
})

/** Settles when a statement of that name has run for longer; fails when it has ended before. */
async function waitedFor(applicationName: string, ms: number): Promise<void> {
  const text = `select now() - query_start > $2 * interval '1 ms' as long from pg_stat_activity
    where application_name = $1 and state = 'active'`
  await expect.poll(() => place.ask(text, [applicationName, ms]), { timeout: 3_000 }).toEqual([{ long: true }])
}

describe('queryTimeout', () => {
  test('ends a statement that takes longer, and says so', async () => {
    const { db } = place.openOne({ queryTimeout: 100 })
    const failure = await failureOf(run(db, 'select pg_sleep(20)'))
    expect(failure).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test.for([
    ['DDL', (db: Kysely<Tables>) => run(db, 'alter table pet add column note text; alter table pet drop column note')],
    [
      'CREATE INDEX by the schema builder',
      (db: Kysely<Tables>) => db.schema.createIndex('by_name').ifNotExists().on('pet').column('name').execute(),
    ],
    [
      'a later statement of db.connection()',
      (db: Kysely<Tables>) =>
        db.connection().execute(async (one) => {
          await run(one, 'select 1')
          await one.insertInto('pet').values({ name: 'rex', owner_id: 1 }).execute()
        }),
    ],
    [
      'a stream',
      async (db: Kysely<Tables>) => {
        for await (const row of db.insertInto('pet').values({ name: 'rex', owner_id: 1 }).returning('name').stream()) {
          expect(row).toEqual({ name: 'rex' })
        }
      },
    ],
  ] as const)('does not end %s', async ([, work]) => {
    const { db, applicationName } = place.open({ queryTimeout: 100 })
    const holder = await place.stranger()
    await holder.query('begin; lock table pet')
    const done = work(db)
    done.catch(() => undefined)
    await waitsForLock(place.url, applicationName)
    await waitedFor(applicationName, 500)
    await holder.query('rollback')
    await done
  })
})
