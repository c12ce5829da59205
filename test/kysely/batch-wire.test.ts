// What `db.batch` puts on the wire, and what is known when it fails there: one write and one Sync where the server is
// asked by our own wire, one statement after the other where it is not, and the same answers and promises either way.

import { CompiledQuery, sql } from 'kysely'
import type { Kysely } from 'kysely'
import { Registry } from 'prom-client'
import { afterEach, describe, expect, test } from 'vitest'
import { BatchError } from '../../src/index.ts'
import type { SmartPgOptions } from '../../src/index.ts'
import { startWiretap } from '../support/wiretap.ts'
import type { Wiretap } from '../support/wiretap.ts'
import { wire } from '../support/wire.ts'
import {
  backendsOf,
  failureOf,
  inDatabase,
  newLog,
  ownPidOf,
  pidOf,
  rowOf,
  run,
  terminate,
  waitsForLock,
} from './support.ts'
import type { Opened, Tables } from './support.ts'

const place = inDatabase()
const dora = { name: 'dora', age: 1 }
const ben = { name: 'ben', age: 2 }
const twin = { name: 'ada', age: 3 }
const everyone = ['ada', 'bob', 'cleo']

/** Where several statements can be sent together. */
const asOne = wire === 'native'

/** The type's number in every PostgreSQL. */
const INT8 = 20

interface FailedBatch extends Error {
  readonly index: number | null
  readonly phase: string
  readonly cause: Error & { code?: string }
}
const batchFailure = async (promise: Promise<unknown>): Promise<FailedBatch> => {
  const failure = await failureOf(promise)
  expect(failure).toBeInstanceOf(BatchError)
  return failure as unknown as FailedBatch
}

const taps: Wiretap[] = []
afterEach(async () => {
  await Promise.all(taps.splice(0).map((tap) => tap.close()))
})

/** One connection, already open, on which the test listens from now on. */
async function tapped(options: Partial<SmartPgOptions> = {}): Promise<Opened & { tap: Wiretap }> {
  const tap = await startWiretap(place.url)
  taps.push(tap)
  const opened = place.openOne({ primary: tap.url, ...options })
  await pidOf(opened.db)
  tap.forget()
  return { ...opened, tap }
}

const syncs = (tap: Wiretap): number => tap.flights.join('').replaceAll(/[^SQ]/g, '').length
const inserts = (db: Kysely<Tables>, names: readonly string[]) =>
  names.map((name, age) => db.insertInto('person').values({ name, age }).returning(['name', 'age']))

