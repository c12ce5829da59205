// `db.withTimeout(…)`: a deadline for the statements of one Kysely, whatever stands between it and the connection.

import { CamelCasePlugin, sql } from 'kysely'
import type { Kysely } from 'kysely'
import { describe, expect, test } from 'vitest'
import { ConfigError, withTimeout } from '../../src/index.ts'
import { failureOf, inDatabase, newLog } from './support.ts'
import type { Tables } from './support.ts'

const place = inDatabase()
const sleep = (seconds: number) => sql<{ done: string }>`select pg_sleep(${seconds})::text as done`

describe('withTimeout', () => {
  test('ends a statement that takes longer, and leaves a connection that works', async () => {
    const { db } = place.openOne()
    const error = await failureOf(sleep(60).execute(db.withTimeout('150ms')))
    expect(error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    expect(error.message).toContain('150 ms')
    expect(await db.selectFrom('person').select('name').where('id', '=', 1).execute()).toEqual([{ name: 'ada' }])
  })

  test('says nothing to queries of the Kysely that it was made from, nor to those under way beside it', async () => {
    const { db } = place.open()
    const marked = db.withTimeout(150)
    const beside = sleep(0.6).execute(db)
    await failureOf(sleep(60).execute(marked))
    expect((await beside).rows).toEqual([{ done: '' }])
  })

  test('of 0 lets a statement take longer than queryTimeout', async () => {
    const { db } = place.open({ queryTimeout: 150 })
    await failureOf(sleep(60).execute(db))
    expect((await sleep(0.4).execute(db.withTimeout(0))).rows).toEqual([{ done: '' }])
  })

  test('holds for what is exempt from queryTimeout: definitions', async () => {
    const { db } = place.open()
    const definition = sql`create table slow as select pg_sleep(60)::text as slept`
    expect(await failureOf(definition.execute(db.withTimeout(150)))).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    await expect(place.ask('select from slow')).rejects.toMatchObject({ code: '42P01' })
  })

  test.each<[string, (db: Kysely<Tables>) => Kysely<Tables>]>([
    ['a plugin before it', (db) => db.withPlugin(new CamelCasePlugin()).withTimeout(150)],
    ['a plugin behind it', (db) => db.withTimeout(150).withPlugin(new CamelCasePlugin())],
    ['withSchema', (db) => db.withTimeout(150).withSchema('public')],
    ['withoutPlugins', (db) => db.withPlugin(new CamelCasePlugin()).withTimeout(150).withoutPlugins()],
    ['a longer one before it', (db) => db.withTimeout('1h').withTimeout(150)],
    ['the function of the same name', (db) => withTimeout(db, 150)],
  ])('survives %s', async (_, of) => {
    const { db } = place.open()
    const slow = of(db)
      .selectFrom('person')
      .select(sql`pg_sleep(60)`.as('slept'))
    expect(await failureOf(slow.execute())).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
  })

  test('holds in a transaction, for each statement of it, and for one of its queries alone', async () => {
    const { db } = place.open()
    const inside = db.withTimeout(150).transaction()
    const error = await failureOf(inside.execute((trx) => sleep(60).execute(trx)))
    expect(error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    const one = db.transaction().execute(async (trx) => {
      await sleep(0.3).execute(trx)
      await sleep(60).execute(trx.withTimeout(150))
    })
    expect(await failureOf(one)).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    await db
      .withTimeout('30s')
      .transaction()
      .execute((trx) => trx.insertInto('person').values({ name: 'dora' }).execute())
    expect(await place.names()).toContain('dora')
  })

  test('holds on a connection of the caller’s own', async () => {
    const { db } = place.open()
    const error = await db
      .withTimeout(150)
      .connection()
      .execute(async (one) => {
        await sql`select 1`.execute(one)
        return failureOf(sleep(60).execute(one))
      })
    expect(error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
  })

  test('holds for the rows of a stream that do not come, and gives its place in the pool back', async () => {
    const { db } = place.openOne()
    const slow = db
      .withTimeout(150)
      .selectFrom('person')
      .select(sql`pg_sleep(case id when 2 then 60 else 0 end)`.as('slept'))
    const read = async (): Promise<void> => {
      for await (const _ of slow.stream(1));
    }
    expect(await failureOf(read())).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    expect(await db.selectFrom('person').select('id').where('id', '=', 1).execute()).toEqual([{ id: 1 }])
  })

  test('holds for each query of a batch, of which nothing is kept then', async () => {
    const { db } = place.open()
    const slow = db.withTimeout(150)
    const queries = [
      slow.insertInto('person').values({ name: 'dora' }),
      slow.selectFrom('person').select(sql`pg_sleep(60)`.as('slept')),
    ]
    expect(await failureOf(slow.batch(queries))).toMatchObject({ code: 'SMARTPG_BATCH' })
    expect(await place.names()).not.toContain('dora')
  })

  test('is seen by a log as what it is: the same query, once', async () => {
    const { log, texts } = newLog()
    const { db } = place.open({}, { log })
    await db.withTimeout('5s').selectFrom('person').select('id').where('id', '=', 1).execute()
    expect(texts()).toEqual(['select "id" from "person" where "id" = $1'])
    const error = await failureOf(sleep(60).execute(db.withTimeout(150)))
    expect(error).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
  })

  test.each([-1, Number.NaN, 'soon', null, {}])('refuses %s', (timeout) => {
    const { db } = place.open()
    expect(() => db.withTimeout(timeout as never)).toThrow(ConfigError)
  })
})
