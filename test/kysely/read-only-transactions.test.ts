// Transactions that only read: where they run, what stays together, and what hints make of them. The simplest ones stand
// in transactions.test.ts.

import { sql } from 'kysely'
import type { Kysely, Transaction } from 'kysely'
import { describe, expect, test } from 'vitest'
import { retryTransaction } from '../../src/index.ts'
import type { ReadOnlyKysely } from '../../src/index.ts'
import { failureOf, hasReplicas, inDatabase } from './support.ts'
import type { Tables } from './support.ts'

const place = inDatabase()

interface Session {
  readonly standby: boolean
  readonly pid: number
  readonly readonly: string
}

/** Where and how it runs, as the server says. */
async function sessionOf(db: ReadOnlyKysely<Tables>): Promise<Session> {
  const session = sql<Session>`
    select pg_is_in_recovery() as standby, pg_backend_pid() as pid,
      current_setting('transaction_read_only') as readonly`
  const { rows } = await session.execute(db)
  return rows[0]!
}

const readOnly = (db: Kysely<Tables>) => db.transaction().setAccessMode('read only')
const writing = (db: ReadOnlyKysely<Tables>): Kysely<Tables> => db as Kysely<Tables>
const onStandby = { standby: true, readonly: 'on' }
const onPrimary = { standby: false, readonly: 'on' }

