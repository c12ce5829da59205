// A door that takes 1.5 s to open, as behind a busy load balancer: with default options nobody is kept out by a
// deadline of a connect, and whoever waits is served by any connection that comes free, not by the one that was opened
// for him.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, onTestFinished, test } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import type { FaultProxy } from '../support/fault-proxy.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { heldAtOnce, open, spread, Tally } from './dialects.ts'
import type { Opened } from './dialects.ts'

const doorMs = 1_500

describe(`a door that takes ${doorMs} ms to open`, () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
  })
  afterAll(() => database.drop())

  const behind = async (options: Partial<SmartPgOptions>): Promise<Opened<never> & { proxy: FaultProxy }> => {
    const proxy = await startFaultProxy(database.url)
    onTestFinished(() => proxy.close())
    return { ...open<never>({ primary: proxy.url, ...options }), proxy }
  }

  const one = (db: Kysely<never>): Promise<unknown> => sql`select 1 as n`.execute(db)
  const transaction = (db: Kysely<never>): Promise<unknown> => db.transaction().execute((trx) => one(trx))

  test.each([true, false])(
    '(lanes: %s) while connections come and go all the time: everybody is answered',
    async (lanes) => {
      const { db, proxy } = await behind({ pool: { max: 10, lanes, maxLifetime: '700ms' } })
      await proxy.accept({ afterMs: doorMs })
      const told = new Tally()
      const since = performance.now()
      await spread(Infinity, 20, async (n) => {
        await (n % 4 === 0 ? transaction(db) : one(db)).then(
          () => told.add('answered'),
          (error: unknown) => told.add(error),
        )
        if (performance.now() - since > 3_500) throw new Error('enough')
      }).catch(() => undefined)
      console.log(`${told.total} calls, ${proxy.connections.length} connections: ${JSON.stringify(told.counts)}`)
      expect(proxy.connections.length).toBeGreaterThan(10)
      expect(Object.keys(told.counts)).toEqual(['answered'])
    },
  )

  test('whoever waits is served by a connection that comes free before his own has come', async () => {
    const { db, proxy } = await behind({
      pool: { min: 0, minIdle: 0, initial: 0, max: 2, lanes: false, validateAfterIdle: '1h' },
    })
    await one(db)
    // One connection stands; the second would come when the door opens, which it does not in this test.
    await proxy.accept({ afterMs: 60_000 })
    let served = false
    await db.connection().execute(async (holder) => {
      await one(holder)
      const waiting = one(db).then(() => (served = true))
      await expect.poll(() => proxy.connections.length).toBe(2)
      expect(served).toBe(false)
      void waiting
    })
    await expect.poll(() => served).toBe(true)
    expect(proxy.connections.filter((connection) => connection.opening.length > 0)).toHaveLength(1)
  })

  test('a pool that was empty is whole when it has opened', async () => {
    const { db, dialect, proxy } = await behind({ pool: { initial: 4, max: 4 } })
    await proxy.accept({ afterMs: doorMs })
    await dialect.ready()
    expect((await heldAtOnce(db, 4)).size).toBe(4)
  })
})
