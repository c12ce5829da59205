// `db.batch([...])`: all of it or nothing, and for each query exactly what its own `.execute()` would have given.

import { CamelCasePlugin, CompiledQuery, Kysely, sql } from 'kysely'
import type { DatabaseConnection, Dialect, Driver, KyselyPlugin } from 'kysely'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { BatchError, batch, installBatch, isSmartPgError } from '../../src/index.ts'
import type { SmartPgDialect } from '../../src/index.ts'
import type { Tables } from './support.ts'
import { wire } from '../support/wire.ts'
import {
  backendsOf,
  failureOf,
  hasReplicas,
  inDatabase,
  newLog,
  ownPidOf,
  pidOf,
  rowOf,
  run,
  terminate,
  waitsForLock,
} from './support.ts'

const place = inDatabase()
const dora = { name: 'dora', age: 1 }
const ben = { name: 'ben', age: 2 }
const twin = { name: 'ada', age: 3 }

interface FailedBatch extends Error {
  readonly index: number | null
  readonly phase: string
  readonly cause: Error & { code?: string }
}
const batchFailure = async (promise: Promise<unknown>): Promise<FailedBatch> => {
  const failure = await failureOf(promise)
  expect(failure).toBeInstanceOf(BatchError)
  expect(isSmartPgError(failure, 'SMARTPG_BATCH')).toBe(true)
  return failure as unknown as FailedBatch
}

describe('a batch resolves with', () => {
  /** Queries of every kind; they change nothing that would change the others' answers, when run in this order. */
  const everyKind = (db: Kysely<Tables>) =>
    [
      db.selectFrom('person').selectAll().orderBy('id'),
      db.selectFrom('person').select('id').where('id', '<', 0),
      db.insertInto('person').values(dora),
      db
        .insertInto('person')
        .values([ben, { name: 'eve', age: 4 }])
        .returning(['name', 'age']),
      db.updateTable('person').set({ age: 7 }).where('name', '=', 'ben'),
      db.updateTable('person').set({ age: 8 }).where('name', '=', 'ben').returning('age'),
      db.deleteFrom('person').where('name', 'in', ['eve']),
      db.deleteFrom('person').where('name', '=', 'ben').returning('name'),
      db
        .with('them', (qb) => qb.selectFrom('person').select('name'))
        .selectFrom('them')
        .selectAll()
        .orderBy('name'),
      db
        .with('them', (qb) => qb.selectFrom('person').select('name'))
        .insertInto('pet')
        .values({ name: 'rex', owner_id: 1 }),
      db.selectNoFrom(sql<number>`1`.as('one')),
      sql<{ n: number }>`select ${2}::int as n`,
      sql`update person set age = 3 where id = 1`,
      CompiledQuery.raw('select $1::int as n', [3]),
      db.selectFrom('pet').select('name').compile(),
      db.deleteFrom('pet').compile(),
      db.schema.createTable('made').addColumn('id', 'integer'),
      db.schema.alterTable('made').addColumn('t', 'text'),
      db.schema.createIndex('made_t').on('made').column('t'),
      db.schema.createView('seen').as(db.selectFrom('person').select('name')),
      db.schema.dropView('seen'),
      db.schema.dropTable('made'),
    ] as const

  const merge = (db: Kysely<Tables>) =>
    db
      .mergeInto('person as p')
      .using('person as q', 'q.id', 'p.id')
      .whenMatchedAnd('p.name', '=', 'ada')
      .thenUpdateSet({ age: 9 })

  const expectTheSame = (together: readonly unknown[], alone: readonly unknown[]): void => {
    expect(together).toEqual(alone)
    // The same classes, not only the same fields.
    together.forEach((result, n) => {
      const one = Array.isArray(result) ? result[0] : result
      const other = Array.isArray(alone[n]) ? alone[n][0] : alone[n]
      expect(Object(one).constructor).toBe(Object(other).constructor)
    })
  }

  test('what each query’s own execute() resolves with, for every kind of query', async () => {
    const { db } = place.open()
    const alone: unknown[] = []
    for (const query of everyKind(db)) {
      if ('execute' in query) alone.push(await query.execute(db))
      else alone.push(await db.executeQuery(query))
    }
    await place.ask('truncate person, pet restart identity')
    await place.ask("insert into person (name, age) values ('ada', 36), ('bob', 20), ('cleo', null)")
    expectTheSame(await db.batch(everyKind(db)), alone)
  })

  test('what a merge’s own execute() resolves with', async (context) => {
    if ((await place.major()) < 15) context.skip('MERGE came with PostgreSQL 15')
    const { db } = place.open()
    expectTheSame(await db.batch([merge(db)]), [await merge(db).execute()])
  })

  test('what the own execute() of a merge with RETURNING resolves with', async (context) => {
    if ((await place.major()) < 17) context.skip('MERGE … RETURNING came with PostgreSQL 17')
    const { db } = place.open()
    expectTheSame(await db.batch([merge(db).returning('p.name')]), [await merge(db).returning('p.name').execute()])
  })

  test('an array of arrays for queries made in a loop', async () => {
    const { db } = place.open()
    const found = await db.batch([3, 1, 2].map((id) => db.selectFrom('person').select('name').where('id', '=', id)))
    expect(found).toEqual([[{ name: 'cleo' }], [{ name: 'ada' }], [{ name: 'bob' }]])
  })

  test('[] for no queries, without asking the server', async () => {
    const { db, applicationName } = place.open()
    expect(await db.batch([])).toEqual([])
    expect(await backendsOf(place.url, applicationName)).toEqual([])
  })

  test('a thousand answers in order for a thousand queries', async () => {
    const { db } = place.open()
    const numbers = Array.from({ length: 1000 }, (_, n) => n)
    const answers = await db.batch(numbers.map((n) => sql<{ n: number }>`select ${n}::int as n`))
    expect(answers.map(({ rows }) => rows[0]?.n)).toEqual(numbers)
  })

  test('answers that see what earlier queries of the batch wrote', async () => {
    const { db } = place.open()
    const [, seen] = await db.batch([
      db.insertInto('person').values(dora),
      db.selectFrom('person').select('age').where('name', '=', 'dora'),
    ])
    expect(seen).toEqual([{ age: 1 }])
  })
})

