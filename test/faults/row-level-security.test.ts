// Row-level security by a setting of the session: two tenants share a pool, and `onReserveConnection` says whose turn
// it is before the first statement of every lease. With it no two callers are ever on one connection, so that no
// statement is answered with rows of another tenant, whatever the two do at the same time.

import { AsyncLocalStorage } from 'node:async_hooks'
import { randomBytes } from 'node:crypto'
import { CompiledQuery, sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { seededChance } from '../support/chance.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { borrowed, failure, open, ownOnly } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  document: { n: number; tenant: string }
}
type Db = Kysely<Tables>

const TENANTS = ['left', 'right'] as const
type Tenant = (typeof TENANTS)[number]
const ROWS = 50

describe.skipIf(borrowed)(`two tenants under row-level security ${ownOnly}`, () => {
  const tenancy = new AsyncLocalStorage<Tenant>()
  let database: Database
  let url: string
  let role: string
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    // Owners and superusers are not bound by policies.
    role = `tenants_${randomBytes(6).toString('hex')}`
    await ask(
      database.url,
      `create table document (n int not null, tenant text not null);
       insert into document select n, tenant from generate_series(1, ${ROWS}) as n, unnest(array['left', 'right']) as tenant;
       create role ${role} login;
       grant select, insert, update, delete on document to ${role};
       alter table document enable row level security;
       create policy own on document using (tenant = current_setting('app.tenant'))`,
    )
    const asRole = new URL(database.url)
    asRole.username = role
    url = asRole.href
  })
  afterAll(async () => {
    await database.drop()
    await ask(inject('primaryUrl'), `drop role ${role}`)
  })

  const connected = (options: Partial<SmartPgOptions> = {}): Opened<Tables> =>
    open({
      primary: url,
      onReserveConnection: async (connection) => {
        const set = "select set_config('app.tenant', $1, false)"
        await connection.executeQuery(CompiledQuery.raw(set, [tenancy.getStore()]))
      },
      ...options,
      // All of them at once, and as patient as it takes.
      pool: { max: 8, acquireTimeout: '2min', maxWaiting: 20_000, ...options.pool },
    })

  /** What each kind of statement hands back of the table; all of it must be the tenant's own. */
  const deeds: ((db: Db, n: number) => Promise<readonly { tenant: string }[]>)[] = [
    (db, n) => db.selectFrom('document').selectAll().where('n', '=', n).execute(),
    (db, n) => db.selectFrom('document').selectAll().where('n', '=', n).execute(),
    (db) => db.selectFrom('document').select('tenant').distinct().execute(),
    (db, n) => db.updateTable('document').set({ n }).where('n', '=', n).returning('tenant').execute(),
    async (db, n) => (await sql<{ tenant: string }>`select tenant from document where n = ${n}`.execute(db)).rows,
    (db, n) =>
      db.transaction().execute(async (trx) => {
        const first = await trx.selectFrom('document').select('tenant').where('n', '=', n).execute()
        return [...first, ...(await trx.selectFrom('document').select('tenant').where('n', '=', n).execute())]
      }),
    (db, n) =>
      db.connection().execute(async (one) => {
        const first = await one.selectFrom('document').select('tenant').where('n', '=', n).execute()
        return [...first, ...(await one.selectFrom('document').select('tenant').where('n', '=', n).execute())]
      }),
    async (db, n) => (await db.batch([db.selectFrom('document').select('tenant').where('n', '=', n)]))[0],
    async (db, n) => {
      const rows: { tenant: string }[] = []
      for await (const row of db.selectFrom('document').select('tenant').where('n', '=', n).stream()) rows.push(row)
      return rows
    },
  ]

  test('10,000 queries at the same time: not one row of the other tenant', async () => {
    const { db } = connected()
    const chance = seededChance(3)
    const foreign: unknown[] = []
    const failures: unknown[] = []
    const query = async (i: number): Promise<void> => {
      const tenant = TENANTS[i % 2]!
      // Nine in ten are plain statements, as in life.
      const deed = deeds[Math.floor(chance() * (chance() < 0.9 ? 5 : deeds.length))]!
      try {
        const rows = await tenancy.run(tenant, () => deed(db, 1 + Math.floor(chance() * ROWS)))
        if (rows.length === 0 || rows.some((row) => row.tenant !== tenant)) foreign.push({ tenant, rows })
      } catch (error) {
        failures.push(error)
      }
    }
    await Promise.all(Array.from({ length: 10_000 }, (_, i) => query(i)))
    expect(foreign).toEqual([])
    expect(failures).toEqual([])
  }, 120_000)

  test('a lease whose hook fails runs nothing, and the next one has a tenant of its own', async () => {
    const { db } = connected({
      pool: { min: 0, initial: 1, max: 1 },
      onReserveConnection: async (connection) => {
        const tenant = tenancy.getStore()
        if (tenant === undefined) throw new Error('whose turn is it?')
        await connection.executeQuery(CompiledQuery.raw("select set_config('app.tenant', $1, false)", [tenant]))
      },
    })
    const count = (): Promise<unknown> =>
      db
        .selectFrom('document')
        .select(({ fn }) => ['tenant', fn.countAll<string>().as('n')])
        .groupBy('tenant')
        .execute()
    for (let round = 0; round < 5; round++) {
      const all = [
        tenancy.run('left', count),
        failure(count()),
        failure(db.updateTable('document').set({ n: 0 }).execute()),
        tenancy.run('right', count),
      ]
      expect(await Promise.all(all)).toEqual([
        [{ tenant: 'left', n: String(ROWS) }],
        expect.objectContaining({ message: 'whose turn is it?' }),
        expect.objectContaining({ message: 'whose turn is it?' }),
        [{ tenant: 'right', n: String(ROWS) }],
      ])
    }
    expect(await ask(database.url, 'select n from document where n = 0')).toEqual([])
  })
})
