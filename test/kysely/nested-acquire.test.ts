// A query on `db` inside a transaction needs a second connection while it holds the first: with an exhausted pool it
// waits for itself. It fails in time, and the error says so to whom it concerns.

import { sql } from 'kysely'
import { describe, expect, test } from 'vitest'
import { AcquireTimeoutError } from '../../src/index.ts'
import { failureOf, inDatabase } from './support.ts'

const place = inDatabase()
/** Where contexts are kept by async hooks, innocent neighbours would be marked. */
const tellsApart = Number(process.versions.node.split('.')[0]) >= 24
const pool = { max: 1, acquireTimeout: '300ms', lanes: false } as const

describe.skipIf(!tellsApart)('a query on db inside a transaction that holds the last connection', () => {
  test('fails with a hint to use trx', async () => {
    const { db } = place.open({ pool })
    const error = await db.transaction().execute(async (trx) => {
      await sql`select 1`.execute(trx)
      return failureOf(sql`select 2`.execute(db))
    })
    expect(error).toBeInstanceOf(AcquireTimeoutError)
    expect((error as AcquireTimeoutError).hint).toContain('use `trx` there')
  })

  test('fails with the same hint from a transaction in the transaction, and from deep inside', async () => {
    const { db } = place.open({ pool })
    const deep = async (): Promise<unknown> => {
      await new Promise((resolve) => setImmediate(resolve))
      return failureOf(db.transaction().execute((inner) => sql`select 2`.execute(inner)))
    }
    const error = await db.transaction().execute(async (trx) => {
      await sql`select 1`.execute(trx)
      return deep()
    })
    expect((error as AcquireTimeoutError).hint).toContain('use `trx` there')
  })

  test('is not told to neighbours who wait for the same connection, whether they came before or after', async () => {
    const { db } = place.open({ pool })
    let neighbours: Promise<unknown>[] = []
    const waiting = new Promise<void>((waits) => {
      void db
        .transaction()
        .execute(async (trx) => {
          await sql`select 1`.execute(trx)
          waits()
          while (neighbours.length === 0) await new Promise((resolve) => setImmediate(resolve))
          await Promise.all(neighbours)
        })
        .catch(() => undefined)
    })
    await waiting
    neighbours = [failureOf(sql`select 3`.execute(db)), failureOf(sql`select 4`.execute(db))]
    for (const error of await Promise.all(neighbours)) {
      expect(error).toBeInstanceOf(AcquireTimeoutError)
      expect((error as AcquireTimeoutError).hint).toContain('pool.max')
    }
  })

  test('is not told to what comes after the transaction', async () => {
    const { db } = place.open({ pool })
    await db.transaction().execute((trx) => sql`select 1`.execute(trx))
    const blocker = await db.startTransaction().execute()
    await sql`select 1`.execute(blocker)
    const error = await failureOf(sql`select 2`.execute(db))
    await blocker.rollback().execute()
    expect((error as AcquireTimeoutError).hint).toContain('pool.max')
  })
})
