// What a caller can get wrong: each mistake is one clear error, and the next query works as if nothing had been.

import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { SmartPgDialect } from '../../src/index.ts'
import type { SmartPgOptions } from '../../src/index.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { freePort } from '../support/postgres/free-port.ts'
import { ask } from '../support/postgres/server.ts'
import { hba } from '../wire/own-server.ts'
import { backends, borrowed, failure, metric, open, ownOnly } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  numbers: { n: number }
}

let database: Database
beforeAll(async () => {
  database = await createDatabase({ url: inject('primaryUrl') })
  await ask(database.url, 'create table numbers as select 1 as n')
})
afterAll(() => database.drop())

/** The next query is answered, nobody holds a connection, and the server has no more of ours than the pool knows. */
async function expectNothingLeaked(
  { db, dialect, applicationName }: Opened<Tables>,
  url = database.url,
): Promise<void> {
  expect(await db.selectFrom('numbers').selectAll().execute()).toEqual([{ n: 1 }])
  await expect.poll(() => metric(dialect, 'active_connections')).toBe(0)
  expect(await metric(dialect, 'pending_acquires')).toBe(0)
  await expect.poll(() => metric(dialect, 'connecting_connections')).toBe(0)
  expect(await backends(url, applicationName)).toBe(await metric(dialect, 'total_connections'))
}

const select = ({ db }: Opened<Tables>): Promise<unknown> => db.selectFrom('numbers').selectAll().execute()

describe('a server that cannot be used', () => {
  // The function answers with the wrong address until it is corrected, as a mended DNS entry or secret would be.
  const corrected = (wrong: string, options: Partial<SmartPgOptions> = {}) => {
    const address = { now: wrong }
    // Longer than the longest rest between two connects, so that the next caller lives to see the next one.
    const pool = { acquireTimeout: 1_500 }
    return { address, opened: open<Tables>({ primary: () => address.now, pool, breaker: false, ...options }) }
  }

  test('because nothing listens there', async () => {
    const { address, opened } = corrected(`postgres://app@127.0.0.1:${await freePort()}/app`)
    const error = await failure(select(opened))
    expect(error).toMatchObject({ code: 'SMARTPG_ACQUIRE_TIMEOUT', node: 'primary', phase: 'acquire', retryable: true })
    expect(error.message).toMatch(/'primary'.*ECONNREFUSED/)
    expect(error.cause).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
    address.now = database.url
    await expectNothingLeaked(opened)
  })

  test('because nothing listens there, with the circuit breaker on: refused at once after the first failures', async () => {
    const { address, opened } = corrected(`postgres://app@127.0.0.1:${await freePort()}/app`, {
      breaker: { recoveryTimeout: { min: 50, max: 100 } },
    })
    const codes = new Set<unknown>()
    while (!codes.has('SMARTPG_CIRCUIT_OPEN')) {
      const error = await failure(select(opened))
      codes.add(error['code'])
      if (error['code'] !== 'SMARTPG_CIRCUIT_OPEN') continue
      expect(error.cause).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED' })
      expect((error.cause as Error).message).toContain('ECONNREFUSED')
    }
    expect([...codes].filter((code) => code !== 'SMARTPG_ACQUIRE_TIMEOUT')).toEqual(['SMARTPG_CIRCUIT_OPEN'])
    address.now = database.url
    await expect.poll(() => select(opened).catch(() => 'not yet')).toEqual([{ n: 1 }])
    await expectNothingLeaked(opened)
  })

  test('because the database is not there: told at once, not after the acquire timeout', async () => {
    const missing = new URL(database.url)
    missing.pathname = '/no_such_database'
    const { address, opened } = corrected(missing.href, { pool: { acquireTimeout: '1h' } })
    const error = await failure(select(opened))
    expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', node: 'primary', cause: { code: '3D000' } })
    expect(error.message).toContain('"no_such_database" does not exist')
    address.now = database.url
    await expectNothingLeaked(opened)
  })

  describe.skipIf(borrowed)(`that asks for passwords ${ownOnly}`, () => {
    let cluster: Cluster
    beforeAll(async () => {
      cluster = await startCluster()
      await cluster.primary.query("create role app login password 'right'")
      await cluster.primary.query('create table numbers as select 1 as n')
      await cluster.primary.query('grant select on numbers to app')
      await hba(cluster, 'host all app 127.0.0.1/32 scram-sha-256')
    })
    afterAll(() => cluster.close())

    test('because the password is wrong: told at once, not after the acquire timeout', async () => {
      const url = (password: string): string => `postgres://app:${password}@127.0.0.1:${cluster.primary.port}/postgres`
      const { address, opened } = corrected(url('wrong'), { pool: { acquireTimeout: '1h' } })
      const error = await failure(select(opened))
      expect(error).toMatchObject({ code: 'SMARTPG_CONNECT_FAILED', node: 'primary', cause: { code: '28P01' } })
      expect(error.message).toMatch(/password authentication failed/)
      address.now = url('right')
      await expectNothingLeaked(opened, cluster.url)
    })
  })
})

