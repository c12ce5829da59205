// PgBouncer in between. In transaction mode every statement may meet another server connection, with names that
// others have prepared and settings that others have left; in session mode a client keeps one, until it goes. Several
// dialects share few server connections here, so that what can collide does. Some tests show first what happens to
// whoever uses pg alone.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { Migrator } from 'kysely/migration'
import type { MigrationResultSet } from 'kysely/migration'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, onTestFinished, test, vi } from 'vitest'
import { ConfigError } from '../../src/index.ts'
import type { SmartPgOptions } from '../../src/index.ts'
import { noPgBouncer, pgBouncerNeeded, startPgBouncer, stockClient } from '../support/pgbouncer.ts'
import type { PgBouncer, PgBouncerSettings } from '../support/pgbouncer.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { failure, heldAtOnce, open, spread, Tally } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  written: { n: number; part: 'alone' | 'left' | 'right' | 'batch' }
}
type Db = Kysely<Tables>

/** Server connections, for transactions and sessions. */
const serverConnections = 4
const max = 4
const calls = 1_000

describe.skipIf(noPgBouncer)(`behind PgBouncer ${pgBouncerNeeded}`, () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    await ask(database.url, 'create table written (n int not null, part text not null)')
  })
  afterAll(() => database.drop())
  beforeEach(() => ask(database.url, 'truncate written'))

  const bounce = async (settings: PgBouncerSettings): Promise<PgBouncer> => {
    const bouncer = await startPgBouncer(database.url, settings)
    // Ends before the dialects are destroyed, which must settle all the same.
    onTestFinished(() => bouncer.close())
    return bouncer
  }

  const inTransactionMode = (settings: PgBouncerSettings = {}): Promise<PgBouncer> =>
    bounce({ pool_mode: 'transaction', default_pool_size: serverConnections, ...settings })

  /** A session takes a server connection for as long as its client is there, so there must be as many. */
  const inSessionMode = (settings: PgBouncerSettings = {}): Promise<PgBouncer> =>
    bounce({ pool_mode: 'session', default_pool_size: 3 * max, ...settings })

  const both = [
    ['transaction mode', inTransactionMode],
    ['session mode', inSessionMode],
  ] as const

  const through = ({ url }: PgBouncer, options: Partial<SmartPgOptions> = {}): Opened<Tables> =>
    open<Tables>({ primary: url, pool: { max }, ...options })

  const three = (bouncer: PgBouncer, options: Partial<SmartPgOptions> = {}): Db[] =>
    Array.from({ length: 3 }, () => through(bouncer, options).db)

  /** One read in seven texts that only their literals tell apart. */
  async function read(db: Db, n: number): Promise<void> {
    const text = `text ${n % 7}`
    const rows = await db.selectNoFrom([sql<number>`${n}::int`.as('n'), sql.lit(text).as('text')]).execute()
    expect(rows).toEqual([{ n, text }])
  }

  async function transfer(db: Db, n: number): Promise<void> {
    await db.transaction().execute(async (trx) => {
      await trx.insertInto('written').values({ n, part: 'left' }).execute()
      await trx.insertInto('written').values({ n, part: 'right' }).execute()
      const rows = await trx.selectFrom('written').selectAll().where('n', '=', n).orderBy('part').execute()
      expect(rows).toEqual([
        { n, part: 'left' },
        { n, part: 'right' },
      ])
    })
  }

  async function batch(db: Db, n: number): Promise<void> {
    const answers = await db.batch([
      db.selectNoFrom(sql<number>`${n}::int`.as('n')),
      db.insertInto('written').values({ n, part: 'batch' }).returning('n'),
      db.selectNoFrom(sql<number>`-${n}::int`.as('n')),
    ])
    expect(answers).toEqual([[{ n }], [{ n }], [{ n: -n }]])
  }

  async function stream(db: Db, n: number): Promise<void> {
    const seen: number[] = []
    const rows = db
      .selectFrom(sql<{ i: number }>`generate_series(${n}::int, ${n + 24}::int)`.as('i'))
      .select(sql<number>`i`.as('i'))
    for await (const { i } of rows.stream(10)) seen.push(i)
    expect(seen).toEqual(Array.from({ length: 25 }, (_, i) => n + i))
  }

  /** One half reads; writes, transactions, batches and streams the other. */
  async function work(db: Db, n: number): Promise<void> {
    if (n % 10 < 5) await read(db, n)
    else if (n % 10 < 7) await db.insertInto('written').values({ n, part: 'alone' }).execute()
    else if (n % 10 === 7) await transfer(db, n)
    else if (n % 10 === 8) await batch(db, n)
    else await stream(db, n)
  }

  interface Load {
    /** Numbers whose callers were told that it is done. */
    readonly done: number[]
    readonly reads: Tally
    readonly streams: Tally
    readonly writes: Tally
  }

  async function load(dbs: readonly Db[], count: number, at: Record<number, () => unknown> = {}): Promise<Load> {
    const told: Load = { done: [], reads: new Tally(), streams: new Tally(), writes: new Tally() }
    const meanwhile: unknown[] = []
    await spread(count, 24, async (n) => {
      if (at[n] !== undefined) meanwhile.push(at[n]())
      try {
        await work(dbs[n % dbs.length]!, n)
        told.done.push(n)
      } catch (error) {
        if ((error as Error).name === 'AssertionError') throw error
        told[n % 10 < 5 ? 'reads' : n % 10 < 9 ? 'writes' : 'streams'].add(error)
      }
    })
    await Promise.all(meanwhile)
    return told
  }

  const failuresOf = ({ reads, streams, writes }: Load): Tally['counts'][] => [
    reads.counts,
    streams.counts,
    writes.counts,
  ]
  const none = [{}, {}, {}]

  /** What was acknowledged is there, nothing is there twice, no transaction is torn. */
  async function expectKept({ done }: Load): Promise<void> {
    const rows = await ask<{ n: number; part: string; times: number }>(
      database.url,
      'select n, part, count(*)::int as times from written group by n, part',
    )
    expect(rows.filter(({ times }) => times > 1)).toEqual([])
    const there = (part: string): Set<number> => new Set(rows.filter((row) => row.part === part).map(({ n }) => n))
    expect(there('left')).toEqual(there('right'))
    const written = new Set(rows.map(({ n }) => n))
    expect(done.filter((n) => n % 10 >= 5 && n % 10 < 9 && !written.has(n))).toEqual([])
  }

  describe('every statement is answered, by its own answer', () => {
    test.each(
      both.flatMap(([mode, start]) =>
        (['auto', 'always', 'never'] as const).map((prepare) => [mode, prepare, start] as const),
      ),
    )(
      'in %s, with statements.prepare %s, where three dialects share the server connections',
      async (_, prepare, start) => {
        const dbs = three(await start(), { statements: { prepare } })
        const told = await load(dbs, calls)
        expect(failuresOf(told)).toEqual(none)
        expect(told.done).toHaveLength(calls)
        await expectKept(told)
      },
    )

    test('with lanes off and BEGIN sent by itself', async () => {
      const dbs = three(await inTransactionMode(), {
        pool: { max, lanes: false },
        transactions: { lazyBegin: false },
      })
      const told = await load(dbs, 1_000)
      expect(failuresOf(told)).toEqual(none)
      await expectKept(told)
    })

    test('by a single server connection for all', async () => {
      const dbs = three(await inTransactionMode({ default_pool_size: 1 }))
      const told = await load(dbs, 500)
      expect(failuresOf(told)).toEqual(none)
      await expectKept(told)
    })
  })

  describe('two who give one name to different texts, in transaction mode', () => {
    const texts = ["select 'mine'::text as whose", "select 'yours'::text as whose"] as const

    test('with pg and names like s1: one is given the answer of the other, without an error', async () => {
      const { url } = await inTransactionMode({ default_pool_size: 2 })
      const [a, b] = [await stockClient(url), await stockClient(url)]
      const ask = async (client: typeof a, text: string): Promise<string> =>
        (await client.query<{ whose: string }>({ name: 's1', text })).rows[0]!.whose
      // Each prepares it on another server connection; the one that came free last is given out first.
      await a.query('begin')
      expect([await ask(a, texts[0]), await ask(b, texts[1])]).toEqual(['mine', 'yours'])
      await a.query('commit')
      await b.query('begin')
      expect(await ask(b, texts[1])).toBe('mine')
      await Promise.all([a.end(), b.end()])
    })

    test.each(['auto', 'always'] as const)('with prepare %s: each is given his own', async (prepare) => {
      const bouncer = await inTransactionMode({ default_pool_size: 2 })
      const [a, b] = [0, 1].map(() => through(bouncer, { statements: { prepare }, pool: { max: 1 } }).db) as [Db, Db]
      const whose = async (db: Db, text: string): Promise<unknown> =>
        (await sql.raw<{ whose: string }>(text).execute(db)).rows[0]!.whose
      for (let i = 0; i < 20; i++) {
        await a.transaction().execute(async (trx) => {
          expect([await whose(trx, texts[0]), await whose(b, texts[1])]).toEqual(['mine', 'yours'])
        })
        await b.transaction().execute(async (trx) => {
          expect([await whose(trx, texts[1]), await whose(a, texts[0])]).toEqual(['yours', 'mine'])
        })
      }
    })
  })

  describe('a setting that it does not let through', () => {
    test.each([
      [
        'statement_timeout',
        { session: { settings: { statement_timeout: '5s' } } },
        'session.settings.statement_timeout',
      ],
      ['search_path', { session: { settings: { search_path: 'app' } } }, 'session.settings.search_path'],
    ] as const)(
      '%s is told by one ConfigError that names it, to everybody and by ready()',
      async (_, options, path) => {
        const { db, dialect } = through(await inTransactionMode(), options)
        const errors = await Promise.all(Array.from({ length: 5 }, () => failure(sql`select 1`.execute(db))))
        for (const error of [...errors, await failure(dialect.ready())]) {
          expect(error).toBeInstanceOf(ConfigError)
          expect((error as unknown as ConfigError).faults.map((fault) => fault.path)).toEqual([path])
        }
      },
    )

    test('options of the connection likewise', async () => {
      const { url } = await inTransactionMode()
      const { db } = open<Tables>({ primary: `${url}?options=-c%20work_mem%3D1MB` })
      const error = await failure(sql`select 1`.execute(db))
      expect(error).toBeInstanceOf(ConfigError)
      expect(error.message).toContain('options')
    })

    test('and one that its ignore_startup_parameters names does not count: nobody is refused', async () => {
      const bouncer = await inTransactionMode({ ignore_startup_parameters: 'statement_timeout' })
      const { db } = through(bouncer, { session: { settings: { statement_timeout: '5s' } } })
      const { rows } = await sql`show statement_timeout`.execute(db)
      expect(rows).toEqual([{ statement_timeout: '0' }])
    })
  })

  describe('a cancel', () => {
    const running = async (): Promise<string[]> => {
      const rows = await ask<{ query: string }>(
        database.url,
        `select query from pg_stat_activity
         where datname = current_database() and state = 'active' and query like '%pg_sleep%' and pid <> pg_backend_pid()`,
      )
      return rows.map(({ query }) => query)
    }

    test("by pg_cancel_backend with pg's processID cancels nothing", async () => {
      const client = await stockClient((await inTransactionMode()).url)
      const asleep = client.query('select pg_sleep(60)').catch(() => undefined)
      await expect.poll(running).toHaveLength(1)
      const cancelled = await ask(database.url, 'select pg_cancel_backend($1) as told', [
        (client as unknown as { processID: number }).processID,
      ])
      expect(cancelled).toEqual([{ told: false }])
      expect(await running()).toHaveLength(1)
      await ask(
        database.url,
        `select pg_terminate_backend(pid) from pg_stat_activity where query like 'select pg_sleep%'`,
      )
      await asleep
      await client.end()
    })

    test.each(both)('in %s, by queryTimeout, ends the statement on the server, and no other', async (_, start) => {
      const bouncer = await start()
      const { db } = through(bouncer, { queryTimeout: '300ms' })
      const other = through(bouncer).db
      const beside = sql`select pg_sleep(1)`.execute(other)
      const error = await failure(sql`select pg_sleep(60)`.execute(db))
      expect(error.code).toBe('SMARTPG_QUERY_TIMEOUT')
      expect(error.cause).toMatchObject({ code: '57014' })
      await beside
      expect(await running()).toEqual([])
    })
  })

  describe('a pooler that goes away and comes back', () => {
    test.each([
      ['killed', (bouncer: PgBouncer) => bouncer.kill9()],
      ['stopped', (bouncer: PgBouncer) => bouncer.stop()],
    ] as const)('when it is %s: reads are answered, writes told the truth', async (_, end) => {
      const bouncer = await inTransactionMode()
      const dbs = Array.from({ length: 3 }, () => through(bouncer, { breaker: false }).db)
      const restart = async (): Promise<void> => {
        await end(bouncer)
        await bouncer.start()
      }
      const told = await load(dbs, 3_000, { 1_000: restart })
      console.log(`3000 calls, the pooler ended among them: ${JSON.stringify(failuresOf(told))}`)
      expect(told.reads.counts).toEqual({})
      expect(told.done.length).toBeGreaterThanOrEqual(3_000 * 0.98)
      await expectKept(told)
      for (const db of dbs) expect((await db.selectNoFrom(sql<number>`1`.as('n')).execute())[0]!.n).toBe(1)
    })

    test('when its server connections are made anew, nobody notices', async () => {
      const bouncer = await inTransactionMode()
      const again = (): Promise<unknown> => bouncer.admin('reconnect')
      const told = await load(three(bouncer), 2_000, { 500: again, 1_000: again, 1_500: again })
      expect(failuresOf(told)).toEqual(none)
      await expectKept(told)
    })

    test('when each of its server connections lives a second only, nobody notices', async () => {
      const bouncer = await inTransactionMode({ server_lifetime: 1 })
      const since = performance.now()
      const dbs = three(bouncer)
      do {
        await ask(database.url, 'truncate written')
        const told = await load(dbs, 1_000)
        expect(failuresOf(told)).toEqual(none)
        await expectKept(told)
      } while (performance.now() - since < 2_500)
    })

    test('when it pauses, everybody waits until it resumes', async () => {
      const bouncer = await inTransactionMode()
      let paused = false
      const told = load(three(bouncer), 2_000, {
        800: async () => {
          await bouncer.admin('pause')
          paused = true
        },
      })
      await expect.poll(() => paused).toBe(true)
      // Paused means that nobody has a server connection; those who ask wait for one.
      await expect
        .poll(async () => (await bouncer.admin<{ cl_waiting: number }>('show pools')).some((one) => one.cl_waiting > 0))
        .toBe(true)
      await bouncer.admin('resume')
      expect(failuresOf(await told)).toEqual(none)
      await expectKept(await told)
    })
  })

  describe('a pooler that has nothing left', () => {
    test('whoever waited too long for a server connection has not been executed, and is tried again', async () => {
      const bouncer = await inTransactionMode({ default_pool_size: 1, query_wait_timeout: 1 })
      const { db, dialect } = through(bouncer)
      await dialect.ready()
      const refused = new Tally()
      dialect.on('retry', ({ fault }) => refused.add(fault))
      let go!: () => void
      const gone = new Promise<void>((resolve) => (go = resolve))
      let holds!: () => void
      const held = new Promise<void>((resolve) => (holds = resolve))
      const holder = through(bouncer)
        .db.transaction()
        .execute(async (trx) => {
          await sql`select 1`.execute(trx)
          holds()
          await gone
        })
      await held
      const waiting = Promise.all([
        db.selectNoFrom(sql<number>`1`.as('n')).execute(),
        db.insertInto('written').values({ n: 6, part: 'alone' }).execute(),
        transfer(db, 7),
      ])
      await expect.poll(() => refused.total).toBeGreaterThanOrEqual(3)
      go()
      await holder
      await waiting
      expect(await ask(database.url, 'select n, count(*)::int as times from written group by n order by n')).toEqual([
        { n: 6, times: 1 },
        { n: 7, times: 2 },
      ])
    })

    test('a pooler that lets no more clients in: who has no connection waits, and is served when one goes', async () => {
      const bouncer = await inTransactionMode({ max_client_conn: 4 })
      const first = through(bouncer, { pool: { max, min: max, initial: max } })
      await heldAtOnce(first.db as never, max)
      const { db, dialect } = through(bouncer)
      const errors = new Tally()
      dialect.on('error', ({ error }) => errors.add((error as Error).message))
      const waiting = Promise.all(Array.from({ length: 20 }, (_, n) => read(db, n)))
      await expect.poll(() => errors.total).toBeGreaterThanOrEqual(7)
      expect(Object.keys(errors.counts)).toEqual([expect.stringContaining('no more connections allowed')])
      await first.db.destroy()
      await waiting
    })

    test('in session mode more dialects than sessions: those who come late wait within their acquireTimeout', async () => {
      const bouncer = await inSessionMode({ default_pool_size: 2 })
      const first = through(bouncer, { pool: { max: 2, initial: 2, min: 2 } })
      expect((await heldAtOnce(first.db as never, 2)).size).toBe(2)
      const late = through(bouncer, { pool: { max: 1 } })
      const waiting = read(late.db, 1)
      await expect
        .poll(async () => (await bouncer.admin<{ cl_waiting: number }>('show pools')).some((one) => one.cl_waiting > 0))
        .toBe(true)
      await first.db.destroy()
      await waiting
    })
  })

  describe('what a session keeps', () => {
    /** Two statements, because a first one may run anywhere. */
    const session = async <T>(db: Db, text: string): Promise<T[]> =>
      db.connection().execute(async (one) => {
        await sql`select 1`.execute(one)
        return (await sql.raw<T>(text).execute(one)).rows
      })

    test('in session mode is gone with its lease, and with its client', async () => {
      const bouncer = await inSessionMode({ default_pool_size: 1 })
      const leave = [
        "set work_mem = '77MB'",
        'set role pg_read_all_data',
        'select pg_advisory_lock(7)',
        'create temp table mine (n int)',
        'prepare mine as select 1',
        'listen mine',
      ]
      const traces = `select current_setting('work_mem') as work_mem, current_user::text as who,
        (select count(*)::int from pg_locks where pid = pg_backend_pid() and locktype = 'advisory') as locks,
        to_regclass('pg_temp.mine')::text as tables, (select count(*)::int from pg_prepared_statements where from_sql) as prepared,
        (select count(*)::int from pg_listening_channels()) as channels`
      const dirty = async (db: Db): Promise<void> =>
        db.connection().execute(async (one) => {
          for (const text of leave) await sql.raw(text).execute(one)
        })
      const fresh = await ask(database.url, traces)
      const one = through(bouncer, { pool: { max: 1 } })
      await dirty(one.db)
      expect(await session(one.db, traces)).toEqual(fresh)
      // The next client gets the same server connection.
      await dirty(one.db)
      await one.db.destroy()
      expect(await session(through(bouncer, { pool: { max: 1 } }).db, traces)).toEqual(fresh)
    })

    test('in session mode an advisory lock keeps others out until its lease is over', async () => {
      const bouncer = await inSessionMode()
      const [a, b] = [through(bouncer).db, through(bouncer).db]
      const tryIt = 'select pg_try_advisory_lock(7) as mine'
      await a.connection().execute(async (one) => {
        expect((await sql.raw(tryIt).execute(one)).rows).toEqual([{ mine: true }])
        expect(await session(b, tryIt)).toEqual([{ mine: false }])
      })
      await expect.poll(() => session(b, tryIt)).toEqual([{ mine: true }])
    })

    test('in transaction mode it belongs to whoever meets the same server connection, and excludes nobody', async () => {
      const bouncer = await inTransactionMode({ default_pool_size: 1 })
      const [a, b] = [through(bouncer).db, through(bouncer).db]
      const tryIt = 'select pg_try_advisory_lock(7) as mine'
      await a.connection().execute(async (one) => {
        expect((await sql.raw(tryIt).execute(one)).rows).toEqual([{ mine: true }])
        expect(await session(b, tryIt)).toEqual([{ mine: true }])
      })
    })

    test.each(both)("in %s a transaction's lock and SET LOCAL are its own, and gone with it", async (_, start) => {
      const bouncer = await start({ default_pool_size: 2 })
      const options = { pool: { max: 1 } }
      const [a, b] = [through(bouncer, options).db, through(bouncer, options).db]
      const tryIt = sql<{ mine: boolean }>`select pg_try_advisory_xact_lock(7) as mine`
      const inTransaction = <T>(db: Db, work: (trx: Db) => Promise<T>): Promise<T> => db.transaction().execute(work)
      const workMem = async (db: Db): Promise<unknown> => (await sql`show work_mem`.execute(db)).rows[0]
      const usual = await workMem(b)
      await inTransaction(a, async (trx) => {
        expect((await tryIt.execute(trx)).rows).toEqual([{ mine: true }])
        await sql`set local work_mem = '77MB'`.execute(trx)
        expect(await workMem(trx)).toEqual({ work_mem: '77MB' })
        expect(await inTransaction(b, async (other) => (await tryIt.execute(other)).rows)).toEqual([{ mine: false }])
        expect(await workMem(b)).toEqual(usual)
      })
      expect([await workMem(a), await workMem(b)]).toEqual([usual, usual])
      expect(await inTransaction(b, async (other) => (await tryIt.execute(other)).rows)).toEqual([{ mine: true }])
    })

    test('in transaction mode what session.init sets stays on a server connection, for whoever comes there', async () => {
      const bouncer = await inTransactionMode({ default_pool_size: 1 })
      const init = through(bouncer, { session: { init: "set work_mem = '77MB'" } })
      await init.dialect.ready()
      const { rows } = await sql`show work_mem`.execute(through(bouncer).db)
      expect(rows).toEqual([{ work_mem: '77MB' }])
    })

    test('in transaction mode with server_reset_query_always: no setting of one meets another', async () => {
      const bouncer = await inTransactionMode({ server_reset_query_always: 1 })
      const dbs = three(bouncer)
      const met = new Tally()
      await spread(400, 12, async (n) => {
        const db = dbs[n % 3]!
        if (n % 4 === 0) {
          await db.connection().execute(async (one) => {
            await sql.raw(`set work_mem = '77MB'`).execute(one)
          })
        } else {
          const { rows } = await sql<{ work_mem: string }>`show work_mem`.execute(db)
          if (rows[0]!.work_mem === '77MB') met.add('a setting of a stranger')
        }
      })
      expect(met.counts).toEqual({})
    })
  })

  describe("Kysely's Migrator", () => {
    const migrations = {
      '1_planes': {
        up: async (db: Kysely<unknown>) => {
          await sql`create table plane (id int)`.execute(db)
          await sql`insert into ran values ('planes')`.execute(db)
        },
        down: async () => undefined,
      },
      '2_seats': {
        up: async (db: Kysely<unknown>) => {
          await sql`create table seat (id int)`.execute(db)
          await sql`insert into ran values ('seats')`.execute(db)
        },
        down: async () => undefined,
      },
    }
    const migrate = (db: Db): Promise<MigrationResultSet> =>
      new Migrator({ db, provider: { getMigrations: () => Promise.resolve(migrations) } }).migrateToLatest()
    const ran = (): Promise<unknown[]> =>
      ask(database.url, 'select name, count(*)::int as times from ran group by name order by name')
    const once = [
      { name: 'planes', times: 1 },
      { name: 'seats', times: 1 },
    ]
    beforeEach(() =>
      ask(
        database.url,
        'drop table if exists kysely_migration, kysely_migration_lock, plane, seat, ran; create table ran (name text)',
      ),
    )

    test('in session mode excludes others: of three at once each migration runs once', async () => {
      const all = await Promise.all(three(await inSessionMode()).map((db) => migrate(db)))
      expect(all.map(({ error }) => error)).toEqual([undefined, undefined, undefined])
      expect(await ran()).toEqual(once)
    })

    test('in transaction mode runs, as long as it is alone', async () => {
      const bouncer = await inTransactionMode()
      expect((await migrate(through(bouncer).db)).error).toBeUndefined()
      expect(await ran()).toEqual(once)
    })
  })

  describe('LISTEN', () => {
    beforeEach(() => {
      const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
      onTestFinished(() => {
        const expected = { type: 'SmartPgWarning', code: 'SMARTPG_LISTEN_POOLED' }
        expect(warned).toHaveBeenCalledExactlyOnceWith(expect.stringContaining('transaction mode'), expected)
        warned.mockRestore()
      })
    })

    test('is heard in session mode', async () => {
      const bouncer = await inSessionMode()
      const { db, dialect } = through(bouncer)
      const heard: string[] = []
      await dialect.listen('news', (payload) => void heard.push(payload))
      await sql`select pg_notify('news', 'hello')`.execute(db)
      await expect.poll(() => heard).toEqual(['hello'])
    })

    test('is not kept in transaction mode, and that is reported', async () => {
      const bouncer = await inTransactionMode()
      const { db, dialect } = through(bouncer, { pool: { max, keepalive: '100ms' } })
      const reported: unknown[] = []
      dialect.on('error', ({ during, error }) => {
        if (during === 'listen') reported.push(error)
      })
      const hears = dialect.listen('news', () => undefined)
      hears.catch(() => undefined)
      // Another client meets the server connection that LISTEN was said on, and cleans it up.
      await spread(200, 8, async () => {
        await sql`discard all`.execute(db)
      })
      await expect.poll(() => reported.some((error) => error instanceof ConfigError)).toBe(true)
    })
  })
})
