// Definitions that change while many connections hold prepared statements on them: `select *` gets other columns, a
// column another type, functions and views other bodies. Everybody is answered; only within a transaction, whose
// statements nobody can run again, is the server's error the user's.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { failure, heldAtOnce, open, Tally } from './dialects.ts'

interface Tables {
  items: { id: number; amount: number; mood: string }
  shown: { id: number; twice: number }
}
type Db = Kysely<Tables>

const items = 50
const STALE = 'cached plan must not change result type'

describe('definitions that change under load', () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    await ask(
      database.url,
      `create type mood as enum ('good', 'bad');
       create table items (id int primary key, amount int not null default 0, mood mood not null default 'good');
       insert into items select generate_series(0, ${items - 1});
       create function twice(n int) returns int language sql immutable as 'select 2 * n';
       create view shown as select id, 2 * id as twice from items`,
    )
  })
  afterAll(() => database.drop())

  /** Whether the answer is that of row `id`, whatever columns it has by now. */
  const works: ((db: Db, id: number) => Promise<boolean>)[] = [
    async (db, id) => {
      const rows = await db.selectFrom('items').selectAll().where('id', '=', id).execute()
      return rows.length === 1 && rows[0]!.id === id
    },
    async (db, id) => {
      const rows = await db.selectFrom('items').selectAll().orderBy('id').execute()
      return rows.length === items && rows[id]!.id === id
    },
    async (db, id) => {
      const [row] = await db
        .updateTable('items')
        .set((eb) => ({ amount: eb('amount', '+', 1) }))
        .where('id', '=', id)
        .returningAll()
        .execute()
      return row!.id === id
    },
    async (db, id) => {
      const [row] = await db.selectNoFrom(sql<number>`twice(${id}::int)`.as('n')).execute()
      return row!.n === 2 * id
    },
    async (db, id) => {
      const [row] = await db.selectFrom('shown').selectAll().where('id', '=', id).execute()
      return row!.id === id && row!.twice === 2 * id
    },
    async (db, id) => {
      const [found, changed] = await db.batch([
        db.selectFrom('items').selectAll().where('id', '=', id),
        db
          .updateTable('items')
          .set({ mood: id % 2 === 0 ? 'good' : 'bad' })
          .where('id', '=', id)
          .returning('id'),
      ])
      return found[0]!.id === id && changed[0]!.id === id
    },
  ]

  const changes = [
    'alter table items add column extra int',
    "alter table items add column note text not null default 'none'",
    'alter table items drop column extra',
    'alter table items alter column amount type bigint',
    'create index concurrently items_by_amount on items (amount)',
    'drop function twice(int); create function twice(n int) returns int language plpgsql as $$ begin return n + n; end $$',
    'drop view shown; create view shown as select id, id + id as twice, amount from items',
    "alter type mood add value if not exists 'better'",
    'drop view shown; create view shown as select id, id + id as twice from items',
    'alter table items alter column amount type int',
    'drop index concurrently items_by_amount',
    'drop function twice(int); create function twice(n int) returns int language sql immutable as $$ select n + n $$',
    'alter table items drop column note',
  ]

  test.each([
    ['on shared connections', { max: 6 }],
    ['on connections of their own', { max: 6, lanes: false }],
  ])('%s: everybody is answered', async (_, pool) => {
    const { db } = open<Tables>({ primary: database.url, pool, statements: { prepare: 'always' } })
    const outside = new Client({ connectionString: database.url })
    await outside.connect()
    const told = new Tally()
    const load = { over: false }
    const caller = async (first: number): Promise<void> => {
      for (let n = first; !load.over; n += 12) {
        const right = await works[n % works.length]!(db, n % items).catch((error: unknown) => String(error))
        told.add(right)
      }
    }
    const callers = Promise.all(Array.from({ length: 12 }, (__, n) => caller(n)))
    for (let round = 0; round < 3; round++) {
      for (const change of changes) {
        const before = told.total
        await outside.query(change)
        // Those who hold the old definition meet the new one.
        await expect.poll(() => told.total, { interval: 2 }).toBeGreaterThan(before + 24)
      }
    }
    load.over = true
    await callers
    await outside.end()
    console.log(
      `${told.total} calls, ${3 * changes.length} definitions changed among them: ${JSON.stringify(told.counts)}`,
    )
    expect(Object.keys(told.counts)).toEqual(['true'])
  })

  test('with pg and a name, the statement fails from then on for ever', async () => {
    const client = new Client({ connectionString: database.url })
    await client.connect()
    const all = { name: 'all', text: 'select * from items' }
    await client.query(all)
    await ask(database.url, 'alter table items add column more int')
    await expect(client.query(all)).rejects.toThrow(STALE)
    await expect(client.query(all)).rejects.toThrow(STALE)
    await ask(database.url, 'alter table items drop column more')
    await client.end()
  })

  test('within a transaction the error is the user’s, and the next transaction is answered', async () => {
    const { db } = open<Tables>({ primary: database.url, pool: { max: 2 }, statements: { prepare: 'always' } })
    const all = (one: Db): Promise<unknown[]> => one.selectFrom('items').selectAll().execute()
    await heldAtOnce(db as never, 2)
    const both = (): Promise<unknown> =>
      db.connection().execute(async (a) => {
        await sql`select 1`.execute(a)
        await db.connection().execute(async (b) => {
          await sql`select 1`.execute(b)
          await Promise.all([all(a), all(b)])
        })
      })
    await both()
    await ask(database.url, 'alter table items add column more int')
    const second = (): Promise<unknown[]> =>
      db.transaction().execute(async (trx) => {
        await sql`select 1`.execute(trx)
        return all(trx)
      })
    expect(await failure(second())).toMatchObject({ code: '0A000', message: STALE })
    expect(await second()).toHaveLength(items)
    await both()
    await ask(database.url, 'alter table items drop column more')
    // With BEGIN on its way together with it nobody has seen anything yet, and the transaction begins anew.
    if (wire === 'pg') return
    await db.transaction().execute(async (trx) => {
      expect(await all(trx)).toHaveLength(items)
    })
  })
})
