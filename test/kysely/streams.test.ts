// Streams: rows come in the chunks that were asked for, the server does no more than was read, and the
// connection is free and clean however the stream ends.

import { CompiledQuery, sql } from 'kysely'
import type { Kysely } from 'kysely'
import { describe, expect, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import type { Tables } from './support.ts'
import {
  backendsOf,
  failureOf,
  hasReplicas,
  inDatabase,
  ownPidOf,
  pidOf,
  rowOf,
  run,
  takesSignals,
  terminate,
  waitsForLock,
} from './support.ts'

const place = inDatabase()

/** The numbers from 1 to `count`, as a builder streams them. */
const numbers = (db: Kysely<Tables>, count: number) =>
  db.selectFrom(sql<{ n: number }>`generate_series(1, ${sql.lit(count)})`.as<'g'>(sql`g(n)`)).select('g.n')

/** Reads a stream chunk by chunk, as Kysely hands them on. */
function chunksOf(
  db: Kysely<Tables>,
  query: CompiledQuery,
  chunkSize: number,
): AsyncIterableIterator<{ rows: unknown[] }> {
  return db.getExecutor().stream(query, chunkSize)
}

const raw = (text: string, parameters: unknown[] = []): CompiledQuery => CompiledQuery.raw(text, parameters)

describe('a stream', () => {
  test('yields every row once and in order', async () => {
    const { db } = place.open()
    const seen: number[] = []
    for await (const { n } of numbers(db, 250).stream(100)) seen.push(n)
    expect(seen).toEqual(Array.from({ length: 250 }, (_, i) => i + 1))
  })

  test('yields nothing for no rows', async () => {
    const { db } = place.open()
    for await (const row of db.selectFrom('person').selectAll().where('id', '<', 0).stream())
      expect.unreachable(JSON.stringify(row))
  })

  test.for([
    [3, [3, 3, 3, 1]],
    [5, [5, 5]],
    [10, [10]],
    [100, [10]],
  ] as const)('in chunks of %i hands on %j rows of ten', async ([chunkSize, sizes]) => {
    const { db } = place.open()
    const seen: number[] = []
    for await (const { rows } of chunksOf(db, numbers(db, 10).compile(), chunkSize)) seen.push(rows.length)
    expect(seen).toEqual(sizes)
  })

  test('lets the server do no more than what was read', async () => {
    await place.ask('create sequence if not exists steps; alter sequence steps restart')
    const { db } = place.open()
    for await (const { rows } of chunksOf(db, raw("select nextval('steps') from generate_series(1, 10000)"), 10)) {
      expect(rows).toHaveLength(10)
      break
    }
    const [{ n }] = (await place.ask<{ n: number }>('select last_value::int as n from steps')) as [{ n: number }]
    expect(n).toBeGreaterThanOrEqual(10)
    expect(n).toBeLessThan(100)
  })

  test.for([0, -1, 1.5, Number.NaN])('refuses a chunk size of %d and keeps no connection', async (chunkSize) => {
    const { db } = place.openOne()
    const failure = await failureOf(chunksOf(db, numbers(db, 10).compile(), chunkSize).next())
    expect(isSmartPgError(failure)).toBe(true)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('that ends early closes its portal and frees its connection for the next caller', async () => {
    const { db, applicationName } = place.openOne()
    for await (const row of numbers(db, 1000).stream(10)) {
      expect(row).toEqual({ n: 1 })
      break
    }
    expect(await rowOf(db, "select count(*)::int as open from pg_cursors where name <> ''")).toEqual({ open: 0 })
    expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
  })

  test('that is thrown out of ends with that error and frees its connection', async () => {
    const { db } = place.openOne()
    const own = new Error('mine')
    const reading = async (): Promise<void> => {
      for await (const row of numbers(db, 1000).stream(10)) {
        expect(row).toEqual({ n: 1 })
        throw own
      }
    }
    expect(await failureOf(reading())).toBe(own)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('that was never read holds no connection', async () => {
    const { db } = place.openOne()
    const unread = numbers(db, 10).stream(2)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    await unread.return?.()
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('that fails in the middle has handed on what came before, then rejects with the server’s error', async () => {
    const { db } = place.openOne()
    const seen: unknown[] = []
    const reading = async (): Promise<void> => {
      const text = 'select 10 / (6 - n) as q from generate_series(1, 10) n'
      for await (const { rows } of chunksOf(db, raw(text), 2)) seen.push(...rows)
    }
    expect(await failureOf(reading())).toMatchObject({ code: '22012', name: 'error' })
    expect(seen).toHaveLength(4)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('of a text that cannot be parsed rejects and frees its connection', async () => {
    const { db } = place.openOne()
    expect(await failureOf(chunksOf(db, raw('selekt 1'), 2).next())).toMatchObject({ code: '42601' })
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('whose connection dies rejects, and the place in the pool is free again', async () => {
    const { db } = place.openOne()
    for (let round = 0; round < 3; round++) {
      let rows = 0
      const reading = async (): Promise<void> => {
        const text = 'select n, pg_backend_pid() as pid from generate_series(1, 100) n'
        for await (const chunk of chunksOf(db, raw(text), 10)) {
          rows += chunk.rows.length
          await terminate(place.url, (chunk.rows[0] as { pid: number }).pid)
        }
      }
      expect(await failureOf(reading())).toBeInstanceOf(Error)
      expect(rows).toBe(10)
    }
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('whose connection dies while the server works rejects at once', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table person')
    const first = failureOf(db.selectFrom('person').selectAll().stream().next())
    await terminate(place.url, await waitsForLock(place.url, applicationName))
    // A read that has handed on nothing may be tried again elsewhere; then it waits for the lock as before.
    await holder.query('rollback')
    expect(await first).toBeInstanceOf(Error)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('of parameters and a row that cannot be parsed rejects with what the parser threw', async () => {
    const thrown = new Error('no such animal')
    const { db } = place.openOne({
      types: {
        getTypeParser: () => () => {
          throw thrown
        },
      },
    })
    const failure = await failureOf(chunksOf(db, raw('select $1::int as n', [1]), 2).next())
    expect([failure, failure.cause]).toContain(thrown)
    await run(db, 'insert into person (name) values ($1)', ['dora'])
    expect(await place.names()).toContain('dora')
  })
})

describe('a stream that writes', () => {
  test('INSERT … RETURNING yields its rows and keeps them', async () => {
    const { db } = place.openOne()
    const names = ['dora', 'emil', 'fay', 'gus', 'hal']
    const seen: string[] = []
    const insert = db.insertInto('person').values(names.map((name) => ({ name, age: 1 })))
    for await (const { name } of insert.returning('name').stream(2)) seen.push(name)
    expect(seen).toEqual(names)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', ...names])
  })

  test('UPDATE and DELETE … RETURNING do, too', async () => {
    const { db } = place.openOne()
    const ages: (number | null)[] = []
    for await (const { age } of db.updateTable('person').set({ age: 50 }).returning('age').stream(2)) ages.push(age)
    expect(ages).toEqual([50, 50, 50])
    const gone: string[] = []
    for await (const { name } of db.deleteFrom('person').returning('name').stream(2)) gone.push(name)
    expect(gone).toHaveLength(3)
    expect(await place.names()).toEqual([])
  })

  test('has written all of it also when its reader stops early', async () => {
    const { db } = place.openOne()
    const insert = db.insertInto('person').values(['dora', 'emil', 'fay'].map((name) => ({ name, age: 1 })))
    for await (const row of insert.returning('name').stream(1)) {
      expect(row).toEqual({ name: 'dora' })
      break
    }
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'dora', 'emil', 'fay'])
  })

  test('keeps nothing when it fails', async () => {
    const { db } = place.openOne()
    const insert = db.insertInto('person').values(['dora', 'ada'].map((name) => ({ name, age: 1 })))
    expect(await failureOf(insert.returning('name').stream(1).next())).toMatchObject({ code: '23505' })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('whose COMMIT fails by a deferred constraint rejects instead of ending as if it were kept', async () => {
    const { db } = place.openOne()
    const reading = async (): Promise<void> => {
      const insert = db.insertInto('pet').values({ name: 'rex', owner_id: 999 })
      for await (const { name } of insert.returning('name').stream()) expect(name).toBe('rex')
    }
    expect(await failureOf(reading())).toMatchObject({ code: '23503' })
    expect(await db.selectFrom('pet').select('id').execute()).toEqual([])
  })

  test('whose COMMIT fails rejects also when its reader has stopped early', async () => {
    const { db } = place.openOne()
    const reading = async (): Promise<void> => {
      const pets = ['rex', 'tom'].map((name) => ({ name, owner_id: 999 }))
      for await (const { name } of db.insertInto('pet').values(pets).returning('name').stream(1)) {
        expect(name).toBe('rex')
        break
      }
    }
    expect(await failureOf(reading())).toMatchObject({ code: '23503' })
    expect(await db.selectFrom('pet').select('id').execute()).toEqual([])
  })
})

describe('a stream in a transaction', () => {
  test('sees what the transaction has written', async () => {
    const { db } = place.openOne()
    await db.transaction().execute(async (trx) => {
      await trx.insertInto('person').values({ name: 'dora', age: 1 }).execute()
      const seen: string[] = []
      for await (const { name } of trx.selectFrom('person').select('name').orderBy('id').stream(1)) seen.push(name)
      expect(seen).toEqual(['ada', 'bob', 'cleo', 'dora'])
    })
    expect(await place.names()).toContain('dora')
  })

  test('that ends early leaves the transaction open and the portal closed', async () => {
    const { db } = place.openOne()
    await db.transaction().execute(async (trx) => {
      await trx.insertInto('person').values({ name: 'dora', age: 1 }).execute()
      for await (const row of numbers(trx, 1000).stream(10)) {
        expect(row).toEqual({ n: 1 })
        break
      }
      expect(await rowOf(trx, "select count(*)::int as open from pg_cursors where name <> ''")).toEqual({ open: 0 })
      await trx.insertInto('person').values({ name: 'emil', age: 1 }).execute()
    })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'dora', 'emil'])
  })

  test('that fails fails the transaction', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values({ name: 'dora', age: 1 }).execute()
        for await (const chunk of chunksOf(trx, raw('select 1/0'), 1)) expect.unreachable(JSON.stringify(chunk))
      }),
    )
    expect(failure).toMatchObject({ code: '22012' })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('holds one session with db.connection(), as well', async () => {
    const { db } = place.open()
    await db.connection().execute(async (one) => {
      const pid = await ownPidOf(one)
      for await (const { rows } of chunksOf(one, raw('select pg_backend_pid() as pid'), 1))
        expect(rows).toEqual([{ pid }])
      expect(await pidOf(one)).toBe(pid)
    })
  })
})

describe('a stream and others', () => {
  test('does not hold up those who use other connections', async () => {
    const { db } = place.open()
    const stream = numbers(db, 1000).stream(10)
    await stream.next()
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    await stream.return?.()
  })

  test.skipIf(!hasReplicas)('of a plain read runs on a replica in a transaction that cannot write', async () => {
    const { db, applicationName } = await place.openWithReplicas()
    const stream = db
      .selectFrom('person')
      .select(['name', sql.lit('streamed').as('marker')])
      .orderBy('id')
      .stream(1)
    expect((await stream.next()).value).toMatchObject({ name: 'ada' })
    const there = await Promise.all(place.replicaUrls.map((url) => backendsOf(url, applicationName)))
    expect(
      there.flat().filter(({ state, query }) => state === 'idle in transaction' && query.includes('streamed')),
    ).toHaveLength(1)
    await stream.return?.()
  })

  test.skipIf(!takesSignals)(
    'stops when its signal aborts, and its connection is free again (Kysely 0.28 has no signals)',
    async () => {
      const { db, applicationName } = place.openOne()
      const abort = new AbortController()
      const reason = new Error('enough')
      const reading = async (): Promise<void> => {
        for await (const { n } of numbers(db, 1000).stream({ chunkSize: 10, signal: abort.signal })) {
          if (n === 15) abort.abort(reason)
        }
      }
      expect(await failureOf(reading())).toBe(reason)
      await pidOf(db)
      expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
    },
  )
})
