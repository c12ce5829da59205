// A server that restarts, properly or by a crash: callers wait for it as long as they may and are then answered, and
// the pool is as large as before.

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { backends, borrowed, heldAtOnce, open, ownOnly, spread, Tally } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  written: { n: number }
}

const max = 10

describe.skipIf(borrowed)(`a server that restarts ${ownOnly}`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster()
    await cluster.primary.query('create table written (n int not null)')
  })
  afterAll(() => cluster.close())
  beforeEach(() => cluster.primary.query('truncate written').then(() => undefined))

  const connected = (options: Partial<SmartPgOptions> = {}): Opened<Tables> =>
    open({ primary: cluster.url, pool: { max, acquireTimeout: '10s' }, ...options })

  const expectWhole = async ({ db, applicationName }: Opened<Tables>): Promise<void> => {
    expect((await heldAtOnce(db as never, max)).size).toBe(max)
    await db.destroy()
    expect(await backends(cluster.url, applicationName)).toBe(0)
  }

  /** One half reads, one half writes; every number is written at most once. */
  const call = async ({ db }: Opened<Tables>, n: number, told: Told): Promise<void> => {
    try {
      if (n % 2 === 0) await db.selectFrom('written').selectAll().where('n', '=', n).execute()
      else await db.insertInto('written').values({ n }).execute()
      told.answered++
      if (n % 2 === 1) told.written.push(n)
    } catch (error) {
      told.failures.add(error)
    }
  }

  class Told {
    answered = 0
    readonly written: number[] = []
    readonly failures = new Tally()
  }

  const expectKept = async ({ written }: Told): Promise<void> => {
    const rows = await cluster.primary.query<{ n: number; times: number }>(
      'select n, count(*)::int as times from written group by n',
    )
    expect(rows.filter(({ times }) => times > 1)).toEqual([])
    const there = new Set(rows.map(({ n }) => n))
    expect(written.filter((n) => !there.has(n))).toEqual([])
  }

  test('answers all who asked while it was down, within their acquire timeout', async () => {
    const opened = connected({ breaker: false })
    await opened.dialect.ready()
    await cluster.primary.stop()
    const told = new Told()
    const calls = Promise.all(Array.from({ length: 200 }, (_, n) => call(opened, n, told)))
    await cluster.primary.start()
    await calls
    expect(told.failures.counts).toEqual({})
    expect(told.answered).toBe(200)
    await expectKept(told)
    await expectWhole(opened)
  })

  test('and its breaker on: everybody is answered or told at once that it is open, and it closes by itself', async () => {
    const opened = connected()
    await opened.dialect.ready()
    await cluster.primary.stop()
    const told = new Told()
    const calls = Promise.all(Array.from({ length: 200 }, (_, n) => call(opened, n, told)))
    await cluster.primary.start()
    await calls
    expect(Object.keys(told.failures.counts).filter((code) => code !== 'SMARTPG_CIRCUIT_OPEN')).toEqual([])
    await expect
      .poll(() =>
        opened.db
          .selectFrom('written')
          .selectAll()
          .limit(0)
          .execute()
          .catch(() => 'refused'),
      )
      .toEqual([])
    await expectKept(told)
    await expectWhole(opened)
  })

  test.each(['fast', 'immediate', 'kill -9'] as const)(
    'under load, by %s: 98 of 100 are answered, nothing acknowledged is lost or written twice',
    async (how) => {
      const opened = connected({ breaker: false })
      await opened.dialect.ready()
      const told = new Told()
      const restart = async (): Promise<void> => {
        await (how === 'kill -9' ? cluster.primary.kill9() : cluster.primary.stop(how))
        await cluster.primary.start()
      }
      let restarting: Promise<void> | undefined
      const calls = 6_000
      await spread(calls, 20, async (n) => {
        await call(opened, n, told)
        if (n === 2_000) restarting = restart()
      })
      await restarting
      console.log(`${calls} calls, a restart (${how}) among them: ${JSON.stringify(told.failures.counts)}`)
      expect(told.answered).toBeGreaterThanOrEqual(calls * 0.98)
      // What was sent and not answered may have been applied; nothing else may fail.
      expect(Object.keys(told.failures.counts).filter((code) => code !== 'SMARTPG_OUTCOME_UNKNOWN')).toEqual([])
      await expectKept(told)
      await expectWhole(opened)
    },
  )
})
