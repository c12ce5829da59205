// `db.onPrimary()` and `db.onReplica()`: what a caller says about where his statements run arrives there, whatever stands
// between him and the connection, and cannot send a write where it does not belong.

import { CamelCasePlugin, DummyDriver, Kysely, OperationNodeTransformer, PostgresAdapter, sql } from 'kysely'
import { PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import type { Dialect, KyselyPlugin } from 'kysely'
import { beforeAll, describe, expect, test } from 'vitest'
import { ConfigError, NotExecutedError, batch, onPrimary, onReplica, withTimeout } from '../../src/index.ts'
import type { ReadOnlyKysely, SmartPgDialect } from '../../src/index.ts'
import { failureOf, hasReplicas, inDatabase, newLog, takesSignals } from './support.ts'
import type { Opened, Tables } from './support.ts'

const place = inDatabase()

/** Declared as nothing, so that nobody knows what they do. */
const FUNCTIONS = `
  create function unknown_read() returns bool language sql as $$ select pg_is_in_recovery() $$;
  create function unknown_write() returns int language sql as
    $$ insert into person (name) values ('made ' || clock_timestamp()) returning id $$;`
beforeAll(() => place.ask(FUNCTIONS))

/** Builds every node of a query anew: whoever recognises a query by its nodes does not find it again. */
const rebuilding: KyselyPlugin = {
  transformQuery: ({ node }) => structuredClone(new OperationNodeTransformer().transformNode(node)),
  transformResult: async ({ result }) => result,
}

/** `replica (hint)`: where the statements of a dialect ran, and why. */
function watch(dialect: SmartPgDialect): { ran: string[] } & Disposable {
  const ran: string[] = []
  const listening = dialect.on('query', ({ role, reason }) => void ran.push(`${role} (${reason})`))
  return { ran, [Symbol.dispose]: () => listening[Symbol.dispose]() }
}

/** Two replicas that can be asked for by name and by tags. */
function openNamed(routing = {}): Promise<Opened> {
  const [big, small] = place.replicaUrls
  return place.openWithReplicas({
    replicas: [
      { connectionString: big, name: 'big', tags: ['reports', 'all'] },
      { connectionString: small ?? big, name: 'small', tags: ['all'] },
    ],
    routing,
  })
}

/** It belongs on the primary unless somebody vouches for it, and says where it ran. */
const STANDBY = sql<{ standby: boolean }>`select pg_is_in_recovery() as standby`
async function ranOnStandby(db: ReadOnlyKysely<Tables>): Promise<boolean> {
  const { rows } = await STANDBY.execute(db)
  return rows[0]!.standby
}

const people = (db: ReadOnlyKysely<Tables>) => db.selectFrom('person').select('id').where('id', '=', 1)
const writing = (db: ReadOnlyKysely<Tables>): Kysely<Tables> => db as Kysely<Tables>

describe.skipIf(!hasReplicas)('with replicas (there are none when TEST_DATABASE_URL names one server)', () => {
  test('onPrimary keeps on the primary what a replica would take', async () => {
    const { db, dialect } = await place.openWithReplicas()
    using watched = watch(dialect)
    await people(db).execute()
    await people(db.onPrimary()).execute()
    expect(watched.ran).toEqual(['replica (read)', 'primary (hint)'])
  })

  test('onReplica sends to a replica what nobody but its caller can vouch for', async () => {
    const { db } = await place.openWithReplicas()
    expect(await ranOnStandby(db)).toBe(false)
    expect(await ranOnStandby(db.onReplica())).toBe(true)
    const unknown = await sql<{ standby: boolean }>`select unknown_read() as standby`.execute(db.onReplica())
    expect(unknown.rows).toEqual([{ standby: true }])
    const shown = await sql`show transaction_read_only`.execute(db.onReplica())
    expect(shown.rows).toEqual([{ transaction_read_only: 'on' }])
    const senders = await sql`select from pg_stat_wal_receiver`.execute(db.onReplica())
    expect(senders.rows).toHaveLength(1)
  })

  test('a hint is heard through whatever Kysely makes of the Kysely that has it', async () => {
    const { db, dialect } = await place.openWithReplicas()
    for (const hint of HINTS) {
      const heard: [string, string[]][] = []
      for (const [way, through] of WAYS) {
        using watched = watch(dialect)
        await people(through(db, hint)).execute()
        heard.push([way, watched.ran])
      }
      expect(heard).toEqual(WAYS.map(([way]) => [way, [hint.ran]]))
    }
  })

  test('a hint is heard though Kysely logs, and the log sees the query once, as it is', async () => {
    const { log, texts } = newLog()
    const opened = place.open({ replicas: place.replicaUrls }, { log })
    await opened.dialect.ready()
    using watched = watch(opened.dialect)
    await people(opened.db.onReplica()).execute()
    await people(opened.db.onPrimary()).execute()
    expect(watched.ran).toEqual(['replica (hint)', 'primary (hint)'])
    expect(texts()).toEqual(Array(2).fill('select "id" from "person" where "id" = $1'))
  })

  test('the Kysely that a query is run by counts, not those that its parts were built with', async () => {
    const { db, dialect } = await place.openWithReplicas()
    using watched = watch(dialect)
    const primary = db.onPrimary()
    await db
      .with('one', () => people(primary))
      .selectFrom('one')
      .where('id', 'in', people(primary))
      .selectAll()
      .execute()
    await db.executeQuery(people(primary).compile())
    await primary.executeQuery(people(db).compile())
    await sql`select ${sql.ref('id')} from (${people(db)}) as p`.execute(primary)
    await db
      .onPrimary()
      .selectFrom('person')
      .$call((query) => query.select('id'))
      .execute()
    expect(watched.ran).toEqual([
      'replica (read)',
      'replica (read)',
      'primary (hint)',
      'primary (hint)',
      'primary (hint)',
    ])
  })

  test('a hint says nothing to queries of the Kysely that it was made from, nor to those under way beside it', async () => {
    const { db } = await place.openWithReplicas()
    const [beside, hinted, again] = await Promise.all([
      ranOnStandby(db),
      ranOnStandby(db.onReplica()),
      ranOnStandby(db),
    ])
    expect([beside, hinted, again]).toEqual([false, true, false])
  })

  test('streams run where the hint says', async () => {
    const { db } = await place.openWithReplicas()
    const query = (one: ReadOnlyKysely<Tables>) =>
      one.selectNoFrom(sql<boolean>`pg_is_in_recovery()`.as('standby')).stream()
    for await (const row of query(db)) expect(row).toEqual({ standby: false })
    for await (const row of query(db.onReplica())) expect(row).toEqual({ standby: true })
    for await (const row of people(db.onPrimary())
      .select(sql`pg_is_in_recovery()`.as('standby'))
      .stream()) {
      expect(row).toEqual({ id: 1, standby: false })
    }
  })

  test.skipIf(!takesSignals)('queries with a signal run there, too (Kysely 0.28 has no signals)', async () => {
    const { db, dialect } = await place.openWithReplicas()
    using watched = watch(dialect)
    const { signal } = new AbortController()
    await people(db.onPrimary()).execute({ signal })
    expect(watched.ran).toEqual(['primary (hint)'])
  })

  test('a connection of the caller’s own stays on the replica, for all that he says there are reads', async () => {
    const { db } = await place.openWithReplicas()
    const session = sql<{
      pid: number
      standby: boolean
    }>`select pg_backend_pid() as pid, pg_is_in_recovery() as standby`
    await db
      .onReplica()
      .connection()
      .execute(async (one) => {
        await session.execute(one)
        const [second] = (await session.execute(one)).rows
        const [third] = (await session.execute(one)).rows
        expect(second).toMatchObject({ standby: true })
        expect(third).toEqual(second)
        await people(one).execute()
        const refused = await failureOf(writing(one).deleteFrom('person').execute())
        expect(refused).toMatchObject({ code: 'SMARTPG_INVALID_QUERY' })
        expect((await session.execute(one)).rows).toEqual([second])
      })
  })

  test('of one query of a connection it is heard as well', async () => {
    const { db } = await place.openWithReplicas()
    await db.connection().execute(async (one) => {
      expect(await ranOnStandby(one.onReplica())).toBe(true)
      // What follows may be a write.
      expect(await ranOnStandby(one)).toBe(false)
    })
  })

  test('a batch runs where the hint says, in a transaction that on a replica only reads', async () => {
    const { db } = await place.openWithReplicas()
    const [read, standby] = await db.onReplica().batch([people(db), STANDBY])
    expect([read, standby.rows]).toEqual([[{ id: 1 }], [{ standby: true }]])
    const [elsewhere] = await batch(db.onPrimary(), [STANDBY])
    expect(elsewhere.rows).toEqual([{ standby: false }])
    const refused = await failureOf(writing(db.onReplica()).batch([people(db), db.deleteFrom('person')]))
    expect(refused).toMatchObject({ code: 'SMARTPG_BATCH', index: 1, cause: { code: '25006' } })
    expect(await place.names()).toHaveLength(3)
    const strict = await failureOf(db.onReplica().batch([people(db)], { isolationLevel: 'serializable' }))
    expect(strict).toMatchObject({ code: 'SMARTPG_BATCH', cause: { code: 'SMARTPG_INVALID_QUERY', phase: 'begin' } })
    // Nothing of all that has kept a connection.
    expect(await db.onReplica().batch([people(db)])).toEqual([[{ id: 1 }]])
  })

  test('a name asks for that replica, and tags for those that have all of them', async () => {
    const { db, dialect } = await openNamed()
    const nodes: string[] = []
    using _ = dialect.on('query', ({ node }) => void nodes.push(node))
    const asked = [
      { name: 'small' },
      { name: 'big' },
      { tags: ['reports'] },
      { tags: ['all', 'reports'] },
      { name: 'small', tags: ['all'] },
    ]
    for (const options of asked) await ranOnStandby(db.onReplica(options))
    expect(nodes).toEqual(['small', 'big', 'big', 'big', 'small'])
  })

  test('where no replica has them the primary answers, unless it may not', async () => {
    const open = await openNamed()
    expect(await ranOnStandby(open.db.onReplica({ tags: ['none'] }))).toBe(false)
    expect(await ranOnStandby(open.db.onReplica({ name: 'small', tags: ['reports'] }))).toBe(false)
    const strict = await openNamed({ fallbackToPrimary: false })
    const refused = await failureOf(ranOnStandby(strict.db.onReplica({ tags: ['none'] })))
    expect(refused).toBeInstanceOf(NotExecutedError)
  })

  test('a name that nobody has is refused with the names there are', async () => {
    const { db } = await openNamed()
    const refused = await failureOf(people(db.onReplica({ name: 'bigg' })).execute())
    expect(refused).toBeInstanceOf(ConfigError)
    expect(refused.message).toMatch(/onReplica.*name.*primary, big, small.*'bigg'/)
  })

  test('within a transaction a hint says nothing: all of it runs where it began', async () => {
    const { db } = await place.openWithReplicas()
    await db.transaction().execute(async (trx) => {
      expect(await ranOnStandby(trx.onReplica())).toBe(false)
      await writing(trx.onReplica()).insertInto('person').values({ name: 'dora' }).execute()
      expect(await people(onReplica(trx, { name: 'nobody' })).execute()).toEqual([{ id: 1 }])
    })
    expect(await place.names()).toContain('dora')
  })

  test('what a standby refuses runs on the primary, and from then on at once', async () => {
    const { db, dialect } = await place.openWithReplicas()
    const write = sql`select unknown_write()`
    const reruns: string[] = []
    using _ = dialect.on('rerun', ({ code }) => void reruns.push(String(code)))
    expect((await write.execute(db.onReplica())).rows).toHaveLength(1)
    expect((await write.execute(db.onReplica())).rows).toHaveLength(1)
    expect(reruns).toEqual(['25006'])
    expect(await place.names()).toHaveLength(5)
  })
})

interface Hint {
  readonly method: (db: Kysely<Tables>) => ReadOnlyKysely<Tables>
  readonly by: (db: Kysely<Tables>) => ReadOnlyKysely<Tables>
  readonly other: (db: Kysely<Tables>) => ReadOnlyKysely<Tables>
  readonly ran: string
}

const HINTS: Hint[] = [
  { method: (db) => db.onPrimary(), by: onPrimary, other: (db) => db.onReplica(), ran: 'primary (hint)' },
  { method: (db) => db.onReplica(), by: (db) => onReplica(db), other: (db) => db.onPrimary(), ran: 'replica (hint)' },
]

/** What may stand between the hint and the query. */
const WAYS: [string, (db: Kysely<Tables>, hint: Hint) => ReadOnlyKysely<Tables>][] = [
  ['the method', (db, { method }) => method(db)],
  ['the function', (db, { by }) => by(db)],
  ['a plugin before it', (db, { method }) => method(db.withPlugin(new CamelCasePlugin()))],
  ['a plugin behind it', (db, { method }) => method(db).withPlugin(new CamelCasePlugin())],
  ['a plugin that builds every node anew', (db, { method }) => method(db.withPlugin(rebuilding))],
  ['the same behind it', (db, { method }) => method(db).withPlugin(rebuilding)],
  ['withoutPlugins', (db, { method }) => method(db.withPlugin(new CamelCasePlugin())).withoutPlugins()],
  ['withSchema', (db, { method }) => method(db).withSchema('public')],
  ['withTimeout before it', (db, { method }) => method(db.withTimeout('10s'))],
  ['withTimeout behind it', (db, { method }) => method(db).withTimeout('10s')],
  ['the function withTimeout', (db, { method }) => withTimeout(method(db), '10s')],
  ['being said twice', (db, { by, method }) => by(writing(method(db)))],
  ['the other before it', (db, { other, method }) => method(writing(other(db)))],
]

describe('what onReplica never sends', () => {
  const writes: [string, (db: Kysely<Tables>) => Promise<unknown>][] = [
    [
      'INSERT person cannot run on a replica: write.',
      (db) => db.insertInto('person').values({ name: 'eve' }).execute(),
    ],
    ['DELETE person cannot run on a replica: write.', (db) => sql`delete from person where name = 'ada'`.execute(db)],
    ['SELECT person cannot run on a replica: locks rows.', (db) => people(db).forUpdate().execute()],
    ['CREATE TABLE made cannot run on a replica: ddl.', (db) => db.schema.createTable('made').execute()],
    ['SET cannot run on a replica: session.', (db) => sql`set search_path = 'app'`.execute(db)],
    ['BEGIN cannot run on a replica: transaction.', (db) => sql`begin`.execute(db)],
    [
      'SELECT cannot run on a replica: function stays on the primary.',
      (db) => sql`select pg_advisory_lock(1)`.execute(db),
    ],
  ]

  test('is what is known to write, to lock or to change its session; it says what, and why', async () => {
    const { db, dialect } = place.open({ replicas: place.replicaUrls })
    using watched = watch(dialect)
    for (const [message, write] of writes) {
      const error = await failureOf(write(writing(db.onReplica())))
      expect(error).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send', message })
      expect(error.hint).toContain('Nothing was sent.')
    }
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    // Nor does anything stay behind.
    expect(await people(db.onPrimary()).execute()).toEqual([{ id: 1 }])
    expect(watched.ran).toEqual(['primary (hint)'])
  })

  test.skipIf(!hasReplicas)('is what the catalog or the user knows of, whatever stands beside it', async () => {
    await place.ask('create or replace view locking as select pg_try_advisory_xact_lock(1) as got')
    const { db } = await place.openWithReplicas({ routing: { functions: { writing: ['unknown_read'] } } })
    const refused = [
      sql`select unknown_read()`,
      sql`select pg_try_advisory_xact_lock(1), unknown_write()`,
      sql`select unknown_write(), pg_try_advisory_xact_lock(1)`,
      sql`select got from locking`,
    ]
    for (const query of refused) {
      const error = await failureOf(query.execute(db.onReplica()))
      expect(error).toMatchObject({ code: 'SMARTPG_INVALID_QUERY' })
      expect(error.message).toContain('function stays on the primary')
    }
    expect(await sql`select unknown_write()`.execute(db.onReplica())).toMatchObject({ rows: [{}] })
  })

  test('a write that is streamed', async () => {
    const { db } = place.open({ replicas: place.replicaUrls })
    const stream = writing(db.onReplica()).deleteFrom('person').returning('id').stream()
    expect(await failureOf(stream.next())).toMatchObject({ code: 'SMARTPG_INVALID_QUERY' })
    expect(await place.names()).toHaveLength(3)
  })
})

describe('hints', () => {
  test('mean the primary where there are no replicas', async () => {
    const { db } = place.open()
    expect(await ranOnStandby(db.onReplica())).toBe(false)
    expect(await ranOnStandby(db.onPrimary())).toBe(false)
    const once = await db.onReplica().transaction().execute(ranOnStandby)
    expect(once).toBe(false)
  })

  test('that are wrong are refused at once, with what is right', () => {
    const { db } = place.open()
    for (const hinted of [db, db.onReplica(), db.onPrimary()]) {
      expect(() => hinted.onReplica({ maxlag: '5s' } as never)).toThrow(/onReplica\.maxlag.*'onReplica\.maxLag'/)
    }
    expect(() => onReplica(db, { maxLag: 'soon' })).toThrow(ConfigError)
  })

  test('on a Kysely of another dialect reject, instead of being lost', async () => {
    const other: Dialect = {
      createAdapter: () => new PostgresAdapter(),
      createDriver: () => new DummyDriver(),
      createIntrospector: (db) => new PostgresIntrospector(db),
      createQueryCompiler: () => new PostgresQueryCompiler(),
    }
    const db = new Kysely<Tables>({ dialect: other })
    for (const [hinted, name] of [
      [onPrimary(db), 'onPrimary'],
      [onReplica(db), 'onReplica'],
      [withTimeout(db, 1), 'withTimeout'],
    ] as const) {
      const refused = await failureOf(people(hinted).execute())
      expect(refused).toBeInstanceOf(ConfigError)
      expect(refused.message).toContain(`a Kysely marked with ${name}`)
    }
  })
})