describe('a batch is one transaction', () => {
  test('on one session, which is clean afterwards', async () => {
    const { db, applicationName } = place.openOne()
    const which = sql<{ pid: number; xid: string }>`select pg_backend_pid() as pid, pg_current_xact_id()::text as xid`
    const [one, other] = await db.batch([which, which])
    expect(one.rows).toEqual(other.rows)
    expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
  })

  test('a query that fails is named by its index, phase and cause, and nothing is kept', async () => {
    const { db } = place.openOne()
    const failure = await batchFailure(
      db.batch([
        db.insertInto('person').values(dora),
        db.selectFrom('person').selectAll(),
        db.insertInto('person').values(twin),
        db.insertInto('person').values(ben),
      ]),
    )
    expect(failure).toMatchObject({ index: 2, phase: 'execute', cause: { code: '23505' } })
    expect(failure.message).toContain('query 2')
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('the error of a failed query is PostgreSQL’s own, and the stack names the caller', async () => {
    const { db } = place.open()
    const { cause, stack } = await batchFailure(db.batch([db.insertInto('person').values(twin)]))
    expect(cause).toMatchObject({ name: 'error', code: '23505', constraint: 'person_name_key' })
    expect(`${stack}\n${cause.stack}`).toContain('batch.test.ts')
  })

  test('a commit that fails has index null and phase commit, and nothing is kept', async () => {
    const { db } = place.openOne()
    const failure = await batchFailure(
      db.batch([db.insertInto('person').values(dora), db.insertInto('pet').values({ name: 'rex', owner_id: 999 })]),
    )
    expect(failure).toMatchObject({ index: null, phase: 'commit', cause: { code: '23503' } })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    expect(await db.selectFrom('pet').selectAll().execute()).toEqual([])
  })

  test('a value that cannot be serialized fails the batch at its index, and nothing is kept', async () => {
    const { db } = place.openOne()
    const thrown = new Error('no')
    const value = {
      toPostgres: () => {
        throw thrown
      },
    }
    const failure = await batchFailure(db.batch([db.insertInto('person').values(dora), sql`select ${value}::text`]))
    expect(failure).toMatchObject({ index: 1, cause: { code: 'SMARTPG_INVALID_QUERY', cause: thrown } })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('whose connection dies in the middle keeps nothing, and the next one works', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table pet')
    const whole = batchFailure(db.batch([db.insertInto('person').values(dora), db.selectFrom('pet').selectAll()]))
    await terminate(place.url, await waitsForLock(place.url, applicationName))
    expect(await whole).toMatchObject({ index: 1, phase: 'execute' })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    await holder.query('rollback')
    expect(await db.batch([db.selectFrom('person').select('id').where('id', '=', 1)])).toEqual([[{ id: 1 }]])
  })

  test('runs at the isolation level it asked for', async () => {
    const { db } = place.openOne()
    const look = sql<{ transaction_isolation: string }>`show transaction_isolation`
    const [seen] = await db.batch([look], { isolationLevel: 'serializable' })
    expect(seen.rows).toEqual([{ transaction_isolation: 'serializable' }])
    expect((await look.execute(db)).rows).toEqual([{ transaction_isolation: 'read committed' }])
  })

  test('two batches at once do not see each other’s halves', async () => {
    const { db } = place.open()
    await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        db.batch([
          db
            .updateTable('person')
            .set((eb) => ({ age: eb('age', '+', n) }))
            .where('id', '=', 1),
          db
            .updateTable('person')
            .set((eb) => ({ age: eb('age', '-', n) }))
            .where('id', '=', 2),
        ]),
      ),
    )
    expect(await place.ask('select sum(age)::int as sum from person')).toEqual([{ sum: 56 }])
  })

  test('what it sets for the session does not reach the next caller', async () => {
    const { db } = place.openOne()
    await db.batch([sql`set work_mem to '1MB'`, sql`create temp table mine (id int)`])
    expect(await rowOf(db, "select current_setting('work_mem') <> '1MB' as fresh, to_regclass('mine') as t")).toEqual({
      fresh: true,
      t: null,
    })
  })

  test.skipIf(!hasReplicas)('its reads see its own writes also with replicas', async () => {
    const { db } = await place.openWithReplicas()
    const [, [found]] = await db.batch([
      db.insertInto('person').values(dora),
      db.selectFrom('person').select('age').where('name', '=', 'dora'),
    ])
    expect(found).toEqual({ age: 1 })
  })
})

describe('a batch in a transaction', () => {
  test('is part of it: kept with it, gone with it', async () => {
    const { db } = place.openOne()
    await db.transaction().execute(async (trx) => {
      const pid = await pidOf(trx)
      const [, where] = await trx.batch([
        trx.insertInto('person').values(dora),
        sql<{ pid: number }>`select pg_backend_pid() as pid`,
      ])
      expect(where.rows).toEqual([{ pid }])
    })
    expect(await place.names()).toContain('dora')
    await db
      .transaction()
      .execute(async (trx) => {
        await trx.batch([trx.insertInto('person').values(ben)])
        throw new Error('mine')
      })
      .catch(() => undefined)
    expect(await place.names()).not.toContain('ben')
  })

  test('that fails rejects with the index and fails the transaction', async () => {
    const { db } = place.openOne()
    const failure = await batchFailure(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values(ben).execute()
        await trx.batch([trx.insertInto('person').values(dora), trx.insertInto('person').values(twin)])
      }),
    )
    expect(failure).toMatchObject({ index: 1, cause: { code: '23505' } })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('works in a controlled transaction, up to a savepoint and back', async () => {
    const { db } = place.openOne()
    const trx = await db.startTransaction().execute()
    await trx.batch([trx.insertInto('person').values(dora)])
    const inside = await trx.savepoint('here').execute()
    await batchFailure(
      inside.batch([inside.insertInto('person').values(ben), inside.insertInto('person').values(twin)]),
    )
    const back = await inside.rollbackToSavepoint('here').execute()
    expect(await back.batch([back.selectFrom('person').select('name').where('id', '>', 3)])).toEqual([
      [{ name: 'dora' }],
    ])
    await back.commit().execute()
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'dora'])
  })

  test('has no isolation level of its own', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db.transaction().execute((trx) => trx.batch([sql`select 1`], { isolationLevel: 'serializable' })),
    )
    expect(isSmartPgError(failure, 'SMARTPG_CONFIG')).toBe(true)
    expect(failure.message).toContain('isolationLevel')
  })

  test('in db.connection() is a transaction on that session', async () => {
    const { db } = place.openOne()
    await db.connection().execute(async (one) => {
      const pid = await ownPidOf(one)
      const [, where] = await one.batch([
        one.insertInto('person').values(dora),
        sql<{ pid: number }>`select pg_backend_pid() as pid`,
      ])
      expect(where.rows).toEqual([{ pid }])
      expect(await place.names()).toContain('dora')
      await batchFailure(one.batch([one.insertInto('person').values(ben), one.insertInto('person').values(twin)]))
      expect(await pidOf(one)).toBe(pid)
    })
    expect(await place.names()).not.toContain('ben')
  })

  test('begun by hand on db.connection() is part of that transaction', async () => {
    const { db } = place.openOne()
    await db.connection().execute(async (one) => {
      await run(one, 'begin')
      await one.batch([one.insertInto('person').values(dora)])
      await run(one, 'rollback')
    })
    expect(await place.names()).not.toContain('dora')
  })
})