describe.skipIf(!hasReplicas)('a transaction that only reads', () => {
  test('stays on the session where it began, through errors that savepoints take back', async () => {
    const { db } = await place.openWithReplicas()
    const trx = await db.startTransaction().setAccessMode('read only').execute()
    const first = await sessionOf(trx)
    expect(first).toMatchObject(onStandby)
    const saved = await trx.savepoint('before').execute()
    await failureOf(sql`select 1 / 0`.execute(saved))
    await saved.rollbackToSavepoint('before').execute()
    expect(await sessionOf(saved)).toEqual(first)
    await trx.commit().execute()
  })

  test('cannot write: the server says so, and nobody tries it elsewhere', async () => {
    const { db, dialect } = await place.openWithReplicas()
    const again: string[] = []
    using _ = dialect.on('retry', ({ because }) => void again.push(because))
    using __ = dialect.on('rerun', ({ summary }) => void again.push(summary))
    const late = readOnly(db).execute(async (trx) => {
      await sessionOf(trx)
      await trx.deleteFrom('person').execute()
    })
    expect(await failureOf(late)).toMatchObject({ code: '25006' })
    expect(again).toEqual([])
    expect(await place.names()).toHaveLength(3)
  })

  test('shows what this process wrote before, wherever it runs', async () => {
    const { db } = await place.openWithReplicas()
    for (let n = 0; n < 50; n++) {
      const name = `person ${n}`
      await db.insertInto('person').values({ name }).execute()
      const found = await readOnly(db).execute((trx) =>
        trx.selectFrom('person').select('name').where('name', '=', name).execute(),
      )
      expect(found).toEqual([{ name }])
    }
  })

  test('runs on a replica by retryTransaction as well', async () => {
    const { db } = await place.openWithReplicas()
    expect(await retryTransaction(db, sessionOf, { accessMode: 'read only' })).toMatchObject(onStandby)
    expect(await retryTransaction(db.onPrimary(), sessionOf, { accessMode: 'read only' })).toMatchObject(onPrimary)
  })

  test.each<[string, Partial<Parameters<typeof place.openWithReplicas>[0]>]>([
    ['whose BEGIN rides along', {}],
    ['whose BEGIN is sent by itself', { transactions: { lazyBegin: false } }],
  ])('%s runs on the primary with onPrimary, which may also write', async (_, options) => {
    const { db } = await place.openWithReplicas(options)
    expect(await readOnly(db).execute(sessionOf)).toMatchObject(onStandby)
    expect(await readOnly(db.onPrimary()).execute(sessionOf)).toMatchObject(onPrimary)
    const controlled = await db.onPrimary().startTransaction().setAccessMode('read only').execute()
    expect(await sessionOf(controlled)).toMatchObject(onPrimary)
    await controlled.commit().execute()
    await db
      .onPrimary()
      .transaction()
      .execute((trx) => trx.insertInto('person').values({ name: 'dora' }).execute())
    expect(await place.names()).toContain('dora')
  })

  test.each<[string, Partial<Parameters<typeof place.openWithReplicas>[0]>]>([
    ['', {}],
    [', its BEGIN sent by itself', { transactions: { lazyBegin: false } }],
    [', though transactions are to stay on the primary', { routing: { readOnlyTransactions: false } }],
  ])('is what onReplica().transaction() begins, without being told%s', async (_, options) => {
    const { db } = await place.openWithReplicas(options)
    const replica = db.onReplica()
    expect(await replica.transaction().execute(sessionOf)).toMatchObject(onStandby)
    expect(await replica.transaction().setIsolationLevel('repeatable read').execute(sessionOf)).toMatchObject(onStandby)
    const controlled = await replica.startTransaction().execute()
    const first = await sessionOf(controlled)
    expect(first).toMatchObject(onStandby)
    expect(await sessionOf(controlled)).toEqual(first)
    await controlled.rollback().execute()
  })

  test('of onReplica cannot write either, and leaves a connection that works', async () => {
    const { db } = await place.openWithReplicas({ pool: { max: 1, initial: 1, min: 0, minIdle: 0 } })
    const write = db
      .onReplica()
      .transaction()
      .execute((trx) => writing(trx).deleteFrom('person').execute())
    expect(await failureOf(write)).toMatchObject({ code: '25006' })
    expect(await place.names()).toHaveLength(3)
    expect(await db.onReplica().transaction().execute(sessionOf)).toMatchObject(onStandby)
  })

  const serializable = 'isolation level serializable'
  test.each<[string, string, (db: Kysely<Tables>) => Promise<unknown>]>([
    ['', 'read write', (db) => db.transaction().setAccessMode('read write').execute(sessionOf)],
    ['', serializable, (db) => db.transaction().setIsolationLevel('serializable').execute(sessionOf)],
    [', controlled,', serializable, (db) => db.startTransaction().setIsolationLevel('serializable').execute()],
  ])('of onReplica%s cannot be %s, and gives its place back', async (_, what, begin) => {
    const { db } = await place.openWithReplicas({ pool: { max: 1, initial: 1, min: 0, minIdle: 0 } })
    const refused = await failureOf(begin(writing(db.onReplica())))
    expect(refused).toMatchObject({
      code: 'SMARTPG_INVALID_QUERY',
      phase: 'begin',
      message: `A transaction on a replica cannot be ${what}.`,
    })
    expect(await db.onReplica().transaction().execute(sessionOf)).toMatchObject(onStandby)
    expect(await db.transaction().execute(sessionOf)).toMatchObject({ standby: false, readonly: 'off' })
  })

  test('runs on the replica that is asked for', async () => {
    const [first, second] = place.replicaUrls
    const { db, dialect } = await place.openWithReplicas({
      replicas: [
        { connectionString: first, name: 'big', tags: ['reports'] },
        { connectionString: second ?? first, name: 'small' },
      ],
    })
    const nodes = new Set<string>()
    using _ = dialect.on('query', ({ node }) => void nodes.add(node))
    for (const options of [{ name: 'small' }, { tags: ['reports'] }]) {
      nodes.clear()
      await db
        .onReplica(options)
        .transaction()
        .execute(async (trx) => {
          expect(await sessionOf(trx)).toMatchObject(onStandby)
          await trx.selectFrom('person').select('id').execute()
        })
      expect([...nodes]).toEqual([options.name ?? 'big'])
    }
    const nobody = db.onReplica({ name: 'nobody' }).transaction().execute(sessionOf)
    expect(await failureOf(nobody)).toMatchObject({ code: 'SMARTPG_CONFIG' })
    expect(await db.onReplica({ name: 'small' }).transaction().execute(sessionOf)).toMatchObject(onStandby)
  })

  test('that has begun on a replica stays there, whatever is said in it', async () => {
    const { db } = await place.openWithReplicas()
    await readOnly(db).execute(async (trx: Transaction<Tables>) => {
      const first = await sessionOf(trx)
      expect(first).toMatchObject(onStandby)
      expect(await sessionOf(trx.onPrimary())).toEqual(first)
      expect(await sessionOf(trx.onReplica({ name: 'nobody' }))).toEqual(first)
      expect(await sessionOf(trx.withTimeout('10s'))).toEqual(first)
    })
  })

  test('may be told so in its first statement, and runs where it would have anyway', async () => {
    const { db } = await place.openWithReplicas()
    expect(await readOnly(db).execute((trx) => sessionOf(trx.onReplica({ name: 'nobody' })))).toMatchObject(onStandby)
    expect(await db.transaction().execute((trx) => sessionOf(trx.onReplica()))).toMatchObject({ standby: false })
  })
})
