// Capacity is an invariant: whatever became of streams, transactions, callers who gave up, hooks and resets, a pool of
// `max` connections lends out `max` at the same moment, and the server has no more than those. A slot that is lost is
// never noticed by who lost it, so it is counted after each kind of loss, and after a storm of all of them.

import { CompiledQuery, sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, onTestFinished, test, vi } from 'vitest'
import type { HookConnection, SmartPgOptions } from '../../src/index.ts'
import { seededChance } from '../support/chance.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import type { FaultProxy } from '../support/fault-proxy.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { backends, heldAtOnce, metric, open, ownPidOf, spread } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  numbers: { n: number }
}
type Db = Kysely<Tables>

interface Pool extends Opened<Tables> {
  readonly proxy: FaultProxy
}

const max = 4

let database: Database
beforeAll(async () => {
  database = await createDatabase({ url: inject('primaryUrl') })
  await ask(database.url, 'create table numbers as select n from generate_series(1, 2000) as n')
})
afterAll(() => database.drop())
// Kysely prints what failed in the background after an abort.
beforeEach(() => void vi.spyOn(console, 'error').mockImplementation(() => undefined))

const connected = async (options: Partial<SmartPgOptions> = {}): Promise<Pool> => {
  const proxy = await startFaultProxy(database.url)
  onTestFinished(() => proxy.close())
  const pool = { min: 0, initial: max, minIdle: 0, max, acquireTimeout: '15s' } as const
  // So many losses at once open the circuit, which is not what this is about.
  const opened = open<Tables>({ primary: proxy.url, pool, breaker: false, ...options })
  await opened.dialect.ready().catch(() => undefined)
  return { ...opened, proxy }
}

const expectWhole = async ({ db, dialect, applicationName, proxy }: Pool): Promise<void> => {
  await proxy.heal()
  expect((await heldAtOnce(db as never, max)).size).toBe(max)
  await expect.poll(() => metric(dialect, 'active_connections'), { interval: 5 }).toBe(0)
  expect(await metric(dialect, 'pending_acquires')).toBe(0)
  // The server hears late of those that were reset.
  await expect.poll(() => backends(database.url, applicationName)).toBeLessThanOrEqual(max)
  // And again, because what is lent twice may be lost at its second return.
  expect((await heldAtOnce(db as never, max)).size).toBe(max)
  await db.destroy()
  await expect.poll(() => backends(database.url, applicationName)).toBe(0)
}

const raw = (db: Db, text: string): Promise<unknown> => sql.raw(text).execute(db)
const swallowed = (work: Promise<unknown>): Promise<unknown> => work.catch(() => undefined)
const thrice = async (losses: readonly ((n: number) => Promise<unknown>)[]): Promise<void> => {
  for (let n = 0; n < 3; n++) await Promise.all(losses.map((lose) => swallowed(lose(n))))
}
const all = <T>(what: T): T[] => Array.from({ length: max }, () => what)

const readUntil = async (db: Db, rows: number, then: () => unknown): Promise<void> => {
  let seen = 0
  for await (const _ of db.selectFrom('numbers').select('n').stream(10)) if (++seen === rows) await then()
}