describe('a batch and Kysely', () => {
  test('the log sees each query with its parameters, and the transaction around them', async () => {
    const { log, entries } = newLog()
    const { db } = place.open({}, { log })
    await db.batch([db.insertInto('person').values(dora), db.selectFrom('person').select('id')])
    await db.batch([db.insertInto('person').values(twin)]).catch(() => undefined)
    expect(entries.map(({ level, query }) => [level, query.sql, query.parameters])).toEqual([
      ['query', 'begin', []],
      ['query', 'insert into "person" ("name", "age") values ($1, $2)', ['dora', 1]],
      ['query', 'select "id" from "person"', []],
      ['query', 'commit', []],
      ['query', 'begin', []],
      ['error', 'insert into "person" ("name", "age") values ($1, $2)', ['ada', 3]],
      // In one write with what failed before it.
      ...(wire === 'native' ? [['error', 'commit', []]] : []),
      ['query', 'rollback', []],
    ])
  })

  test('plugins of the instance it is called on change the results, those of the builder the query', async () => {
    const { db: plain } = place.open()
    const camel = plain.withPlugin(new CamelCasePlugin())
    await plain.insertInto('pet').values({ name: 'rex', owner_id: 1 }).execute()
    const query = plain.selectFrom('pet').select('owner_id')
    expect(await plain.batch([query])).toEqual([[{ owner_id: 1 }]])
    expect(await camel.batch([query])).toEqual([[{ ownerId: 1 }]])
    expect(await camel.withoutPlugins().batch([query])).toEqual([[{ owner_id: 1 }]])
  })

  test('a plugin that pairs query and result by queryId finds each pair', async () => {
    const asked = new WeakMap<object, string>()
    const pairs: string[] = []
    const plugin: KyselyPlugin = {
      transformQuery: ({ node, queryId }) => {
        asked.set(queryId, node.kind)
        return node
      },
      transformResult: async ({ result, queryId }) => {
        pairs.push(asked.get(queryId) ?? 'unknown')
        return result
      },
    }
    const db = place.open().db.withPlugin(plugin)
    await db.batch([db.selectFrom('person').select('id'), db.insertInto('person').values(dora), sql`select 1`])
    expect(pairs).toEqual(['SelectQueryNode', 'InsertQueryNode', 'RawNode'])
  })

  test('a schema given by withSchema holds', async () => {
    await place.ask('create schema abroad; create table abroad.person (name text, age int)')
    const abroad = place.open().db.withSchema('abroad')
    const [, names] = await abroad.batch([
      abroad.insertInto('person').values(dora),
      abroad.selectFrom('person').select('name'),
    ])
    expect(names).toEqual([{ name: 'dora' }])
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    await place.ask('drop schema abroad cascade')
  })

  test('the function batch(db, …) does the same, in a transaction too', async () => {
    const { db } = place.open()
    const query = db.selectFrom('person').select('name').where('id', '=', 1)
    expect(await batch(db, [query])).toEqual([[{ name: 'ada' }]])
    await db.transaction().execute(async (trx) => {
      expect(await batch(trx, [trx.insertInto('person').values(dora).returning('name')])).toEqual([[{ name: 'dora' }]])
    })
    const failure = await batchFailure(batch(db, [db.insertInto('person').values(twin)]))
    expect(failure.index).toBe(0)
  })

  test('another copy of Kysely gets the method by installBatch, and one that has it keeps its own', () => {
    const other: { prototype: { batch?: unknown } } = { prototype: {} }
    installBatch(other)
    const { batch: installed } = other.prototype
    expect(installed).toBeTypeOf('function')
    installBatch(other)
    expect(other.prototype.batch).toBe(installed)
    expect(Object.keys(other.prototype)).toEqual([])
  })

  test('a batch on a transaction that has ended is refused', async () => {
    const { db } = place.openOne()
    const kept = await db.transaction().execute(async (trx) => trx)
    await expect(kept.batch([kept.insertInto('person').values(dora)])).rejects.toThrow()
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })
})

