// Prepared statements on a real server when their plans go bad or their tables change: PostgreSQL keeps one plan for
// all parameters after five runs, which is right for most texts and disastrous on skewed data, and it refuses a plan
// whose row type has changed. The server's own books tell what ran under a name and how.

import { CompiledQuery } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, onTestFinished, test } from 'vitest'
import type { Events } from '../../src/core/events.ts'
import type { SmartPgDialect } from '../../src/index.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { startWiretap } from '../support/wiretap.ts'
import { open } from './dialects.ts'

interface Tables {
  skewed: { id: number; kind: number }
}

const ROWS = 100_000
const RARE = 100

// Ordered by id, a plan for any kind expects to meet one soon; the rare ones all stand at the very end.
const FIRST_OF_KIND = 'select id from skewed where kind = $1 order by id limit 1'

let database: Database
beforeAll(async () => {
  database = await createDatabase({ url: inject('primaryUrl') })
  await ask(
    database.url,
    `create table skewed (id int primary key, kind int not null);
     alter table skewed alter column kind set statistics 1000;
     insert into skewed select n, greatest(0, n - ${ROWS - RARE}) from generate_series(1, ${ROWS}) as n;
     create index skewed_kind on skewed (kind);`,
  )
  await ask(database.url, 'vacuum analyze skewed')
})
afterAll(() => database.drop())

const onlyOne = { min: 0, minIdle: 0, initial: 0, max: 1, keepalive: 0 } as const

const firstOfKind = (kind: number) => CompiledQuery.raw(FIRST_OF_KIND, [kind])

interface Plans {
  readonly generic: number
  readonly custom: number
}

/** What the one session of this pool has run under a name for a text; null when it knows the text by no name. */
async function plansOf(db: Kysely<Tables>, text: string): Promise<Plans | null> {
  const query = CompiledQuery.raw(
    `select generic_plans::int as generic, custom_plans::int as custom
     from pg_prepared_statements where statement = $1 order by name`,
    [text],
  )
  const { rows } = await db.executeQuery<{ generic: number; custom: number }>(query)
  return rows[0] ?? null
}

function regressionsOf(dialect: SmartPgDialect): Events['plan-regression'][] {
  const told: Events['plan-regression'][] = []
  const listening = dialect.on('plan-regression', (event) => told.push(event))
  onTestFinished(() => listening[Symbol.dispose]())
  return told
}

/**
 * A dialect whose first runs of the text nothing has disturbed. What is known of a text rests on four runs at first, and
 * where one of them was held up by the machine for milliseconds, a plan that takes as long is no reason to say anything.
 */
async function withQuietBeginning() {
  for (let tries = 1; ; tries++) {
    const opened = open<Tables>({ primary: database.url, pool: onlyOne })
    let slowest = 0
    for (let run = 0; run < 6; run++) {
      const began = performance.now()
      await opened.db.executeQuery(firstOfKind(1 + run))
      // Connecting, parsing and cold caches are not counted by the watch either.
      if (run > 1) slowest = Math.max(slowest, performance.now() - began)
    }
    if (slowest < 0.5 || tries === 50) return opened
    await opened.db.destroy()
  }
}

/** How many rows the server read by the primary key of the skewed table so far. */
async function readByKey(): Promise<number> {
  const [row] = await ask<{ n: number }>(
    database.url,
    `select idx_tup_read::int as n from pg_stat_user_indexes where indexrelname = 'skewed_pkey'`,
  )
  return row!.n
}

