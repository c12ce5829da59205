// The rows of docs/reliability.md side by side: the same scene once with Kysely's own dialect over pg-pool, where it goes
// wrong, and once with ours. Only what is quick to show; that it goes wrong there is a fact about the versions installed.

import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, onTestFinished, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import type { FaultProxy } from '../support/fault-proxy.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { Tally, failure } from './dialects.ts'
import { openOurs, openStock } from './stock.ts'
import type { Contender, Terms } from './stock.ts'

interface Tables {
  written: { n: number }
}
type Db = Kysely<Tables>

// Stock has one wire, and ours is seen over both everywhere else.
describe.skipIf(wire === 'pg')("seen red on stock, green on ours (once, not again with wire: 'pg')", () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    await ask(database.url, 'create table written (n int not null)')
  })
  afterAll(() => database.drop())
  beforeEach(() => ask(database.url, 'truncate written'))

  const both = (terms: Partial<Terms> = {}): { stock: Contender<Tables>; ours: Contender<Tables> } => {
    const all = { url: database.url, max: 1, ...terms }
    return { stock: openStock<Tables>(all), ours: openOurs<Tables>(all) }
  }
  const insert = (db: Db, n: number): Promise<unknown> => db.insertInto('written').values({ n }).execute()
  const written = async (): Promise<number[]> =>
    (await ask<{ n: number }>(database.url, 'select n from written order by n')).map(({ n }) => n)
  const raw = <T = unknown>(db: Db, text: string): Promise<readonly T[]> =>
    sql.raw<T>(text).execute(db).then(({ rows }) => rows) // prettier-ignore
  const sessionsOf = async (role: string): Promise<number> =>
    (await ask(database.url, 'select from pg_stat_activity where usename = $1', [role])).length
  /** How many backends at work there were to kill. */
  const killed = async (applicationName: string): Promise<number> => {
    const kill = `select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 and state = 'active'`
    return (await ask(database.url, kill, [applicationName])).length
  }
  const proxied = async (): Promise<FaultProxy> => {
    const proxy = await startFaultProxy(database.url)
    onTestFinished(() => proxy.close())
    return proxy
  }

  test('a forgotten BEGIN takes the next caller’s acknowledged insert with it', async () => {
    const { stock, ours } = both()
    for (const { db } of [stock, ours]) {
      await db.connection().execute((one) => raw(one, 'begin'))
      await insert(db, db === stock.db ? 1 : 2)
      await db.destroy()
    }
    expect(await written()).toEqual([2])
  })

  test('what one caller sets, the next one has', async () => {
    const { stock, ours } = both()
    const leave = (one: Db): Promise<unknown> =>
      raw(one, 'set search_path = nowhere; select pg_advisory_lock(pg_backend_pid()); listen news')
    const look = `select current_setting('search_path') as path, (select count(*)::int from pg_listening_channels()) as channels,
      (select count(*)::int from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks`
    const seen = async ({ db }: Contender<Tables>): Promise<unknown> => {
      await db.connection().execute(leave)
      return (await raw(db, look))[0]
    }
    expect(await seen(stock)).toEqual({ path: 'nowhere', channels: 1, locks: 1 })
    expect(await seen(ours)).toEqual({ path: '"$user", public', channels: 0, locks: 0 })
  })

  test('a backend that dies between two statements of a transaction ends the process', async () => {
    const child = join(import.meta.dirname, 'stock-process.ts')
    const played = (who: string): Promise<string> =>
      promisify(execFile)(process.execPath, [child, who, 'death', database.url], { timeout: 20_000 }).then(
        ({ stdout }) => stdout,
        ({ code, stderr }: { code: number; stderr: string }) =>
          `exit ${code}: ${/Unhandled 'error' event/.exec(stderr)?.[0]}`,
      )
    expect(await Promise.all([played('stock'), played('ours')])).toEqual(["exit 1: Unhandled 'error' event", 'alive'])
  })

  test('a message of length 0 from the server ends the process, or its caller waits for ever', async () => {
    const child = join(import.meta.dirname, 'stock-process.ts')
    const played = (who: string): Promise<string> =>
      promisify(execFile)(process.execPath, [child, who, 'nonsense', database.url], { timeout: 20_000 }).then(
        ({ stdout }) => stdout,
        ({ code }: { code: number }) => `exit ${code}`,
      )
    const [stock, ours] = await Promise.all([played('stock'), played('ours')])
    expect(stock).not.toBe('told: alive')
    expect(ours).toBe('told: alive')
  })

  test('a COMMIT whose answer was lost says nothing of its outcome', async () => {
    const told: unknown[] = []
    for (const connect of [openStock, openOurs]) {
      const proxy = await proxied()
      const { db } = connect<Tables>({ url: proxy.url, max: 1 })
      proxy.loseReply({ to: /^commit/i })
      const error = await failure(db.transaction().execute((trx) => insert(trx, told.length)))
      told.push(isSmartPgError(error, 'SMARTPG_OUTCOME_UNKNOWN') ? error['sqlState'] : 'not told')
    }
    expect(told).toEqual(['not told', '08007'])
    expect(await written()).toEqual([0, 1])
  })

  test('a rollback that fails hides the error of the user', async () => {
    const { stock, ours } = both()
    const own = new Error('mine')
    const told: unknown[] = []
    for (const { db } of [stock, ours]) {
      told.push(
        await failure(
          db.transaction().execute(async (trx) => {
            const [row] = await raw<{ pid: number }>(trx, 'select pg_backend_pid() as pid')
            await ask(database.url, 'select pg_terminate_backend($1, 5000)', [row!.pid])
            throw own
          }),
        ),
      )
    }
    expect(told[0]).not.toBe(own)
    expect(told[1]).toBe(own)
  })

  test('a connection whose query ran into its timeout is handed to the next caller, still busy', async () => {
    const { stock, ours } = both({ queryTimeout: 400 })
    const told: unknown[] = []
    for (const { db } of [stock, ours]) {
      await failure(raw(db, 'select pg_sleep(5)'))
      told.push(await raw(db, 'select 1 as n').catch(({ message }: Error) => message))
    }
    expect(told).toEqual(['Query read timeout', [{ n: 1 }]])
  })

  test('on a half-open connection a query is pending for ever', async () => {
    const proxy = await proxied()
    const stock = openStock<Tables>({ url: proxy.url, max: 1 })
    // Its default, but for how long the test would take.
    const ours = openOurs<Tables>({ url: proxy.url, max: 1, queryTimeout: 300 })
    await Promise.all([raw(stock.db, 'select 1'), raw(ours.db, 'select 1')])
    let settled = false
    for (const connection of proxy.open) connection.silence()
    void raw(stock.db, 'select 1').then(
      () => (settled = true),
      () => (settled = true),
    )
    expect(await failure(raw(ours.db, 'select 1'))).toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    expect(await raw(ours.db, 'select 1 as n')).toEqual([{ n: 1 }])
    expect(settled).toBe(false)
  })

  test('a door that is closed for a moment fails whoever comes meanwhile', async () => {
    const proxy = await proxied()
    const stock = openStock<Tables>({ url: proxy.url, max: 2 })
    const ours = openOurs<Tables>({ url: proxy.url, max: 2 })
    proxy.refuse()
    const told = [stock, ours].map(async ({ db }) => {
      const tally = new Tally()
      const ask = (): Promise<void> => raw(db, 'select 1').then(() => tally.add('answered'), (error) => tally.add(error)) // prettier-ignore
      await Promise.all(Array.from({ length: 20 }, ask))
      return tally.counts
    })
    expect(await told[0]).toEqual({ ECONNREFUSED: 20 })
    await proxy.accept()
    expect(await told[1]).toEqual({ answered: 20 })
  })

  test('a server with fewer places than the pool has fails whoever is too many', async () => {
    const role = `few_${randomBytes(4).toString('hex')}`
    await ask(database.url, `create role ${role} login connection limit 3`)
    const url = new URL(database.url)
    url.username = role
    const counts: Record<string, number>[] = []
    for (const connect of [openStock, openOurs]) {
      const { db } = connect<Tables>({ url: url.href, max: 20 })
      const tally = new Tally()
      const ask = (): Promise<void> =>
        raw(db, 'select pg_sleep(0.01), pg_backend_pid()').then(() => tally.add('answered'), (error) => tally.add(error)) // prettier-ignore
      await Promise.all(Array.from({ length: 30 }, ask))
      counts.push(tally.counts)
      await db.destroy()
      await expect.poll(() => sessionsOf(role), { interval: 5 }).toBe(0)
    }
    await ask(database.url, `drop role ${role}`)
    expect(counts[0]!['53300']).toBeGreaterThan(0)
    expect(counts[1]).toEqual({ answered: 30 })
  })

  test('a query on db within a transaction that holds the last connection waits for ever', async () => {
    const { stock } = both()
    const ours = openOurs<Tables>({ url: database.url, max: 1, acquireTimeout: 200 })
    const nested = ({ db }: Contender<Tables>): Promise<unknown> =>
      db.transaction().execute(async (trx) => {
        await insert(trx, 1)
        await insert(db, 2)
      })
    let settled = false
    void nested(stock).then(
      () => (settled = true),
      () => (settled = true),
    )
    expect(await failure(nested(ours))).toMatchObject({ code: 'SMARTPG_ACQUIRE_TIMEOUT' })
    expect(settled).toBe(false)
    expect(await written()).toEqual([])
  })

  test('a read whose backend is killed fails', async () => {
    const { stock, ours } = both()
    await ask(database.url, 'insert into written values (1)')
    const told: unknown[] = []
    for (const { db, applicationName } of [stock, ours]) {
      await raw(db, 'select 1')
      const read = db.selectFrom('written').select(sql<string>`pg_sleep(0.2)::text`.as('s')).execute().then(() => 'answered', () => 'failed') // prettier-ignore
      await expect.poll(() => killed(applicationName), { interval: 2 }).toBe(1)
      told.push(await read)
    }
    expect(told).toEqual(['failed', 'answered'])
  })
})
