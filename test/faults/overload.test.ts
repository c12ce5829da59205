// More than anybody could serve. The queue has a bound: whoever finds it full is told so at once, before anybody is
// answered, and costs next to nothing; everybody else is answered. And a server with fewer slots than all pools
// together would take: pools learn what they may have, and their callers wait instead of failing.

import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { sql } from 'kysely'
import { Client } from 'pg'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { QueueFullError } from '../../src/index.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { backends, borrowed, heldAtOnce, open, ownOnly, spread, Tally } from './dialects.ts'
import type { FloodOrder, FloodReport } from './flood.ts'

interface Tables {
  written: { n: number }
}

/** Default of `pool.maxWaiting`. */
const maxWaiting = 10_000
/** What 10,000 who wait may cost, with all that a garbage collector leaves lying about. */
const mostMb = 400

describe('a flood of queries', () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    await ask(database.url, 'create table written (n int not null); create index on written (n)')
  })
  afterAll(() => database.drop())

  const flood = async (order: Omit<FloodOrder, 'url' | 'applicationName' | 'over'>): Promise<FloodReport> => {
    await ask(database.url, 'truncate written')
    const whole: FloodOrder = { url: database.url, applicationName: 'flood', over: 'smart', ...order }
    const child = ['--expose-gc', join(import.meta.dirname, 'flood.ts'), JSON.stringify(whole)]
    const { stdout } = await promisify(execFile)(process.execPath, child, { timeout: 110_000 })
    const report = JSON.parse(stdout) as FloodReport
    console.log(`${order.queries} ${order.what}, ${order.perTurn} per turn: ${JSON.stringify(report)}`)
    return report
  }

  const expectBounded = ({ told, uncaught, afterwards }: FloodReport, queries: number): void => {
    const { answered = 0, SMARTPG_QUEUE_FULL: refused = 0, ...others } = told
    expect(others).toEqual({})
    expect(answered + refused).toBe(queries)
    expect(answered).toBeGreaterThanOrEqual(maxWaiting)
    expect(uncaught).toEqual([])
    expect(afterwards).toBe(true)
  }

  // As long as this machine may take.
  const pool = { max: 10, acquireTimeout: '100s' }

  test('of 200,000 at once all but those who may wait are refused before the first is answered', async () => {
    const report = await flood({ what: 'writes', queries: 200_000, perTurn: 200_000, pool })
    expectBounded(report, 200_000)
    expect(report.told['answered']).toBe(maxWaiting)
    expect(report.refusedLate).toBe(0)
    const [row] = await ask<{ n: number }>(database.url, 'select count(*)::int as n from written')
    expect(row!.n).toBe(maxWaiting)
    expect(await backends(database.url, 'flood')).toBe(0)
  }, 120_000)

  test.each([
    ['reads', true],
    ['reads', false],
    ['writes', true],
    ['transactions', true],
  ] as const)(
    'of %s (lanes: %s) that goes on and on costs no more memory than those who may wait',
    async (what, lanes) => {
      const queries = 40_000
      const report = await flood({ what, queries, perTurn: 1_000, pool: { ...pool, lanes } })
      expectBounded(report, queries)
      expect(report.grownMb).toBeLessThan(mostMb)
      if (what === 'reads') return
      const [row] = await ask<{ n: number }>(database.url, 'select count(*)::int as n from written')
      expect(row!.n).toBe(report.told['answered'])
    },
    120_000,
  )

  test.each([true, false])('(lanes: %s) whoever finds the queue full is told within the same turn', async (lanes) => {
    const { db } = open<Tables>({ primary: database.url, pool: { max: 2, maxWaiting: 100, lanes } })
    const stranger = new Client({ connectionString: database.url })
    await stranger.connect()
    await stranger.query('begin; lock table written')
    // Both connections stand, for two; a hundred wait.
    await heldAtOnce(db as never, 2)
    const told = new Tally()
    const insert = (n: number): Promise<void> =>
      db
        .insertInto('written')
        .values({ n })
        .execute()
        .then(
          () => told.add('answered'),
          (error: unknown) => told.add(error),
        )
    const waiting = Array.from({ length: 102 }, (_, n) => insert(n))
    await expect.poll(() => backendsThatWait(database.url)).toBe(2)
    let error: unknown
    db.insertInto('written')
      .values({ n: -1 })
      .execute()
      .catch((reason: unknown) => (error = reason))
    await new Promise((resolve) => setImmediate(resolve))
    expect(error).toBeInstanceOf(QueueFullError)
    expect(error).toMatchObject({ retryable: true, pool: { waiting: 100, max: 2 } })
    await stranger.query('commit')
    await stranger.end()
    await Promise.all(waiting)
    expect(told.counts).toEqual({ answered: 102 })
  })
})

async function backendsThatWait(url: string): Promise<number> {
  const [row] = await ask<{ n: number }>(
    url,
    `select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  )
  return row!.n
}

describe.skipIf(borrowed)(`a server with fewer slots than all pools together ${ownOnly}`, () => {
  test('sends nobody away: pools learn what they may have, and use it again when it comes free', async () => {
    await using cluster = await startCluster({
      settings: { max_connections: '20', superuser_reserved_connections: '3', autovacuum: 'off' },
    })
    await cluster.primary.query('create role app login')
    const url = new URL(cluster.url)
    url.username = 'app'
    const dialects = Array.from({ length: 5 }, () =>
      open({ primary: url.href, pool: { initial: 1, max: 20 }, applicationName: 'storm' }),
    )
    // One each: slots that others hold come free when they like.
    for (const { dialect } of dialects) await dialect.ready()
    const refused = new Tally()
    for (const { dialect } of dialects) dialect.on('error', ({ error }) => refused.add((error as Error).message))
    const told = new Tally()
    await spread(1_500, 150, async (n) => {
      const { db } = dialects[n % 5]!
      const work =
        n % 3 === 0
          ? db.transaction().execute((trx) => sql`select pg_sleep(0.002)`.execute(trx))
          : sql`select pg_sleep(0.002)`.execute(db)
      await work.then(
        () => told.add('answered'),
        (error: unknown) => told.add(error),
      )
    })
    console.log(
      `1500 calls of 5 pools on 20 slots: ${JSON.stringify(told.counts)}; refused: ${JSON.stringify(refused.counts)}`,
    )
    expect(told.counts).toEqual({ answered: 1_500 })
    expect(refused.total).toBeGreaterThan(0)
    expect(Object.keys(refused.counts).filter((message) => !message.includes('53300'))).toEqual([])
    for (const { db } of dialects.slice(1)) await db.destroy()
    await expect.poll(() => backends(cluster.url, 'storm')).toBeLessThan(17)
  })
})