describe('a text whose plan for all parameters is a disaster on skewed data', () => {
  test(
    'is told of once, and from then on it is planned for its parameters again',
    { timeout: 60_000 },
    async (context) => {
      const [{ version }] = (await ask<{ version: number }>(
        database.url,
        "select current_setting('server_version_num')::int as version",
      )) as [{ version: number }]
      if (version < 150_000)
        context.skip('pg_prepared_statements counts plans since PostgreSQL 14, and statistics can be flushed since 15')
      const { db, dialect } = await withQuietBeginning()
      const told = regressionsOf(dialect)
      let runs = 0
      for (; runs < 500 && told.length === 0; runs++) {
        const kind = 1 + (runs % RARE)
        expect((await db.executeQuery(firstOfKind(kind))).rows).toEqual([{ id: ROWS - RARE + kind }])
      }
      expect(told).toMatchObject([{ node: 'primary', summary: 'SELECT skewed' }])
      expect(told[0]!.nowMs).toBeGreaterThan(5 * told[0]!.baselineMs)
      const before = await plansOf(db, FIRST_OF_KIND)
      // The server had indeed chosen the one plan for all.
      expect(before!.generic).toBeGreaterThan(32)
      await db.executeQuery(CompiledQuery.raw('select pg_stat_force_next_flush()'))
      await db.executeQuery(CompiledQuery.raw('select 1'))
      const read = await readByKey()
      for (let run = 0; run < 100; run++) await db.executeQuery(firstOfKind(1 + (run % RARE)))
      expect(await plansOf(db, FIRST_OF_KIND)).toEqual(before)
      await db.executeQuery(CompiledQuery.raw('select pg_stat_force_next_flush()'))
      await db.executeQuery(CompiledQuery.raw('select 1'))
      // Each of them would have read nearly all of the table.
      expect((await readByKey()) - read).toBeLessThan(ROWS)
      expect(told).toHaveLength(1)
    },
  )

  test('texts of a batch are not blamed for the time of the whole batch', { timeout: 60_000 }, async () => {
    const { db, dialect } = open<Tables>({ primary: database.url, pool: onlyOne })
    const told = regressionsOf(dialect)
    const small = (n: number) => CompiledQuery.raw('select id from skewed where id = $1', [n])
    for (let n = 1; n <= 10; n++) await db.executeQuery(small(n))
    const many = Array.from({ length: 400 }, (_, n) => small(n + 1))
    for (let round = 0; round < 3; round++) expect(await db.batch(many)).toHaveLength(400)
    for (let round = 0; round < 3; round++) await db.transaction().execute((trx) => trx.batch(many))
    expect(told).toEqual([])
    const plans = await plansOf(db, 'select id from skewed where id = $1')
    expect(plans!.generic + plans!.custom).toBeGreaterThan(2400)
  })
})

describe('statements.never', () => {
  test('keeps a text from ever standing among the prepared statements, wherever it is run', async () => {
    const { db } = open<Tables>({
      primary: database.url,
      pool: onlyOne,
      statements: { prepare: 'always', never: [FIRST_OF_KIND, /unnamed/] },
    })
    const marked = CompiledQuery.raw('select id as unnamed from skewed where id = $1', [1])
    const other = CompiledQuery.raw('select id from skewed where id = $1', [1])
    for (const query of [firstOfKind(3), marked, other]) {
      for (let run = 0; run < 7; run++) await db.executeQuery(query)
      await db.batch([query, query])
      await db.transaction().execute((trx) => trx.executeQuery(query))
    }
    expect(await plansOf(db, FIRST_OF_KIND)).toBeNull()
    expect(await plansOf(db, marked.sql)).toBeNull()
    expect(await plansOf(db, other.sql)).not.toBeNull()
  })
})

describe('a table that changes under prepared statements', () => {
  const text = 'select * from changing where id = $1'

  test('is met by one connection of the pool; the others have parsed it anew before they could', async () => {
    const max = 4
    await ask(database.url, 'create table changing (id int primary key, n int); insert into changing values (1, 1)')
    const tap = await startWiretap(database.url)
    onTestFinished(() => tap.close())
    const { db } = open<Tables>({
      primary: tap.url,
      pool: { min: 0, minIdle: 0, initial: max, max, keepalive: 0 },
      statements: { prepare: 'always' },
    })
    const query = CompiledQuery.raw(text, [1])
    const pid = CompiledQuery.raw('select pg_backend_pid() as pid')
    const pids = new Set<number>()
    /** As many leases at the same time as there are connections; in each of them `work`, one lease after the other. */
    const onEach = async (work: (one: Kysely<Tables>) => Promise<void>): Promise<void> => {
      let turn = Promise.resolve()
      let arrived = 0
      let everybodyIsHere!: () => void
      const here = new Promise<void>((resolve) => (everybodyIsHere = resolve))
      await Promise.all(
        Array.from({ length: max }, () =>
          db.connection().execute(async (one) => {
            // From its second statement on a lease has a connection of its own.
            await one.executeQuery(pid)
            const { rows } = await one.executeQuery<{ pid: number }>(pid)
            pids.add(rows[0]!.pid)
            if (++arrived === max) everybodyIsHere()
            await here
            await (turn = turn.then(() => work(one)))
          }),
        ),
      )
    }
    const columns: string[][] = []
    const read = async (one: Kysely<Tables>): Promise<void> => {
      const { rows } = await one.executeQuery<Record<string, unknown>>(query)
      columns.push(Object.keys(rows[0]!))
    }
    await onEach(read)
    expect(pids.size).toBe(max)
    expect(tap.errors).toEqual([])
    for (const [round, column] of ['extra', 'more'].entries()) {
      await ask(database.url, `alter table changing add column ${column} int`)
      columns.length = 0
      await onEach(read)
      await onEach(read)
      expect(columns).toHaveLength(2 * max)
      for (const names of columns) expect(names).toEqual(['id', 'n', 'extra', 'more'].slice(0, 3 + round))
      // One for each change, and not one for each connection.
      expect(tap.errors).toEqual(Array(round + 1).fill('0A000'))
    }
    expect(pids.size).toBe(max)
  })
})