describe('a batch on the wire', () => {
  test('is one flight with one Sync: BEGIN, the queries, COMMIT', async () => {
    const { db, tap } = await tapped()
    const [made, , [found]] = await db.batch([
      db.insertInto('person').values(dora).returning('id'),
      db.updateTable('person').set({ age: 9 }).where('name', '=', 'dora'),
      db.selectFrom('person').select(['name', 'age']).where('name', '=', 'dora'),
      sql`select 1`,
    ])
    expect(made).toHaveLength(1)
    expect(found).toEqual({ name: 'dora', age: 9 })
    expect(tap.flights).toHaveLength(asOne ? 1 : 6)
    if (asOne) expect(tap.flights[0]).toMatch(/^(PBDE){6}S$/)
    expect(syncs(tap)).toBe(tap.flights.length)
    expect(tap.texts.at(0)).toBe('begin')
    expect(tap.texts.at(-1)).toBe('commit')
  })

  test('with lazyBegin: false is two', async () => {
    const { db, tap } = await tapped({ transactions: { lazyBegin: false } })
    await db.batch([db.insertInto('person').values(dora), sql`select 1`])
    expect(tap.flights).toHaveLength(asOne ? 2 : 4)
  })

  test('in a transaction is one more flight of it, whether it comes first or later', async () => {
    const { db, tap } = await tapped()
    await db.transaction().execute(async (trx) => {
      await trx.batch(inserts(trx, ['x', 'y']))
      await trx.batch(inserts(trx, ['z', 'w']))
    })
    const controlled = await db.startTransaction().execute()
    await controlled.batch(inserts(controlled, ['u', 'v']))
    await controlled.commit().execute()
    // Two batches and a COMMIT, one and a COMMIT; else each BEGIN and each query by itself.
    expect(tap.flights).toHaveLength(asOne ? 5 : 10)
    expect(syncs(tap)).toBe(tap.flights.length)
    expect(await place.names()).toHaveLength(9)
  })

  test('on db.connection() is one flight on that session', async () => {
    const { db, tap } = await tapped()
    await db.connection().execute(async (one) => {
      const pid = await ownPidOf(one)
      tap.forget()
      const [where] = await one.batch([sql<{ pid: number }>`select pg_backend_pid() as pid`, sql`select 1`])
      expect(where.rows).toEqual([{ pid }])
      expect(tap.flights).toHaveLength(asOne ? 1 : 4)
    })
  })

  test('that fails is one flight, and one more to roll back', async () => {
    const { db, tap } = await tapped()
    await batchFailure(db.batch([db.insertInto('person').values(twin), db.insertInto('person').values(dora)]))
    expect(tap.flights).toHaveLength(asOne ? 2 : 3)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('names what it has seen before and parses it once, also within one batch', async () => {
    const { db, tap } = await tapped()
    await db.batch(inserts(db, ['a', 'b', 'c', 'd', 'e', 'f']))
    await db.batch(inserts(db, ['g', 'h', 'i', 'j']))
    expect(tap.texts.filter((text) => text.startsWith('insert'))).toHaveLength(2)
    expect(await place.names()).toHaveLength(13)
  })

  test('gives the answers of a thousand queries, in order, with one Sync, named or not', async () => {
    const { db, tap } = await tapped()
    for (const round of [1, 2, 3]) {
      tap.forget()
      const names = Array.from({ length: 1000 }, (_, n) => `${round}: ${n}`)
      expect(await db.batch(inserts(db, names))).toEqual(names.map((name, age) => [{ name, age }]))
      if (asOne) expect(syncs(tap)).toBe(1)
      expect(await place.ask('select count(*)::int as n from person')).toEqual([{ n: 3 + 1000 * round }])
    }
  })
})

describe('a batch of megabytes', () => {
  const mebi = 2 ** 20

  test('to write arrives whole', async () => {
    const { db } = await tapped()
    const text = 'ä'.repeat(mebi)
    const sizes = await db.batch(
      Array.from(
        { length: 8 },
        (_, n) => sql<{ n: number; size: number }>`
        select ${n}::int as n, octet_length(${text}::text) as size`,
      ),
    )
    expect(sizes.map(({ rows }) => rows[0])).toEqual(Array.from({ length: 8 }, (_, n) => ({ n, size: 2 * mebi })))
  })

  test('to read, sixty-four of them, does not wait for itself', { timeout: 60_000 }, async () => {
    const { db } = await tapped()
    const wide = (n: number) => sql<{ n: number; text: string }>`
      select ${n}::int as n, repeat(${'x'}::text, ${mebi}::int) as text`
    const answers = await db.batch(Array.from({ length: 64 }, (_, n) => wide(n)))
    expect(answers.map(({ rows }) => [rows[0]!.n, rows[0]!.text.length])).toEqual(
      Array.from({ length: 64 }, (_, n) => [n, mebi]),
    )
  })

  test('both ways at once, more than all buffers hold, does not wait for itself', { timeout: 60_000 }, async () => {
    const { db } = await tapped()
    const echo = (n: number) => sql<{ text: string }>`select ${`${n}`.padEnd(mebi, 'x')}::text as text`
    const answers = await db.batch(Array.from({ length: 32 }, (_, n) => echo(n)))
    expect(answers.map(({ rows }) => [parseInt(rows[0]!.text, 10), rows[0]!.text.length])).toEqual(
      Array.from({ length: 32 }, (_, n) => [n, mebi]),
    )
  })
})

describe('a batch of which one query fails', () => {
  test.for([0, 1, 4, 9])('keeps nothing and executes none behind it: the one at %i', async (k) => {
    await place.ask('drop sequence if exists witness; create sequence witness')
    const { db } = place.openOne()
    const counts = sql`select nextval('witness')`
    const queries = Array.from({ length: 10 }, (_, n) => (n === k ? db.insertInto('person').values(twin) : counts))
    const failure = await batchFailure(db.batch([...queries]))
    expect(failure).toMatchObject({ index: k, phase: 'execute', cause: { code: '23505', name: 'error' } })
    // A sequence tells who was executed, because it takes nothing back.
    const [next] = await place.ask<{ n: number }>("select nextval('witness')::int as n")
    expect(next!.n).toBe(k + 1)
    expect(await place.names()).toEqual(everyone)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('at COMMIT has no index, and nothing is kept', async () => {
    const { db, applicationName } = place.openOne()
    const failure = await batchFailure(
      db.batch([
        db.insertInto('pet').values({ name: 'rex', owner_id: 999 }),
        db.insertInto('person').values(dora),
        sql`select 1`,
      ]),
    )
    expect(failure).toMatchObject({ index: null, phase: 'commit', cause: { code: '23503' } })
    expect(await place.names()).toEqual(everyone)
    expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
  })

  test('in a transaction that goes on fails its COMMIT', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db.transaction().execute(async (trx) => {
        await batchFailure(trx.batch([trx.insertInto('person').values(dora), trx.insertInto('person').values(twin)]))
      }),
    )
    expect(failure).toMatchObject({ name: 'AbortedTransactionError' })
    expect(await place.names()).toEqual(everyone)
  })

  test('for a value that cannot be serialized has sent nothing, and the connection serves on', async () => {
    const { db, tap } = await tapped()
    const thrown = new Error('no')
    const value = {
      toPostgres: () => {
        throw thrown
      },
    }
    const failure = await batchFailure(
      db.batch([db.insertInto('person').values(dora), sql`select ${value}::text`, sql`select 1`]),
    )
    expect(failure).toMatchObject({ index: 1, cause: { code: 'SMARTPG_INVALID_QUERY', cause: thrown } })
    if (asOne) expect(tap.flights).toEqual([])
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    expect(await db.batch([db.insertInto('person').values(ben).returning('name')])).toEqual([[{ name: 'ben' }]])
    expect(await place.names()).toEqual([...everyone, 'ben'])
  })

  test('for its deadline says so, at its index, and the connection serves on', async () => {
    const { db } = place.openOne({ queryTimeout: 300 })
    const failure = await batchFailure(
      db.batch([db.insertInto('person').values(dora), sql`select pg_sleep(60)`, db.insertInto('person').values(ben)]),
    )
    expect(failure).toMatchObject({ index: 1, cause: { code: 'SMARTPG_QUERY_TIMEOUT' } })
    expect(await place.names()).toEqual(everyone)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('because its answer cannot be read is told as such', async () => {
    const broken = new Error('the parser broke')
    const throws = (): never => {
      throw broken
    }
    const { db } = place.openOne({ types: { getTypeParser: (oid: number) => (oid === INT8 ? throws : String) } })
    const failure = await batchFailure(
      db.batch([db.insertInto('person').values(dora), sql`select 1::int8 as n`, db.insertInto('person').values(ben)]),
    )
    expect(failure.index).toBe(1)
    const causes = [failure.cause, failure.cause.cause]
    expect(causes).toContain(broken)
    // Where the COMMIT had left with it, it was kept, and is said to be.
    expect(await place.names()).toEqual(asOne ? [...everyone, 'dora', 'ben'] : everyone)
    expect(failure.message.includes('committed')).toBe(asOne)
  })
})

describe('what cannot be sent together', () => {
  test('COPY is sent by itself, fails for want of data, and nothing of the batch is kept', async () => {
    const { db } = place.openOne()
    const failure = await batchFailure(
      db.batch([db.insertInto('person').values(dora), sql`copy person (name) from stdin`]),
    )
    expect(failure).toMatchObject({ index: 1 })
    expect(await place.names()).toEqual(everyone)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('a text that only has the word copy in it can', async () => {
    const { db, tap } = await tapped()
    const [copies] = await db.batch([sql`(select 'copy' as a) union all (select 'copy b') order by 1`, sql`select 1`])
    expect(copies.rows).toEqual([{ a: 'copy' }, { a: 'copy b' }])
    expect(tap.flights).toHaveLength(asOne ? 1 : 4)
  })

  test('a query that reads somebody else’s sequence value is refused, and the batch with it, at once', async () => {
    const { db } = place.openOne()
    await db.connection().execute(async (one) => {
      await run(one, 'select 1')
      await run(one, 'begin')
      const failure = await failureOf(one.batch([sql`select lastval()`, one.insertInto('person').values(dora)]))
      expect(failure).toBeInstanceOf(BatchError)
      await run(one, 'rollback')
      expect(await rowOf(one, 'select 1 as n')).toEqual({ n: 1 })
    })
    expect(await place.names()).toEqual(everyone)
  })
})

describe('a batch whose prepared statements are stale', () => {
  const widen = (): Promise<unknown> => place.ask('alter table person add column extra int default 5')
  afterEach(() => place.ask('alter table person drop column if exists extra'))

  test('after DDL (0A000) is run once more, because nothing of it was kept', async () => {
    const { db } = place.openOne({ statements: { prepare: 'always' } })
    const all = (name: string) =>
      [
        db.insertInto('person').values({ name, age: 1 }),
        CompiledQuery.raw('select * from person where id = $1', [1]),
      ] as const
    await db.batch(all('x'))
    await widen()
    const [, seen] = await db.batch(all('y'))
    expect(seen.rows).toMatchObject([{ name: 'ada', extra: 5 }])
    expect(await place.names()).toEqual([...everyone, 'x', 'y'])
  })

  test('after DEALLOCATE ALL (26000) so is it', async () => {
    const { db } = place.openOne({ statements: { prepare: 'always' } })
    await db.connection().execute(async (one) => {
      await one.batch(inserts(one, ['x', 'y']))
      await run(one, 'deallocate all')
      expect(await one.batch(inserts(one, ['z', 'w']))).toHaveLength(2)
    })
    expect(await place.names()).toEqual([...everyone, 'x', 'y', 'z', 'w'])
  })

  test('in a transaction of the caller fails it, and the next is well', async () => {
    const { db } = place.openOne({ statements: { prepare: 'always' } })
    const work = (name: string): Promise<unknown> =>
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values({ name, age: 1 }).execute()
        await trx.batch([CompiledQuery.raw('select * from person where id = $1', [1])])
      })
    await work('x')
    await widen()
    expect(await batchFailure(work('y'))).toMatchObject({ index: 0, cause: { code: '0A000' } })
    await work('z')
    expect(await place.names()).toEqual([...everyone, 'x', 'z'])
  })
})

describe('a batch and its connection', () => {
  test('that died while it was idle: it is sent on another, or told that it was not executed', async () => {
    for (let round = 0; round < 5; round++) {
      const { db } = place.openOne()
      await terminate(place.url, await pidOf(db))
      const told = await db.batch(inserts(db, [`r${round}`])).then(
        () => 'kept',
        () => 'failed',
      )
      const names = await place.names()
      expect(names.includes(`r${round}`)).toBe(told === 'kept')
    }
  })

  test('that died under db.connection() is not replaced by one that is not his', async () => {
    await place.ask('create schema if not exists abroad; create table if not exists abroad.person (name text, age int)')
    const { db } = place.openOne()
    await db.connection().execute(async (one) => {
      await run(one, 'set search_path to abroad')
      const pid = await pidOf(one)
      await terminate(place.url, pid)
      // Its end has been read when this has failed.
      await failureOf(run(one, 'select 1'))
      await batchFailure(one.batch([one.insertInto('person').values(dora), one.insertInto('person').values(ben)]))
    })
    expect(await place.names()).toEqual(everyone)
    await place.ask('drop schema abroad cascade')
  })

  test('that dies in the middle: the query is named, nothing is kept, and none behind it was executed', async () => {
    await place.ask('drop sequence if exists witness; create sequence witness')
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table pet')
    const whole = batchFailure(
      db.batch([
        db.insertInto('person').values(dora),
        db.selectFrom('pet').selectAll(),
        sql`select nextval('witness')`,
      ]),
    )
    await terminate(place.url, await waitsForLock(place.url, applicationName))
    expect(await whole).toMatchObject({ index: 1, phase: 'execute' })
    await holder.query('rollback')
    expect(await place.names()).toEqual(everyone)
    expect(await place.ask("select nextval('witness')::int as n")).toEqual([{ n: 1 }])
    expect(await db.batch(inserts(db, ['x']))).toEqual([[{ name: 'x', age: 0 }]])
  })

  test('is clean for the next, whatever a batch was told', async () => {
    const { db, applicationName } = place.openOne()
    for (const query of [sql`select 1`, sql`select 1/0`, sql`set work_mem to '1MB'`]) {
      await db.batch([query, query]).catch(() => undefined)
      expect(await rowOf(db, 'select pg_current_xact_id_if_assigned() is null as none')).toEqual({ none: true })
      expect(await rowOf(db, "select current_setting('work_mem') <> '1MB' as fresh")).toEqual({ fresh: true })
    }
    expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
  })
})

describe('who does not wait', () => {
  test('for a batch in his transaction finds it kept or not, and is told the truth', async () => {
    const { db } = place.openOne()
    let told = 'nothing'
    await db.transaction().execute(async (trx) => {
      await trx.selectFrom('person').select('id').execute()
      const unawaited = trx.batch(inserts(trx, ['x', 'y']))
      void unawaited.then(
        () => (told = 'kept'),
        () => (told = 'refused'),
      )
      // So far that it has been handed to the connection.
      await new Promise((resolve) => setImmediate(resolve))
    })
    await pidOf(db)
    expect(told).toBe((await place.names()).includes('y') ? 'kept' : 'refused')
  })

  test('and aborts between BEGIN and the first byte leaves his session outside of a transaction', async () => {
    const reason = new Error('the user went away')
    const abort = new AbortController()
    const { db } = place.openOne(
      {},
      { log: ({ query }) => void (query.sql === 'begin' && !abort.signal.aborted && abort.abort(reason)) },
    )
    await db.connection().execute(async (one) => {
      await run(one, 'select 1')
      const failure = await failureOf(one.batch(inserts(one, ['x', 'y']), { signal: abort.signal }))
      expect([failure, failure.cause]).toContain(reason)
      await one.insertInto('person').values(dora).execute()
    })
    expect(await place.names()).toEqual([...everyone, 'dora'])
  })

  test('and aborts while it runs: the server is asked to stop, and nothing is kept', async () => {
    const reason = new Error('the user went away')
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table pet')
    const abort = new AbortController()
    const queries = [db.insertInto('person').values(dora), db.selectFrom('pet').selectAll(), sql`select 1`]
    const whole = failureOf(db.batch(queries, { signal: abort.signal }))
    await waitsForLock(place.url, applicationName)
    abort.abort(reason)
    const failure = await whole
    expect([failure, failure.cause]).toContain(reason)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    await holder.query('rollback')
    expect(await place.names()).toEqual(everyone)
  })
})

describe('what is told of a batch', () => {
  test('the log shows begin, each query and commit once, also when it comes first in a transaction', async () => {
    const { log, texts } = newLog()
    const { db } = place.openOne({}, { log })
    await db.batch([sql`select 1`, sql`select 2`])
    await db.transaction().execute((trx) => trx.batch([sql`select 3`, sql`select 4`]))
    expect(texts()).toEqual(['begin', 'select 1', 'select 2', 'commit', 'begin', 'select 3', 'select 4', 'commit'])
  })

  test('the log shows of a failed one who failed, and who was not executed because of that', async () => {
    const { log, entries } = newLog()
    const { db } = place.openOne({}, { log })
    await batchFailure(db.batch([sql`select 1`, sql`select 1/0`, sql`select 3`]))
    const seen = entries.map(({ level, query, ...rest }) => [
      query.sql,
      level === 'error' ? (rest as { error: { code?: string } }).error.code : 'ok',
    ])
    expect(seen).toEqual(
      asOne
        ? [
            ['begin', 'ok'],
            ['select 1', 'ok'],
            ['select 1/0', '22012'],
            ['select 3', 'SMARTPG_NOT_EXECUTED'],
            ['commit', 'SMARTPG_NOT_EXECUTED'],
            ['rollback', 'ok'],
          ]
        : [
            ['begin', 'ok'],
            ['select 1', 'ok'],
            ['select 1/0', '22012'],
            ['rollback', 'ok'],
          ],
    )
  })

  test('the metrics count batches by how they ended, and their sizes', async () => {
    const { db, dialect } = place.openOne({ metrics: { registry: new Registry() } })
    await db.batch(inserts(db, ['x', 'y', 'z']))
    await db.transaction().execute((trx) => trx.batch(inserts(trx, ['u', 'v'])))
    await batchFailure(db.batch([sql`select 1`, sql`select 1/0`]))
    const text = await dialect.metricsText()
    const value = (pattern: RegExp): number => Number(pattern.exec(text)?.[1])
    expect(value(/batches_total\{[^}]*strategy="transactional"[^}]*result="ok"[^}]*\} (\d+)/)).toBe(2)
    expect(value(/batches_total\{[^}]*strategy="transactional"[^}]*result="failed"[^}]*\} (\d+)/)).toBe(1)
    expect(value(/batch_size_sum\{[^}]*\} (\d+)/)).toBe(7)
    expect(value(/batch_size_count\{[^}]*\} (\d+)/)).toBe(3)
  })
})
