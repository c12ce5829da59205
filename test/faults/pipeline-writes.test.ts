// pool.pipelineWrites against real locks: a write that has to wait is carried out once and only once, holds up nobody,
// and waits for as long as its user has set, not for as long as shared connections would.

import { sql } from 'kysely'
import { Client } from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, onTestFinished, test } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { failure, metric, open } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  account: { id: number; sum: number }
  entry: { n: number; account: number }
}

const TABLES = `create table account (id int primary key, sum int not null);
  create table entry (n int not null, account int not null)`
const ROWS = 'truncate account, entry; insert into account select n, 0 from generate_series(1, 20) as n'

describe.skipIf(wire === 'pg')("writes that share connections (not to be had with wire: 'pg')", () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    await ask(database.url, TABLES)
  })
  afterAll(() => database.drop())
  beforeEach(() => ask(database.url, ROWS).then(() => undefined))

  function connected(options: Partial<SmartPgOptions> = {}): Opened<Tables> {
    const pool = { min: 2, initial: 2, max: 6, pipelineWrites: true, ...options.pool }
    return open({ primary: database.url, ...options, pool })
  }

  const add = ({ db }: Opened<Tables>, id: number, sum = 1): Promise<unknown> =>
    db
      .updateTable('account')
      .set((eb) => ({ sum: eb('sum', '+', sum) }))
      .where('id', '=', id)
      .execute()
  const insert = ({ db }: Opened<Tables>, n: number): Promise<unknown> =>
    db.insertInto('entry').values({ n, account: 1 }).execute()
  const read = ({ db }: Opened<Tables>, id: number): Promise<unknown> =>
    db.selectFrom('account').select('id').where('id', '=', id).executeTakeFirstOrThrow()

  /** So often that all three are known never to wait. */
  async function learn(opened: Opened<Tables>): Promise<void> {
    for (let times = 0; times < 12; times++) {
      await add(opened, 20)
      await insert(opened, -1)
      await read(opened, 1)
    }
  }

  /** Somebody else has locked a row. */
  async function lockedRow(id: number): Promise<Client> {
    const holder = new Client({ connectionString: database.url })
    onTestFinished(() => holder.end())
    await holder.connect()
    await holder.query('begin')
    await holder.query('update account set sum = sum where id = $1', [id])
    return holder
  }

  /** Backends of this dialect that wait for a lock. */
  const waiting = async ({ applicationName }: Opened<Tables>): Promise<number[]> => {
    const text = `select pid from pg_stat_activity where application_name = $1 and wait_event_type = 'Lock'`
    return (await ask<{ pid: number }>(database.url, text, [applicationName])).map(({ pid }) => pid)
  }
  const sumOf = async (id: number): Promise<number> =>
    (await ask<{ sum: number }>(database.url, 'select sum from account where id = $1', [id]))[0]!.sum
  const lockTimeouts = ({ dialect }: Opened<Tables>): Promise<number> => metric(dialect, 'lock_timeouts_total')

  test('go on while one of them waits for a row, which is written once and only once', async () => {
    const opened = connected()
    await learn(opened)
    const holder = await lockedRow(1)
    const blocked = add(opened, 1)
    const behind = Array.from({ length: 30 }, (_, n) => [insert(opened, n), read(opened, 2), add(opened, 2)]).flat()
    // The row is still locked.
    await Promise.all(behind)
    await expect.poll(async () => (await waiting(opened)).length).toBe(1)
    expect(await lockTimeouts(opened)).toBeGreaterThan(0)
    await holder.query('commit')
    await blocked
    expect(await sumOf(1)).toBe(1)
    expect(await sumOf(2)).toBe(30)
    expect(await ask(database.url, 'select n from entry where n >= 0 group by n having count(*) <> 1')).toEqual([])
    expect(await ask(database.url, 'select count(distinct n)::int as n from entry where n >= 0')).toEqual([{ n: 30 }])
  })

  test('are each carried out exactly once when all want the same row', async () => {
    const opened = connected({ pool: { max: 4 } })
    await learn(opened)
    const holder = await lockedRow(3)
    const all = Array.from({ length: 300 }, (_, n) => add(opened, n % 2 === 0 ? 3 : 4))
    await expect.poll(async () => (await waiting(opened)).length).toBeGreaterThan(0)
    await holder.query('commit')
    await Promise.all(all)
    expect([await sumOf(3), await sumOf(4)]).toEqual([150, 150])
  })

  test('keep what transactions move between accounts', async () => {
    const opened = connected()
    await learn(opened)
    await ask(database.url, 'update account set sum = 0')
    const transfer = (from: number, to: number): Promise<unknown> =>
      opened.db.transaction().execute(async (trx) => {
        // In one order, so that no two wait for each other.
        for (const id of [from, to].toSorted((a, b) => a - b)) {
          const by = id === from ? -1 : 1
          await trx.updateTable('account').set((eb) => ({ sum: eb('sum', '+', by) })).where('id', '=', id).execute()
        }
      }) // prettier-ignore
    const work = Array.from({ length: 400 }, (_, n) => {
      if (n % 4 === 0) return transfer(1 + (n % 5), 6 + (n % 3))
      if (n % 4 === 1) return read(opened, 1 + (n % 20))
      return add(opened, 1 + (n % 8), n % 4 === 2 ? 1 : -1)
    })
    await Promise.all(work)
    expect(await ask(database.url, 'select sum(sum)::int as sum from account')).toEqual([{ sum: 0 }])
  })

  test.each(['5s', '100ms', '0'])("leave a user's own lock_timeout of %s to whoever has a session", async (own) => {
    const opened = connected({ session: { settings: { lock_timeout: own } } })
    await learn(opened)
    const { db } = opened
    const show = sql<{ lock_timeout: string }>`show lock_timeout`
    const inTransaction = await db.transaction().execute(async (trx) => (await show.execute(trx)).rows)
    const onConnection = await db.connection().execute(async (one) => {
      const first = await sql<{ id: number }>`select id from account where id = 1`.execute(one)
      expect(first.rows).toEqual([{ id: 1 }])
      return (await show.execute(one)).rows
    })
    const alone = (await show.execute(db)).rows
    const streamed: unknown[] = []
    for await (const row of db.selectNoFrom(sql`current_setting('lock_timeout')`.as('lock_timeout')).stream()) {
      streamed.push(row)
    }
    for (const rows of [inTransaction, onConnection, alone, streamed]) expect(rows).toEqual([{ lock_timeout: own }])
  })

  test("wait for a lock as long as the user's own lock_timeout says, and then fail with it", async () => {
    const opened = connected({ session: { settings: { lock_timeout: '100ms' } } })
    await learn(opened)
    await lockedRow(1)
    expect(await failure(add(opened, 1))).toMatchObject({ code: '55P03' })
    const inTransaction = opened.db.transaction().execute((trx) => add({ ...opened, db: trx }, 1))
    expect(await failure(inTransaction)).toMatchObject({ code: '55P03' })
    expect(await sumOf(1)).toBe(0)
  })

  test.each([
    'select id from account where id = 1 for update nowait',
    'select id from account where id = 1 for share nowait',
  ])('and reads that say NOWAIT fail at once, with nobody sending them again: %s', async (text) => {
    const opened = connected()
    await learn(opened)
    await lockedRow(1)
    const before = await metric(opened.dialect, 'queries_total')
    expect(await failure(sql.raw(text).execute(opened.db))).toMatchObject({ code: '55P03' })
    expect(await lockTimeouts(opened)).toBe(0)
    expect(await metric(opened.dialect, 'queries_total')).toBe(before + 1)
  })

  test('do not make an index that is built beside others invalid', async () => {
    const opened = connected()
    await learn(opened)
    const holder = await lockedRow(1)
    const index = sql`create index concurrently beside on account (sum)`.execute(opened.db)
    await expect.poll(async () => (await waiting(opened)).length).toBe(1)
    await read(opened, 1)
    await holder.query('commit')
    await index
    const valid = `select indisvalid as valid from pg_index where indexrelid = 'beside'::regclass`
    expect(await ask(database.url, valid)).toEqual([{ valid: true }])
    await ask(database.url, 'drop index beside')
  })

  test('wait for a definition that changes, and are then carried out once', async () => {
    const opened = connected()
    await learn(opened)
    const holder = new Client({ connectionString: database.url })
    onTestFinished(() => holder.end())
    await holder.connect()
    await holder.query('begin; alter table account add column extra int')
    const all = [add(opened, 5), read(opened, 5), add(opened, 5), insert(opened, 77)]
    await all[3]
    await expect.poll(async () => (await waiting(opened)).length).toBeGreaterThan(0)
    await holder.query('commit')
    await Promise.all(all)
    expect(await sumOf(5)).toBe(2)
    await ask(database.url, 'alter table account drop column extra')
  })

  test('that a unique key makes wait for a stranger end as he decides', async () => {
    await ask(database.url, 'create table if not exists single (n int primary key)')
    const opened = connected()
    const one = (n: number): Promise<unknown> => sql`insert into single values (${n})`.execute(opened.db)
    for (let n = 0; n < 12; n++) await one(n)
    const holder = new Client({ connectionString: database.url })
    onTestFinished(() => holder.end())
    await holder.connect()
    await holder.query('begin; insert into single values (100), (101)')
    const taken = failure(one(100))
    await expect.poll(async () => (await waiting(opened)).length).toBe(1)
    await holder.query('commit')
    expect(await taken).toMatchObject({ code: '23505' })
    await holder.query('begin; insert into single values (102)')
    const free = one(102)
    await expect.poll(async () => (await waiting(opened)).length).toBe(1)
    await holder.query('rollback')
    await free
    expect(await ask(database.url, 'select n from single where n = 102')).toEqual([{ n: 102 }])
  })
})
