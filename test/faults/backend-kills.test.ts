// A load whose backends are killed, one every second. Afterwards the database is asked what really happened: nothing
// acknowledged may be missing, nothing may be there twice, no transaction may be torn.

import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Client } from 'pg'
import { describe, expect, inject, test } from 'vitest'
import { createDatabase } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { backends } from './dialects.ts'
import type { LoadOrder, LoadReport } from './kill-load.ts'

const killOne = `select pg_terminate_backend(pid) from
  (select pid from pg_stat_activity where application_name = $1 order by random() limit 1) as one`

const queries = 100_000

describe(`${queries} queries while a backend is killed every second`, () => {
  test('nothing is lost, torn, done twice or answered wrongly, and the pool is whole again', async () => {
    const database = await createDatabase({ url: inject('primaryUrl') })
    await ask(database.url, 'create table written (n int not null, part text not null)')
    // Not unique: a write that was done twice shall be seen, not refused.
    await ask(database.url, 'create index on written (n)')
    const order: LoadOrder = { url: database.url, applicationName: 'kill-load', queries, atOnce: 32, max: 10 }
    const killer = new Client({ connectionString: database.url, application_name: 'killer' })
    await killer.connect()
    let kills = 0
    const metronome = setInterval(() => {
      void killer.query(killOne, [order.applicationName]).then(({ rowCount }) => (kills += rowCount ?? 0))
    }, 1_000)
    let report: LoadReport
    try {
      const child = [join(import.meta.dirname, 'kill-load.ts'), JSON.stringify(order)]
      const { stdout } = await promisify(execFile)(process.execPath, child, { maxBuffer: 2 ** 28, timeout: 170_000 })
      report = JSON.parse(stdout) as LoadReport
    } finally {
      clearInterval(metronome)
    }
    const { inserts, transactions, failures } = report
    console.log(`${report.queries} queries in ${report.ms} ms, ${kills} backends killed, ${JSON.stringify(failures)}`)

    expect(kills).toBeGreaterThan(0)
    expect(report.wrong).toEqual([])
    expect(report.uncaught).toEqual([])
    expect(report.heldAtOnce).toBe(order.max)
    const failedOnes = Object.values(failures).reduce((sum, n) => sum + n, 0)
    expect(failedOnes).toBeLessThanOrEqual(report.queries / 100)

    const { rows } = await killer.query<{ n: number; part: string; times: number }>(
      'select n, part, count(*)::int as times from written group by n, part',
    )
    expect(rows.filter(({ times }) => times > 1)).toEqual([])
    const there = (part: string): Set<number> => new Set(rows.filter((row) => row.part === part).map(({ n }) => n))
    const [whole, left, right] = ['whole', 'left', 'right'].map(there) as [Set<number>, Set<number>, Set<number>]
    expect(inserts.done.filter((n) => !whole.has(n))).toEqual([])
    expect(inserts.failed.filter((n) => whole.has(n))).toEqual([])
    expect(transactions.done.filter((n) => !left.has(n) || !right.has(n))).toEqual([])
    expect(transactions.failed.filter((n) => left.has(n) || right.has(n))).toEqual([])
    expect(left).toEqual(right)

    expect(await backends(database.url, order.applicationName)).toBe(0)
    await killer.end()
    await database.drop()
  }, 180_000)
})