describe('options that cannot be used are refused before anything is opened', () => {
  const refused: [what: string, options: SmartPgOptions | string, path: string, parts: RegExp][] = [
    ['a URL that is none', 'localhost:5432/app', 'primary', /postgres:\/\//],
    ['a URL of another database', 'mysql://localhost/app', 'primary', /mysql/],
    ['a minimum above the maximum', { primary: 'postgres://h/d', pool: { min: 9, max: 3 } }, 'pool.min', /pool\.max/],
    ['an unknown option', { primary: 'postgres://h/d', pol: {} } as never, 'pol', /Did you mean 'pool'/],
    [
      'a misspelt option of the pool',
      { primary: 'postgres://h/d', pool: { maxx: 1 } } as never,
      'pool.maxx',
      /pool\.max'/,
    ],
  ]

  test.each(refused)('%s', (_, options, path, parts) => {
    let error: unknown
    try {
      void new SmartPgDialect(options)
    } catch (thrown) {
      error = thrown
    }
    expect(error).toMatchObject({ code: 'SMARTPG_CONFIG', faults: [{ path }] })
    expect((error as Error).message).toMatch(parts)
  })
})

describe('a query that cannot be sent', () => {
  const connected = () => open<Tables>({ primary: database.url, pool: { min: 0, max: 2 } })

  test('with 70,000 parameters says how many there are and how many may be', async () => {
    const opened = connected()
    const many = Array.from({ length: 70_000 }, (_, n) => n)
    const error = await failure(opened.db.selectFrom('numbers').selectAll().where('n', 'in', many).execute())
    expect(error).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send', node: 'primary' })
    expect(error.message).toMatch(/70000.*65535/)
    expect(error['hint']).toMatch(/Split/)
    await expectNothingLeaked(opened)
  })

  const broken = {
    toPostgres() {
      throw new Error('no such value')
    },
  }

  test('with a value whose conversion throws names the parameter and keeps the reason', async () => {
    const opened = connected()
    const error = await failure(sql`select ${1}::int, ${broken}`.execute(opened.db))
    expect(error).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send', cause: { message: 'no such value' } })
    expect(error.message).toContain('$2')
    await expectNothingLeaked(opened)
  })

  test('in a transaction leaves the transaction to its caller', async () => {
    const opened = connected()
    const rows = await opened.db.transaction().execute(async (trx) => {
      await failure(sql`select ${broken}`.execute(trx))
      return trx.selectFrom('numbers').selectAll().execute()
    })
    expect(rows).toEqual([{ n: 1 }])
    await expectNothingLeaked(opened)
  })

  test('as a stream fails its reader', async () => {
    const opened = connected()
    const read = async (): Promise<void> => {
      for await (const _ of opened.db
        .selectFrom('numbers')
        .select(sql`${broken}`.as('b'))
        .stream(10))
        throw new Error('a row')
    }
    expect(await failure(read())).toMatchObject({ code: 'SMARTPG_INVALID_QUERY' })
    await expectNothingLeaked(opened)
  })

  test('a hundred times over leaves the pool as it was', async () => {
    const opened = connected()
    const tries = Array.from({ length: 100 }, (_, i) =>
      failure(i % 2 ? sql`select ${broken}`.execute(opened.db) : sql`nonsense`.execute(opened.db)),
    )
    for (const error of await Promise.all(tries)) expect(error['code']).toMatch(/^(SMARTPG_INVALID_QUERY|42601)$/)
    await expectNothingLeaked(opened)
  })
})