describe('a batch refuses before anything is sent', () => {
  test.for<[string, string]>([
    ['begin', 'transaction control'],
    ['COMMIT', 'transaction control'],
    ['rollback', 'transaction control'],
    ['/* harmless */ end', 'transaction control'],
    ['savepoint a', 'transaction control'],
    ["prepare transaction 'x'", 'transaction control'],
    ['select 1; select 2', 'several statements'],
    ['insert into person (name) values (1); commit', 'several statements'],
  ])('%s', async ([text, because]) => {
    const { log, texts } = newLog()
    const { db, applicationName } = place.open({ pool: { min: 0, initial: 0, minIdle: 0 } }, { log })
    const failure = await batchFailure(db.batch([db.insertInto('person').values(dora), CompiledQuery.raw(text)]))
    expect(failure).toMatchObject({ index: 1, phase: 'send', cause: { code: 'SMARTPG_INVALID_QUERY' } })
    expect(failure.message).toContain(because)
    expect(texts()).toEqual([])
    expect(await backendsOf(place.url, applicationName)).toEqual([])
  })

  test('several statements inside a builder', async () => {
    const { db } = place.openOne()
    const hidden = db.selectNoFrom(sql.raw<number>('1 as n; commit; select 2').as('x'))
    const failure = await batchFailure(
      db.batch([db.insertInto('person').values(dora), hidden, db.insertInto('person').values(twin)]),
    )
    expect(failure).toMatchObject({ index: 1, phase: 'send' })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test.for([
    ['a number', 1],
    ['null', null],
    ['a text', 'select 1'],
    ['an expression that is no query', sql`1`.as('one')],
    ['a promise', Promise.resolve([])],
  ])('%s', async ([, item]) => {
    const { db, applicationName } = place.open({ pool: { min: 0, initial: 0, minIdle: 0 } })
    const failure = await failureOf(db.batch([db.insertInto('person').values(dora), item as never]))
    expect(isSmartPgError(failure, 'SMARTPG_CONFIG')).toBe(true)
    expect(failure.message).toContain('batch[1]')
    expect(await backendsOf(place.url, applicationName)).toEqual([])
  })

  test.for([
    [{ isolationlevel: 'serializable' }, 'isolationlevel'],
    [{ strategy: 'best-effort' }, 'strategy'],
  ])('the option %j', async ([options, named]) => {
    const { db } = place.open()
    const failure = await failureOf(db.batch([sql`select 1`], options as never))
    expect(isSmartPgError(failure, 'SMARTPG_CONFIG')).toBe(true)
    expect(failure.message).toContain(named)
  })
})

describe('the signal of a batch', () => {
  const reason = new Error('the user went away')

  test('that has aborted already: nothing is sent', async () => {
    const { db } = place.open()
    const failure = await failureOf(
      db.batch([db.insertInto('person').values(dora)], { signal: AbortSignal.abort(reason) }),
    )
    expect([failure, failure.cause]).toContain(reason)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('ends a query that is running on the server, and nothing is kept', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table pet')
    const abort = new AbortController()
    const whole = failureOf(
      db.batch([db.insertInto('person').values(dora), db.selectFrom('pet').selectAll()], { signal: abort.signal }),
    )
    await waitsForLock(place.url, applicationName)
    abort.abort(reason)
    const failure = await whole
    expect([failure, failure.cause]).toContain(reason)
    // The lock is still held.
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
    await holder.query('rollback')
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('leaves the queue at once while it waits for a connection', { timeout: 5_000 }, async () => {
    const { db, applicationName } = place.openOne({ pool: { acquireTimeout: '10min' } })
    const holder = await place.stranger()
    await holder.query('begin; lock table pet')
    const first = db.selectFrom('pet').selectAll().execute()
    await waitsForLock(place.url, applicationName)
    const abort = new AbortController()
    const whole = failureOf(db.batch([db.insertInto('person').values(dora)], { signal: abort.signal }))
    abort.abort(reason)
    const failure = await whole
    expect([failure, failure.cause]).toContain(reason)
    await holder.query('rollback')
    await first
    await pidOf(db)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })
})

/** What a tracing dialect does: a connection that shows Kysely's own methods of ours, and no more. */
function wrapped(dialect: SmartPgDialect): Dialect {
  const connections = new WeakMap<DatabaseConnection, DatabaseConnection>()
  const cover = (connection: DatabaseConnection): DatabaseConnection => {
    const covered: DatabaseConnection = {
      executeQuery: (query, ...rest) => connection.executeQuery(query, ...rest),
      streamQuery: (query, ...rest) => connection.streamQuery(query, ...rest),
    }
    connections.set(covered, connection)
    return covered
  }
  return {
    createAdapter: () => dialect.createAdapter(),
    createQueryCompiler: () => dialect.createQueryCompiler(),
    createIntrospector: (db) => dialect.createIntrospector(db),
    createDriver: (): Driver => {
      const inner = dialect.createDriver()
      const uncover = (covered: DatabaseConnection): DatabaseConnection => connections.get(covered)!
      return {
        init: () => inner.init(),
        acquireConnection: async () => cover(await inner.acquireConnection()),
        beginTransaction: (connection, settings) => inner.beginTransaction(uncover(connection), settings),
        commitTransaction: (connection) => inner.commitTransaction(uncover(connection)),
        rollbackTransaction: (connection) => inner.rollbackTransaction(uncover(connection)),
        releaseConnection: (connection) => inner.releaseConnection(uncover(connection)),
        destroy: () => inner.destroy(),
      }
    },
  }
}

describe('a dialect wrapped by another', () => {
  const warnings: Error[] = []
  const remember = (warning: Error): void => void warnings.push(warning)
  beforeEach(() => void process.on('warning', remember))
  afterEach(() => {
    process.off('warning', remember)
    warnings.length = 0
  })
  const openWrapped = (): Kysely<Tables> => new Kysely<Tables>({ dialect: wrapped(place.openOne().dialect) })

  test('sends the queries one after the other in a transaction, and says so once', async () => {
    const db = openWrapped()
    for (let round = 0; round < 3; round++) {
      const [one, other] = await db.batch([
        sql<{ xid: string }>`select pg_current_xact_id()::text as xid`,
        sql<{ xid: string }>`select pg_current_xact_id()::text as xid`,
      ])
      expect(one.rows).toEqual(other.rows)
    }
    const [made] = await db.batch([db.insertInto('person').values(dora).returning('name')], {
      isolationLevel: 'serializable',
    })
    expect(made).toEqual([{ name: 'dora' }])
    await new Promise((resolve) => setImmediate(resolve))
    const told = warnings.filter((warning) => (warning as { code?: string }).code === 'SMARTPG_BATCH_WRAPPED')
    expect(told).toHaveLength(1)
    await db.destroy()
  })

  test('keeps nothing of a batch that fails, and names the query', async () => {
    const db = openWrapped()
    const failure = await batchFailure(
      db.batch([db.insertInto('person').values(dora), db.insertInto('person').values(twin)]),
    )
    expect(failure).toMatchObject({ index: 1, cause: { code: '23505' } })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    await db.destroy()
  })

  test('tells a failed commit as such', async () => {
    const db = openWrapped()
    const failure = await batchFailure(db.batch([db.insertInto('pet').values({ name: 'rex', owner_id: 999 })]))
    expect(failure).toMatchObject({ index: null, phase: 'commit', cause: { code: '23503' } })
    expect(await db.selectFrom('pet').selectAll().execute()).toEqual([])
    await db.destroy()
  })

  test('refuses transaction control as ever', async () => {
    const db = openWrapped()
    const failure = await batchFailure(
      db.batch([db.insertInto('person').values(dora), sql`commit`, db.insertInto('person').values(twin)]),
    )
    expect(failure).toMatchObject({ index: 1, phase: 'send' })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    await db.destroy()
  })

  test('in a transaction is part of it', async () => {
    const db = openWrapped()
    await db
      .transaction()
      .execute(async (trx) => {
        await trx.batch([trx.insertInto('person').values(dora)])
        throw new Error('mine')
      })
      .catch(() => undefined)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    await db.destroy()
  })
})
