// What only shows when a connection lives long, or its user is slow: tens of thousands of different statements on one
// session, and a reader of a stream who takes his time while the server counts it.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { expect, inject, test } from 'vitest'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { open, spread } from './dialects.ts'

const one = { min: 0, initial: 1, minIdle: 0, max: 1 } as const
const MIB = 1024 * 1024
// With wire: 'pg' each waits for the one before.
const statements = wire === 'pg' ? 5_000 : 20_000

/** What the session's own backend holds, in bytes. */
async function memoryOf(db: Kysely<never>): Promise<number> {
  const text = 'select sum(total_bytes)::float8 as bytes from pg_backend_memory_contexts'
  const { rows } = await sql.raw<{ bytes: number }>(text).execute(db)
  return rows[0]!.bytes
}

test('tens of thousands of different statements leave a session with as many prepared ones as it may keep, and its memory bounded', async () => {
  const { db } = open<never>({
    primary: inject('primaryUrl'),
    pool: one,
    statements: { prepare: 'always', cacheSize: 100 },
  })
  const before = await memoryOf(db)
  await spread(statements, 50, async (n) => {
    const { rows } = await sql.raw<{ n: number }>(`select ${n} as n`).execute(db)
    if (rows[0]!.n !== n) throw new Error(`${n} was answered with ${rows[0]!.n}`)
  })
  const { rows } = await sql<{ n: number }>`select count(*)::int as n from pg_prepared_statements`.execute(db)
  expect(rows[0]!.n).toBeLessThanOrEqual(101)
  const grown = (await memoryOf(db)) - before
  console.log(`${statements} different statements: the backend grew by ${(grown / MIB).toFixed(1)} MiB`)
  // Kept for ever they would be thirteen kilobytes each.
  expect(grown).toBeLessThan(10 * MIB)
})

test('a reader of a stream who takes longer than statement_timeout gets every row', async () => {
  const url = inject('primaryUrl')
  const { db, applicationName } = open<never>({
    primary: url,
    pool: one,
    session: { settings: { statement_timeout: '100ms' } },
    queryTimeout: 100,
  })
  const rested = `select from pg_stat_activity where application_name = $1 and state = 'idle in transaction'
    and clock_timestamp() - state_change > '250ms'`
  const numbers = sql<{ n: number }>`select n from generate_series(1, 9) as n`
  const seen: unknown[] = []
  for await (const { rows } of db.getExecutor().stream<{ n: number }>(numbers.compile(db), 4)) {
    seen.push(...rows.map(({ n }) => n))
    if (seen.length === 4) {
      await expect.poll(async () => (await ask(url, rested, [applicationName])).length, { interval: 10 }).toBe(1)
    }
  }
  expect(seen).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9])
})

test('a value that throws does not spoil the name of its statement: the next value is answered under it', async () => {
  const { db } = open<never>({ primary: inject('primaryUrl'), pool: one, statements: { prepare: 'always' } })
  const echo = async (value: unknown): Promise<unknown> =>
    (await sql<{ v: string }>`select ${value}::text as v, pg_backend_pid()`.execute(db)).rows[0]!.v
  const unspeakable = {
    toPostgres: () => {
      throw new Error('unspeakable')
    },
  }
  for (const n of [1, 2, 3]) {
    await expect(echo(unspeakable)).rejects.toMatchObject({ code: 'SMARTPG_INVALID_QUERY' })
    expect(await echo(`value ${n}`)).toBe(`value ${n}`)
  }
  const named = sql<{ calls: string }>`select generic_plans + custom_plans as calls from pg_prepared_statements
    where statement like '%::text as v%' and statement not like '%custom_plans%'`
  const { rows } = await named.execute(db)
  expect(rows.map(({ calls }) => calls)).toEqual(['3'])
})