describe('the pool lends out all of its connections at once', () => {
  test('after streams whose connections were reset in the middle', async () => {
    const pool = await connected()
    await thrice(all(() => readUntil(pool.db, 25, () => pool.proxy.reset())))
    await expectWhole(pool)
  })

  test('after streams that broke off within a row', async () => {
    const pool = await connected()
    await thrice(
      all(() => {
        pool.proxy.resetInside({ to: /from "numbers"/, type: 'D', message: 15, afterBytes: 6 })
        return readUntil(pool.db, -1, () => undefined)
      }),
    )
    await expectWhole(pool)
  })

  test('after streams that were left, thrown out of, or stood in a transaction that failed', async () => {
    const pool = await connected()
    const { db } = pool
    await thrice([
      () => readUntil(db, 5, () => Promise.reject(new Error('enough'))),
      async () => {
        for await (const _ of db.selectFrom('numbers').selectAll().stream(1)) break
      },
      () =>
        db.transaction().execute(async (trx) => {
          for await (const _ of trx.selectFrom('numbers').selectAll().stream(1)) break
          await raw(trx, 'select 1/0')
        }),
      async () => {
        const unread = db.selectFrom('numbers').selectAll().stream(1)
        await unread[Symbol.asyncIterator]().return?.()
      },
    ])
    await expectWhole(pool)
  })

  test('after callers who gave up while they waited, some of them when they were being served', async () => {
    const pool = await connected()
    const { db } = pool
    let letGo!: () => void
    const over = new Promise<void>((resolve) => (letGo = resolve))
    let held = 0
    const holders = all(() =>
      db.connection().execute(async (one) => {
        await ownPidOf(one as never)
        held++
        await over
      }),
    ).map((hold) => hold())
    await expect.poll(() => held, { interval: 2 }).toBe(max)
    const aborts = Array.from({ length: 60 }, () => new AbortController())
    const callers = aborts.map(({ signal }, n) => {
      const statement = n % 2 === 0 ? sql`select pg_backend_pid()` : sql`select n from numbers where n = ${n}`
      return swallowed(db.executeQuery(statement.compile(db), { signal, inflightQueryAbortStrategy: 'cancel query' }))
    })
    for (const [n, abort] of aborts.entries()) if (n % 3 === 0) abort.abort(new Error('gone'))
    letGo()
    await Promise.resolve()
    for (const [n, abort] of aborts.entries()) if (n % 3 === 1) abort.abort(new Error('gone'))
    await Promise.all([...holders, ...callers])
    await expectWhole(pool)
  })

  test.each(['cancel query', 'kill session', 'ignore query'] as const)(
    "after statements that were aborted with '%s'",
    async (inflightQueryAbortStrategy) => {
      const pool = await connected()
      const { db } = pool
      const leave = async (): Promise<void> => {
        const abort = new AbortController()
        const statement = sql`select pg_sleep(0.05), pg_backend_pid()`.compile(db)
        const running = swallowed(db.executeQuery(statement, { signal: abort.signal, inflightQueryAbortStrategy }))
        await new Promise((resolve) => setImmediate(resolve))
        abort.abort(new Error('gone'))
        await running
      }
      await thrice(all(leave))
      await expectWhole(pool)
    },
  )

  test('after leases whose backends were ended, idle, at work and in a transaction', async () => {
    const pool = await connected()
    const { db } = pool
    const end = 'select pg_terminate_backend(pg_backend_pid())'
    await thrice([
      () => db.connection().execute((one) => raw(one, end)),
      () =>
        db.connection().execute(async (one) => {
          await ask(database.url, 'select pg_terminate_backend($1)', [await ownPidOf(one as never)])
          await raw(one, 'select 1')
        }),
      () => db.transaction().execute((trx) => raw(trx, end)),
      () =>
        db.transaction().execute(async (trx) => {
          await ask(database.url, 'select pg_terminate_backend($1)', [await ownPidOf(trx as never)])
        }),
      async () => {
        const trx = await db.startTransaction().execute()
        await swallowed(raw(trx, end))
        await swallowed(trx.commit().execute())
        // As Kysely has it: it gives nothing back after a COMMIT that failed.
        await swallowed(trx.rollback().execute())
      },
    ])
    await expectWhole(pool)
  })

  // Becomes `test` when a COMMIT that met a dead connection gives it back by itself.
  test('after a controlled transaction whose COMMIT met a dead connection', async () => {
    const pool = await connected({ pool: { min: 0, initial: 1, minIdle: 0, max: 1, acquireTimeout: 500 } })
    const trx = await pool.db.startTransaction().execute()
    onTestFinished(() => trx.rollback().execute())
    await swallowed(raw(trx, 'select pg_terminate_backend(pg_backend_pid())'))
    await swallowed(trx.commit().execute())
    await raw(pool.db, "set work_mem = '77MB'")
  })

  test('after resets that failed: on their way, in their answer, and in what sets the session up again', async () => {
    let fails = false
    const init = async (connection: HookConnection): Promise<void> => {
      if (fails) throw new Error('no')
      await connection.executeQuery(CompiledQuery.raw("set app.tenant = 'a'"))
    }
    const pool = await connected({ session: { init } })
    const { db, dialect, proxy } = pool
    const failures: unknown[] = []
    dialect.on('error', ({ during }) => during === 'cleaning of a used connection' && failures.push(during))
    const stain = (): Promise<unknown> => raw(db, "set work_mem = '77MB'")
    for (let n = 0; n < max; n++) proxy.loseReply({ to: /^discard all/ })
    await Promise.all(all(stain).map((one) => one()))
    await expect.poll(() => failures.length, { interval: 5 }).toBeGreaterThan(0)
    await proxy.heal()
    expect((await heldAtOnce(db as never, max)).size).toBe(max)
    failures.length = 0
    fails = true
    await Promise.all(all(stain).map((one) => one()))
    await expect.poll(() => failures.length, { interval: 5 }).toBe(max)
    fails = false
    await expectWhole(pool)
  })

  test('after hooks that threw, and after connects that were refused', async () => {
    let fails = true
    const pool = await connected({
      onReserveConnection: () => {
        if (fails) throw new Error('no')
      },
    })
    const { db, proxy } = pool
    await thrice(all(() => raw(db, 'select 1')))
    await thrice(all(() => db.transaction().execute((trx) => raw(trx, 'select 1'))))
    fails = false
    proxy.refuse()
    proxy.reset()
    const waiting = all(() => raw(db, 'select 1')).map((one) => swallowed(one()))
    await expect.poll(() => metric(pool.dialect, 'connect_errors_total'), { interval: 5 }).toBeGreaterThan(0)
    await proxy.accept()
    await Promise.all(waiting)
    await expectWhole(pool)
  })

  test('after COMMITs of which nobody knows, COPYs without data, failed batches and lent clients', async () => {
    const pool = await connected()
    const { db, dialect, proxy } = pool
    await thrice([
      () => {
        proxy.loseReply({ to: /^commit/i })
        return db.transaction().execute((trx) => trx.insertInto('numbers').values({ n: 0 }).execute())
      },
      () => raw(db, 'copy numbers from stdin'),
      () => db.batch([sql`select 1`, sql`select 1/0`]),
      () => db.batch([sql`select 1`, sql`select pg_terminate_backend(pg_backend_pid())`]),
      () => dialect.withClient(() => Promise.reject(new Error('no'))),
    ])
    await expectWhole(pool)
  })

  test('after six hundred of everything at random', async () => {
    const pool = await connected({ retry: { attempts: 5 } })
    const { db, proxy } = pool
    const chance = seededChance(77)
    const abandoned = (strategy: 'cancel query' | 'kill session'): Promise<unknown> => {
      const abort = new AbortController()
      const statement = sql`select pg_sleep(0.002), pg_backend_pid()`.compile(db)
      const running = db.executeQuery(statement, { signal: abort.signal, inflightQueryAbortStrategy: strategy })
      setImmediate(() => abort.abort(new Error('gone')))
      return running
    }
    const deeds: (() => Promise<unknown>)[] = [
      () => db.selectFrom('numbers').selectAll().where('n', '=', 1).execute(),
      () => db.insertInto('numbers').values({ n: 0 }).execute(),
      () => raw(db, "set work_mem = '77MB'"),
      () => raw(db, 'begin'),
      () => readUntil(db, 15, () => (chance() < 0.3 ? proxy.open[0]?.reset() : undefined)),
      () => abandoned('cancel query'),
      () => abandoned('kill session'),
      () => db.transaction().execute((trx) => raw(trx, chance() < 0.5 ? 'select 1/0' : 'select 1')),
      () => db.connection().execute((one) => swallowed(raw(one, 'begin; select 1/0'))),
      () => db.batch([sql`select 1`, sql`select 2`]),
      async () => proxy.open[Math.floor(chance() * proxy.open.length)]?.reset(),
    ]
    await spread(600, 12, async () => {
      await swallowed(deeds[Math.floor(chance() * deeds.length)]!())
    })
    await expectWhole(pool)
  })
})
