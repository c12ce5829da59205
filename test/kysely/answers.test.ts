// What a query answers with: rows, counts, errors. Nothing of PostgreSQL's own words is lost on the way, and a
// statement that could not even be sent leaves everything as it was.

import { CompiledQuery, sql } from 'kysely'
import { DatabaseError } from 'pg'
import { describe, expect, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import { backendsOf, failureOf, inDatabase, pidOf, rowOf, run } from './support.ts'

const place = inDatabase()
const dora = { name: 'dora', age: 1 }

describe('rows', () => {
  test('come as pg reads them: numbers, text, null, dates, json, arrays, big integers as text', async () => {
    const { db } = place.open()
    const row = await rowOf(
      db,
      `select 1::int as i, 2.5::float8 as f, 'x' as t, null as n, true as b, '2020-01-02T03:04:05Z'::timestamptz as at,
        '{"a":[1]}'::json as j, array[1,2] as a, 9007199254740993::int8 as big, '1.10'::numeric as num, '\\x01ff'::bytea as bytes`,
    )
    expect(row).toEqual({
      i: 1,
      f: 2.5,
      t: 'x',
      n: null,
      b: true,
      at: new Date('2020-01-02T03:04:05Z'),
      j: { a: [1] },
      a: [1, 2],
      big: '9007199254740993',
      num: '1.10',
      bytes: Buffer.from([1, 255]),
    })
  })

  test('are an array also for statements that have none', async () => {
    const { db } = place.open()
    for (const text of [
      'create table fleeting (id int)',
      'drop table fleeting',
      'set work_mem to default',
      '',
      '-- nothing',
    ]) {
      expect(await db.executeQuery(CompiledQuery.raw(text))).toMatchObject({ rows: [] })
    }
  })

  test('of one statement do not mix with another’s, however many share the connections', async () => {
    const { db } = place.open({ pool: { max: 4 } })
    const numbers = Array.from({ length: 300 }, (_, n) => n)
    const answers = await Promise.all(numbers.map((n) => rowOf<{ n: number }>(db, 'select $1::int as n', [n])))
    expect(answers.map(({ n }) => n)).toEqual(numbers)
  })

  test('builders that share a root do not share an answer, one after the other, at once, or in a stream', async () => {
    const { db } = place.open()
    const root = db.selectFrom('person').select('name')
    const ada = root.where('id', '=', 1)
    const bob = root.where('id', '=', 2)
    const both = [[{ name: 'ada' }], [{ name: 'bob' }]]
    for (let n = 0; n < 3; n++) expect(await Promise.all([ada.execute(), bob.execute()])).toEqual(both)
    const streamed: string[] = []
    for await (const { name } of ada.stream(1)) {
      streamed.push(name)
      for await (const { name: other } of bob.stream(1)) streamed.push(other)
    }
    expect(streamed).toEqual(['ada', 'bob'])
    expect(await db.batch([ada, bob])).toEqual(both)
  })

  test('the same builder with other values answers for these values', async () => {
    const { db } = place.openOne()
    const named = (name: string) => db.selectFrom('person').select('id').where('name', '=', name)
    for (const [name, id] of [
      ['ada', 1],
      ['bob', 2],
      ['cleo', 3],
      ['ada', 1],
    ] as const) {
      expect(await named(name).execute()).toEqual([{ id }])
    }
  })
})

describe('numAffectedRows', () => {
  test('is a bigint for insert, update and delete', async () => {
    const { db } = place.open()
    const counts = [
      (await db.executeQuery(db.insertInto('person').values([dora, { name: 'emil', age: 2 }]))).numAffectedRows,
      (await db.executeQuery(db.updateTable('person').set({ age: 9 }))).numAffectedRows,
      (await db.executeQuery(db.updateTable('person').set({ age: 9 }).where('id', '<', 0))).numAffectedRows,
      (await db.executeQuery(db.deleteFrom('person'))).numAffectedRows,
    ]
    expect(counts).toEqual([2n, 5n, 0n, 5n])
  })

  test('is a bigint for merge', async (context) => {
    if ((await place.major()) < 15) context.skip('MERGE came with PostgreSQL 15')
    const { db } = place.open()
    const merge = (id: number) =>
      db
        .mergeInto('person as p')
        .using('person as q', 'q.id', 'p.id')
        .whenMatchedAnd('p.id', '>', id)
        .thenUpdateSet({ age: 9 })
    const counts = [
      (await db.executeQuery(merge(1))).numAffectedRows,
      (await db.executeQuery(merge(3))).numAffectedRows,
    ]
    expect(counts).toEqual([2n, 0n])
  })

  test('is there with returning, for raw SQL and with a leading WITH, too', async () => {
    const { db } = place.open()
    const inserted = await db.executeQuery(db.insertInto('person').values(dora).returning('name'))
    expect(inserted).toMatchObject({ numAffectedRows: 1n, rows: [{ name: 'dora' }] })
    expect(await sql`update person set age = 1`.execute(db)).toMatchObject({ numAffectedRows: 4n, rows: [] })
    const withs = db
      .with('old', (qb) => qb.selectFrom('person').select('id').where('id', '<', 3))
      .deleteFrom('person')
      .where('id', 'in', (eb) => eb.selectFrom('old').select('old.id'))
    expect((await db.executeQuery(withs)).numAffectedRows).toBe(2n)
  })

  test('is undefined for everything else', async () => {
    const { db } = place.open()
    for (const text of [
      'select * from person',
      'create table gone (id int)',
      'drop table gone',
      'show work_mem',
      'vacuum person',
    ]) {
      expect((await db.executeQuery(CompiledQuery.raw(text))).numAffectedRows).toBeUndefined()
    }
  })

  test('shows in what the builders resolve with', async () => {
    const { db } = place.open()
    expect((await db.insertInto('person').values(dora).executeTakeFirstOrThrow()).numInsertedOrUpdatedRows).toBe(1n)
    expect((await db.updateTable('person').set({ age: 3 }).executeTakeFirstOrThrow()).numUpdatedRows).toBe(4n)
    expect((await db.deleteFrom('person').executeTakeFirstOrThrow()).numDeletedRows).toBe(4n)
  })
})

describe('several statements in one text', () => {
  test('run all of them, as one transaction, and answer with no rows', async () => {
    const { db } = place.open()
    const answer = await db.executeQuery(
      CompiledQuery.raw('create table made (id int); insert into made values (1), (2); select * from made'),
    )
    expect(answer.rows).toEqual([])
    expect(answer.numAffectedRows).toBeUndefined()
    expect(await place.ask('select id from made order by id')).toEqual([{ id: 1 }, { id: 2 }])
  })

  test('keep nothing when one of them fails', async () => {
    const { db } = place.openOne()
    const text = "insert into person (name) values ('dora'); insert into person (name) values ('ada')"
    expect(await failureOf(db.executeQuery(CompiledQuery.raw(text)))).toMatchObject({ code: '23505' })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('with parameters are refused by the server, in its words', async () => {
    const { db } = place.openOne()
    expect(await failureOf(run(db, 'select $1::int; select 2', [1]))).toMatchObject({ code: '42601' })
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('work inside a transaction, and with dollar quotes and comments around the semicolons', async () => {
    const { db } = place.open()
    await db.transaction().execute(async (trx) => {
      await run(
        trx,
        `create function answer() returns int language plpgsql as $f$ begin return 42; end; $f$; -- one; two
         insert into person (name, age) values ('d;o''ra', 1);`,
      )
      expect(await rowOf(trx, 'select answer() as n')).toEqual({ n: 42 })
    })
    expect(await place.names()).toContain("d;o'ra")
  })
})

describe('errors of the server', () => {
  test('are pg’s own DatabaseError, not wrapped, with every field it has', async () => {
    const { db } = place.open()
    const failure = await failureOf(db.insertInto('person').values({ name: 'ada', age: 1 }).execute())
    expect(failure).toBeInstanceOf(DatabaseError)
    expect(failure).toMatchObject({
      code: '23505',
      severity: 'ERROR',
      table: 'person',
      constraint: 'person_name_key',
      detail: 'Key (name)=(ada) already exists.',
    })
    expect(failure.message).toBe('duplicate key value violates unique constraint "person_name_key"')
  })

  test('name the file of the caller at the end of their stack', async () => {
    const { db } = place.open()
    const here = async (): Promise<void> => {
      await db
        .selectFrom('person')
        .select(sql<number>`1/0`.as('q'))
        .execute()
    }
    // Below stands who called this file, the runner; in between, Kysely.
    const lastOwn = ({ stack = '' }: Error): string | undefined =>
      stack.split('\n').findLast((line) => line.includes('at ') && !line.includes('node_modules'))
    expect(lastOwn(await failureOf(here()))).toContain('answers.test.ts')
    // On a connection that was already there, and in a transaction.
    expect(lastOwn(await failureOf(here()))).toContain('answers.test.ts')
    const inside = await failureOf(
      db.transaction().execute(async (trx) => {
        await run(trx, 'select 1/0')
      }),
    )
    expect(lastOwn(inside)).toContain('answers.test.ts')
  })

  test('leave the connection as good as it was', async () => {
    const { db } = place.openOne()
    const pid = await pidOf(db)
    for (const text of ['selekt 1', 'select 1/0', 'select nothing', 'insert into person (name) values (null)']) {
      expect(await failureOf(run(db, text))).toBeInstanceOf(DatabaseError)
    }
    expect(await pidOf(db)).toBe(pid)
  })

  test('of many callers at once are each his own', async () => {
    const { db } = place.open({ pool: { max: 3 } })
    const failures = await Promise.all(
      Array.from({ length: 50 }, (_, n) => failureOf(run(db, `select 1 as "${n}" from missing_${n}`))),
    )
    failures.forEach((failure, n) => expect(failure.message).toBe(`relation "missing_${n}" does not exist`))
  })
})

describe('prepared statements', () => {
  test('are used for what repeats, under names that are a digest of the text', async () => {
    const { db } = place.openOne()
    for (let n = 0; n < 3; n++) await db.selectFrom('person').select('age').where('id', '=', n).execute()
    const [row] = (
      await sql<{
        name: string
      }>`select name from pg_prepared_statements where statement like '%"age" from "person"%'`.execute(db)
    ).rows
    expect(row?.name).toMatch(/^s_[0-9a-f]{32}$/)
  })

  test('survive a change of the row type by DDL, without anybody noticing', async () => {
    await place.ask('create table growing (id int)')
    const { db } = place.openOne()
    const all = CompiledQuery.raw('select * from growing')
    for (let n = 0; n < 3; n++) await db.executeQuery(all)
    await place.ask("alter table growing add column t text default 'new'; insert into growing values (1)")
    for (let n = 0; n < 3; n++) expect((await db.executeQuery(all)).rows).toEqual([{ id: 1, t: 'new' }])
    await place.ask("alter table growing alter column id type text using 'id ' || id")
    for (let n = 0; n < 3; n++) expect((await db.executeQuery(all)).rows).toEqual([{ id: 'id 1', t: 'new' }])
  })

  test('cost a transaction that meets such a change one failure, and the next transaction none', async () => {
    await place.ask('create table changing (id int)')
    const { db } = place.openOne()
    const all = CompiledQuery.raw('select * from changing')
    for (let n = 0; n < 3; n++) await db.executeQuery(all)
    await place.ask('alter table changing add column t text')
    const inside = () =>
      db.transaction().execute(async (trx) => {
        await trx.executeQuery(CompiledQuery.raw('select 1'))
        return trx.executeQuery(all)
      })
    expect(await failureOf(inside())).toMatchObject({ code: '0A000' })
    expect((await inside()).rows).toEqual([])
    expect((await db.executeQuery(all)).rows).toEqual([])
  })

  test('survive DEALLOCATE ALL', async () => {
    const { db } = place.openOne()
    const query = db.selectFrom('person').select('name').where('id', '=', 1)
    for (let n = 0; n < 3; n++) await query.execute()
    await run(db, 'deallocate all')
    for (let n = 0; n < 3; n++) expect(await query.execute()).toEqual([{ name: 'ada' }])
    await db.connection().execute(async (one) => {
      const same = one.selectFrom('person').select('name').where('id', '=', 1)
      for (let n = 0; n < 3; n++) await same.execute()
      await run(one, 'deallocate all')
      for (let n = 0; n < 3; n++) expect(await same.execute()).toEqual([{ name: 'ada' }])
      await run(one, 'discard all')
      expect(await same.execute()).toEqual([{ name: 'ada' }])
    })
  })

  test('are not made when statements.prepare says never', async () => {
    const { db } = place.openOne({ statements: { prepare: 'never' } })
    for (let n = 0; n < 4; n++) await db.selectFrom('person').select('name').execute()
    expect(await rowOf(db, 'select count(*)::int as n from pg_prepared_statements')).toEqual({ n: 0 })
  })

  test('are bounded: the oldest goes when statements.cacheSize is reached', async () => {
    const { db } = place.openOne({ statements: { prepare: 'always', cacheSize: 5 } })
    for (let n = 0; n < 40; n++) await run(db, `select ${n} as n${n}`)
    const { n } = await rowOf<{ n: number }>(db, 'select count(*)::int as n from pg_prepared_statements')
    expect(n).toBeLessThanOrEqual(7)
    for (let i = 0; i < 3; i++) expect(await rowOf(db, 'select 0 as n0')).toEqual({ n0: 0 })
  })
})

describe('a statement that cannot be sent', () => {
  test('because it has 70,000 parameters says so once, and the next one works', async () => {
    const { db, applicationName } = place.openOne()
    const many = Array.from({ length: 70_000 }, (_, n) => n)
    const failure = await failureOf(db.selectFrom('person').select('id').where('id', 'in', many).execute())
    expect(failure).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send' })
    expect(failure.message).toMatch(/70000 parameters.*65535/)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    expect(await backendsOf(place.url, applicationName)).toHaveLength(1)
  })

  test('65,535 parameters are sent', async () => {
    const { db } = place.openOne()
    const many = Array.from({ length: 65_535 }, (_, n) => n)
    expect(await db.selectFrom('person').select('id').where('id', 'in', many).execute()).toHaveLength(3)
  })

  test('because a value throws when it is serialized says which, with what it threw, and never the value', async () => {
    const { db, applicationName } = place.openOne()
    const thrown = new Error('no JSON for you')
    const unspeakable = {
      secret: 'hunter2',
      toPostgres: () => {
        throw thrown
      },
    }
    const query = () => run(db, 'select $1::text, $2::text', ['fine', unspeakable])
    const pid = await pidOf(db)
    for (let n = 0; n < 3; n++) {
      const failure = await failureOf(query())
      expect(failure).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send', cause: thrown })
      expect(failure.message).toContain('$2')
      expect(failure.message).not.toContain('hunter2')
    }
    expect(await pidOf(db)).toBe(pid)
    expect(await backendsOf(place.url, applicationName)).toHaveLength(1)
  })

  test('in a transaction leaves that one open: nothing was sent, so nothing failed', async () => {
    const { db } = place.openOne()
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    await db.transaction().execute(async (trx) => {
      await trx.insertInto('person').values(dora).execute()
      const failure = await failureOf(run(trx, 'select $1::json', [circular]))
      expect(isSmartPgError(failure, 'SMARTPG_INVALID_QUERY')).toBe(true)
      await trx.insertInto('person').values({ name: 'emil', age: 1 }).execute()
    })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'dora', 'emil'])
  })
})

describe('type parsers', () => {
  test('given by `types` hold for this dialect alone', async () => {
    const types = { getTypeParser: (oid: number) => (oid === 20 ? BigInt : String) }
    const { db } = place.open({ types })
    const { db: plain } = place.open()
    const text = 'select 9007199254740993::int8 as big, 1::int as i'
    expect(await rowOf(db, text)).toEqual({ big: 9007199254740993n, i: '1' })
    expect(await rowOf(plain, text)).toEqual({ big: '9007199254740993', i: 1 })
  })

  test('hold for prepared statements and streams as well', async () => {
    const types = { getTypeParser: () => (value: string) => `<${value}>` }
    const { db } = place.openOne({ types })
    const query = db.selectFrom('person').select(['id', 'name']).where('id', '=', 1)
    for (let n = 0; n < 3; n++) expect(await query.execute()).toEqual([{ id: '<1>', name: '<ada>' }])
    for await (const row of query.stream()) expect(row).toEqual({ id: '<1>', name: '<ada>' })
    expect(await db.batch([query])).toEqual([[{ id: '<1>', name: '<ada>' }]])
  })
})
