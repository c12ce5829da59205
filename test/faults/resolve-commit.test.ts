// `transactions.resolveCommit` before real servers: the answer to COMMIT is lost in every way there is, and what the
// caller is told is compared with what the server really has. Where it cannot be known, he is told that.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest'
import { BatchError, NotExecutedError, OutcomeUnknownError, retryTransaction } from '../../src/index.ts'
import type { QueryEvent, SmartPgOptions } from '../../src/index.ts'
import type { FaultProxy } from '../support/fault-proxy.ts'
import { noPgBouncer, pgBouncerNeeded, startPgBouncer } from '../support/pgbouncer.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { openBehindProxy, still } from './behind-proxy.ts'
import type { Behind as BehindProxy } from './behind-proxy.ts'
import { borrowed, failure, heldAtOnce, ownOnly, ownPidOf, spread } from './dialects.ts'

interface Tables {
  written: { n: number }
}

type Behind = BehindProxy<Tables>
type Line = FaultProxy['connections'][number]

const TABLES = 'create table written (n int not null)'
const pool = { ...still, initial: 2, max: 3 }
const connected = (url: string, options: Partial<SmartPgOptions> = {}): Promise<Behind> =>
  openBehindProxy<Tables>(url, { pool, transactions: { resolveCommit: true }, ...options })

const write = (db: Kysely<Tables>, n: number): Promise<unknown> => db.insertInto('written').values({ n }).execute()

/** What the caller of a transaction is told. */
const told = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'kept',
    (error: Error) => error.name,
  )

/** The proxy's end of the connection that this transaction stands on. */
async function lineOf(trx: Kysely<Tables>, proxy: FaultProxy): Promise<Line> {
  const before = new Map(proxy.open.map((line) => [line, line.bytes.toServer]))
  await sql`select 1`.execute(trx)
  const spoke = proxy.open.filter((line) => line.bytes.toServer > before.get(line)!)
  expect(spoke).toHaveLength(1)
  return spoke[0]!
}

/** What is sent next on this line is lost, and with it the connection. */
function losesNext(line: Line): void {
  const { toServer } = line.bytes
  line.silence('toServer')
  void expect.poll(() => line.bytes.toServer, { interval: 1 }).toBeGreaterThan(toServer).then(() => line.reset()) // prettier-ignore
}

// There is nothing to be tested over pg's own client: the option is refused there.
describe.skipIf(wire === 'pg')('a COMMIT whose answer is lost (wire: native)', () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    await ask(
      database.url,
      `${TABLES};
      create table checked (n int not null);
      create function check_slowly() returns trigger language plpgsql as
        $$ begin perform pg_sleep(0.3); if new.n < 0 then raise exception 'no'; end if; return null; end $$;
      create constraint trigger slowly after insert on checked deferrable initially deferred
        for each row execute function check_slowly()`,
    )
  })
  afterAll(() => database.drop())
  beforeEach(() => ask(database.url, 'truncate written, checked'))

  const written = async (): Promise<number[]> => {
    const rows = await ask<{ n: number }>(database.url, 'select n from written order by n')
    return rows.map(({ n }) => n)
  }

  test('after it was carried out resolves as if it had come, 20 times of 20', async () => {
    const opened = await connected(database.url)
    const { db, dialect, proxy } = opened
    const events: QueryEvent[] = []
    dialect.on('query', (event) => events.push(event))
    const all = Array.from({ length: 20 }, (_, n) => n)
    for (const n of all) {
      await heldAtOnce(db as never, 2)
      const lost = proxy.loseReply({ to: /^commit/i })
      const answer = await db.transaction().execute(async (trx) => {
        await write(trx, n)
        return n
      })
      expect([answer, lost.happened]).toEqual([n, true])
    }
    expect(await written()).toEqual(all)
    // As if it had come: the caller hears of nothing else.
    expect(events.filter(({ ok }) => !ok)).toEqual([])
    expect(events.filter(({ summary }) => summary === 'COMMIT')).toHaveLength(20)
    expect(await dialect.metricsText()).toContain('connection_lost')
  })

  test('before it arrived is certainly not executed, 20 times of 20', async () => {
    const { db, proxy } = await connected(database.url)
    for (let n = 0; n < 20; n++) {
      await heldAtOnce(db as never, 2)
      const error = await failure(
        db.transaction().execute(async (trx) => {
          await write(trx, n)
          losesNext(await lineOf(trx, proxy))
        }),
      )
      expect(error).toBeInstanceOf(NotExecutedError)
      expect(error).toMatchObject({ phase: 'commit', retryable: true, node: 'primary' })
    }
    expect(await written()).toEqual([])
  })

  test('is run again by retryTransaction where it was not executed, and is there once', async () => {
    const { db, proxy } = await connected(database.url)
    let ran = 0
    await retryTransaction(db, async (trx) => {
      await write(trx, 1)
      if (++ran === 1) losesNext(await lineOf(trx, proxy))
    })
    expect(ran).toBe(2)
    await heldAtOnce(db as never, 2)
    const lost = proxy.loseReply({ to: /^commit/i })
    await retryTransaction(db, (trx) => (ran++, write(trx, 2)))
    expect([ran, lost.happened]).toEqual([3, true])
    expect(await written()).toEqual([1, 2])
  })

  test.for([
    [7, 'kept'],
    [-7, 'NotExecutedError'],
  ] as const)('while it is still being carried out is waited for: %i is %s', async ([n, expected]) => {
    const { db, proxy } = await connected(database.url)
    const result = await told(
      db.transaction().execute(async (trx) => {
        await sql`insert into checked values (${n})`.execute(trx)
        const line = await lineOf(trx, proxy)
        const { toServer } = line.bytes
        const running = `select count(*)::int as n from pg_stat_activity where query = 'commit' and state = 'active' and datname = current_database()`
        void expect
          .poll(async () => line.bytes.toServer > toServer && (await ask(database.url, running))[0], { interval: 5 })
          .toEqual({ n: 1 })
          .then(() => line.reset())
      }),
    )
    expect(result).toBe(expected)
    const rows = await ask(database.url, 'select n from checked')
    expect(rows).toEqual(expected === 'kept' ? [{ n }] : [])
  })

  test.for([
    ['a batch before it', (trx: Kysely<Tables>) => trx.batch([trx.insertInto('written').values({ n: 1 })])],
    [
      'several statements in one text',
      (trx: Kysely<Tables>) => sql`insert into written values (1); select 2`.execute(trx),
    ],
    [
      'a savepoint rolled back to',
      async (trx: Kysely<Tables>) => {
        await write(trx, 1)
        await sql`savepoint a`.execute(trx)
        await write(trx, 2)
        await sql`rollback to a`.execute(trx)
      },
    ],
    [
      'a write only below a savepoint',
      async (trx: Kysely<Tables>) => {
        await sql`savepoint a`.execute(trx)
        await write(trx, 1)
        await sql`release a`.execute(trx)
      },
    ],
    [
      'a stream',
      async (trx: Kysely<Tables>) => {
        for await (const _ of trx.insertInto('written').values({ n: 1 }).returning('n').stream(1));
      },
    ],
    [
      'writes that were not waited for',
      async (trx: Kysely<Tables>) => {
        void write(trx, 1).catch(() => undefined)
        await new Promise((resolve) => setImmediate(resolve))
      },
    ],
    [
      'a write behind one that matched nothing',
      async (trx: Kysely<Tables>) => {
        await trx.updateTable('written').set({ n: 5 }).where('n', '=', 77).execute()
        await write(trx, 1)
      },
    ],
    [
      'a COMMIT AND CHAIN by hand before',
      async (trx: Kysely<Tables>) => {
        await write(trx, 77)
        await sql`commit and chain`.execute(trx)
        await sql`delete from written where n = 77`.execute(trx)
        await write(trx, 1)
      },
    ],
  ] as const)('resolves whatever it ends: %s', async ([, work]) => {
    // prettier-ignore
    for (const delivered of [true, false]) {
      const { db, proxy } = await connected(database.url)
      await ask(database.url, 'truncate written')
      if (delivered) proxy.loseReply({ to: /^commit$/i })
      const result = await told(
        db.transaction().execute(async (trx) => {
          await work(trx)
          if (!delivered) losesNext(await lineOf(trx, proxy))
        }),
      )
      expect(result).toBe(delivered ? 'kept' : 'NotExecutedError')
      // What the COMMIT by hand has kept stays.
      expect((await written()).filter((n) => n !== 77)).toEqual(delivered ? [1] : [])
    }
  })

  test('of a transaction that only read has nothing to lose', async () => {
    const { db, proxy } = await connected(database.url)
    const lost = proxy.loseReply({ to: /^commit/i })
    const rows = await db.transaction().execute((trx) => trx.selectFrom('written').selectAll().execute())
    expect([rows, lost.happened]).toEqual([[], true])
  })

  test.for(['commit', 'end', 'COMMIT WORK;'])('is resolved when it was sent by hand: %s', async (text) => {
    const { db, proxy } = await connected(database.url)
    const lost = proxy.loseReply({ to: /^(commit|end)/i })
    await db.connection().execute(async (one) => {
      await sql`begin`.execute(one)
      await write(one, 1)
      await sql.raw(text).execute(one)
    })
    expect(lost.happened).toBe(true)
    expect(await written()).toEqual([1])
  })

  test('of a stream outside of a transaction is no matter of its reader', async () => {
    const { db, proxy } = await connected(database.url)
    const lost = proxy.loseReply({ to: /^commit/i })
    const rows: unknown[] = []
    for await (const row of db.insertInto('written').values({ n: 1 }).returning('n').stream(10)) rows.push(row)
    expect([rows, lost.happened]).toEqual([[{ n: 1 }], true])
    expect(await written()).toEqual([1])
  })

  test('under a load whose backends are ended all the time leaves nobody with anything but the truth', async () => {
    const { db, applicationName } = await connected(database.url, { pool: { ...pool, max: 6 }, breaker: false })
    const results = new Map<number, string>()
    const load = { running: true }
    const killing = (async () => {
      while (load.running) {
        const any = 'select pid from pg_stat_activity where application_name = $1 order by random() limit 1'
        await ask(database.url, `select pg_terminate_backend((${any}))`, [applicationName])
      }
    })()
    try {
      await spread(150, 4, async (n) => {
        const work = retryTransaction(
          db,
          async (trx) => {
            await write(trx, n)
            await trx.updateTable('written').set({ n }).where('n', '=', n).execute()
          },
          { attempts: 20, base: '5ms', max: '50ms' },
        )
        results.set(n, await told(work))
      })
    } finally {
      load.running = false
      await killing
    }
    const counts = new Map<number, number>()
    for (const n of await written()) counts.set(n, (counts.get(n) ?? 0) + 1)
    for (const [n, result] of results) {
      const count = counts.get(n) ?? 0
      expect([n, result, count]).toEqual([
        n,
        result,
        result === 'kept' ? 1 : result === 'OutcomeUnknownError' ? count : 0,
      ])
      expect(count).toBeLessThanOrEqual(1)
    }
    expect([...results.values()].filter((result) => result === 'kept').length).toBeGreaterThan(75)
  })

  test('of a transaction that had failed before is certainly not executed', async () => {
    const { db, proxy } = await connected(database.url)
    const lost = proxy.loseReply({ to: /^commit/i })
    const error = await failure(
      db.transaction().execute(async (trx) => {
        await write(trx, 1)
        await sql`select 1 / 0`.execute(trx).catch(() => undefined)
      }),
    )
    expect(lost.happened).toBe(true)
    expect(error).toBeInstanceOf(NotExecutedError)
    expect(await written()).toEqual([])
  })

  describe('stays unknown', () => {
    const expectUnknown = async (work: Promise<unknown>): Promise<void> => {
      const error = await failure(work)
      expect(error).toBeInstanceOf(OutcomeUnknownError)
      expect(error).toMatchObject({ phase: 'commit', retryable: false })
    }

    test('when no connection is left that stood before', async () => {
      const { db, proxy } = await connected(database.url, { pool: { ...still, max: 1 } })
      proxy.loseReply({ to: /^commit/i })
      await expectUnknown(db.transaction().execute((trx) => write(trx, 1)))
      expect(await written()).toEqual([1])
    })

    test('when the server has not heard of the loss, and the transaction goes on there', async () => {
      const { db, proxy } = await connected(database.url, { queryTimeout: '300ms' })
      const error = await failure(
        db.transaction().execute(async (trx) => {
          await write(trx, 1)
          const line = await lineOf(trx, proxy)
          line.silence()
        }),
      )
      // Unless it has been found out meanwhile that nobody can reach its backend, which is ended then.
      expect(['OutcomeUnknownError', 'NotExecutedError']).toContain(error.name)
      expect(await written()).toEqual([])
    })

    test('when it stood in the one write of a batch', async () => {
      const { db, proxy } = await connected(database.url)
      const lost = proxy.loseReply({ to: /^commit/i })
      const error = await failure(db.batch([db.insertInto('written').values({ n: 1 })]))
      expect(lost.happened).toBe(true)
      expect(error).toBeInstanceOf(BatchError)
      expect(error).toMatchObject({ index: null, phase: 'commit', cause: { name: 'OutcomeUnknownError' } })
    })

    test('when what it kept has no id: a notification', async () => {
      const { db, proxy } = await connected(database.url)
      proxy.loseReply({ to: /^commit/i })
      await expectUnknown(db.transaction().execute((trx) => sql`select pg_notify('a', 'b')`.execute(trx)))
    })

    test.for(['prepare transaction $$resolve-commit$$', 'commit and chain'])('when it is no plain one: %s', async (text) => {
      const { db, proxy } = await connected(database.url)
      const lost = proxy.loseReply({ to: /^(prepare|commit)/i })
      await failure(
        db.transaction().execute(async (trx) => {
          await write(trx, 1)
          await expectUnknownHere(sql.raw(text).execute(trx))
        }),
      )
      expect(lost.happened).toBe(true)
    }) // prettier-ignore

    const expectUnknownHere = async (work: Promise<unknown>): Promise<void> => {
      expect(await failure(work)).toBeInstanceOf(OutcomeUnknownError)
    }

    test.skipIf(noPgBouncer)(`behind a pooler ${pgBouncerNeeded}`, async () => {
      await using bouncer = await startPgBouncer(database.url, { pool_mode: 'session' })
      const { db, proxy } = await connected(bouncer.url)
      proxy.loseReply({ to: /^commit/i })
      await expectUnknown(db.transaction().execute((trx) => write(trx, 1)))
    })
  })

  test('disturbs nothing: rows, counts, currval, statement timeouts and failed transactions are as ever', async () => {
    const { db } = await connected(database.url)
    await ask(database.url, 'create table if not exists counted (id serial, n int)')
    await db.transaction().execute(async (trx) => {
      await sql`set local statement_timeout = '2s'`.execute(trx)
      const { numAffectedRows } = await sql`insert into counted (n) values (1), (2)`.execute(trx)
      expect(numAffectedRows).toBe(2n)
      const { rows } = await sql`select currval('counted_id_seq')::int as id, txid_current() > 0 as has`.execute(trx)
      expect(rows).toEqual([{ id: 2, has: true }])
      const { rows: returned } = await sql`update counted set n = n + 1 returning n`.execute(trx)
      expect(returned).toEqual([{ n: 2 }, { n: 3 }])
    })
    const error = await failure(
      db.transaction().execute(async (trx) => {
        await write(trx, 1)
        await sql`insert into counted (id) values ('x'::text::int)`.execute(trx)
      }),
    )
    expect(error).toMatchObject({ code: '22P02' })
    await expect(sql`select 1 as one`.execute(db)).resolves.toMatchObject({ rows: [{ one: 1 }] })
    expect((await heldAtOnce(db as never, pool.max)).size).toBe(pool.max)
  })
})

describe.skipIf(borrowed || wire === 'pg')(`a server that crashes, or is another one ${ownOnly} (wire: native)`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 1 })
    await cluster.primary.query(TABLES)
    await cluster.caughtUp()
  })
  afterAll(() => cluster.close())
  afterEach(async () => {
    if (cluster.primary.pid === undefined) await cluster.primary.start()
  })

  test.for([
    ['COMMIT had arrived, the whole server was killed', true, 'server'],
    ['COMMIT had not arrived, the whole server was killed', false, 'server'],
    // The postmaster lives on and gives everybody new backends: it says that it has run all the time.
    ['COMMIT had arrived, one backend was killed', true, 'backend'],
    ['COMMIT had not arrived, one backend was killed', false, 'backend'],
  ] as const)(
    'after kill -9 nobody knows, whatever the server says of the id by then: %s',
    async ([, arrived, whom]) => {
      for (let round = 0; round < 2; round++) {
        const opened = await connected(cluster.url, { breaker: false })
        const { db, proxy } = opened
        await cluster.primary.query('truncate written')
        let xid = ''
        let crash: Promise<void> = Promise.resolve()
        const result = await told(
          db.transaction().execute(async (trx) => {
            await write(trx, 1)
            const { rows } = await sql<{ xid: string }>`select pg_current_xact_id()::text as xid`.execute(trx)
            xid = rows[0]!.xid
            crash = crashes(opened, await lineOf(trx, proxy), arrived, whom)
          }),
        )
        await crash
        expect(result).toBe('OutcomeUnknownError')
        expect(await cluster.primary.query('select n from written where n = 1')).toEqual(arrived ? [{ n: 1 }] : [])
        const status = 'select pg_xact_status($1::xid8) as status'
        const [row] = await cluster.primary.query<{ status: string }>(status, [xid])
        // Whoever had asked there would have been told so, rightly or not.
        expect(row!.status).toBe('committed')
        await db.destroy()
      }
    },
  )

  /** COMMIT is sent and the server ends; it is there again, and others write, before the connection is known to be lost. */
  async function crashes(
    { db, proxy }: Behind,
    line: Line,
    arrived: boolean,
    whom: 'server' | 'backend',
  ): Promise<void> {
    const { toServer } = line.bytes
    line.silence(arrived ? 'toClient' : undefined)
    await expect.poll(() => line.bytes.toServer, { interval: 1 }).toBeGreaterThan(toServer)
    if (arrived) await expect.poll(() => cluster.primary.query('select n from written')).toEqual([{ n: 1 }])
    await killed(whom)
    for (let n = 0; n < 20; n++) await cluster.primary.query('insert into written values (99)')
    // The pool has connections again, which were not there before.
    expect((await heldAtOnce(db as never, 2)).size).toBe(2)
    expect(proxy.open).toContain(line)
    line.reset()
  }

  async function killed(whom: 'server' | 'backend'): Promise<void> {
    if (whom === 'server') {
      await cluster.primary.kill9()
      return cluster.primary.start()
    }
    const started = async (): Promise<string> => {
      const [row] = await cluster.primary.query<{ at: string }>('select pg_postmaster_start_time()::text as at')
      return row!.at
    }
    const checkpointer = async (): Promise<number> => {
      const text = "select pid from pg_stat_activity where backend_type = 'checkpointer'"
      const [row] = await cluster.primary.query<{ pid: number }>(text)
      return row!.pid
    }
    const [before, victim] = [await started(), await checkpointer()]
    process.kill(victim, 'SIGKILL')
    await expect.poll(() => checkpointer().then((pid) => pid !== victim, () => false)).toBe(true) // prettier-ignore
    expect(await started()).toBe(before)
  }

  test('a connection that still stands on the old primary is not believed after a failover', async () => {
    const { db, proxy } = await connected(cluster.url)
    const [replica] = cluster.replicas
    await cluster.primary.query('truncate written')
    await cluster.caughtUp()
    let arrived = 0
    let release!: () => void
    const released = new Promise<void>((resolve) => (release = resolve))
    const holders = [1, 2].map(() =>
      db.connection().execute(async (one) => {
        await ownPidOf(one as never)
        arrived++
        await released
      }),
    )
    await expect.poll(() => arrived).toBe(2)
    await replica!.promote()
    proxy.retarget(replica!.url)
    // The old one gives the ids of the new one to transactions of its own.
    for (let n = 0; n < 200; n++) await cluster.primary.query('insert into written values (99)')
    let xid = ''
    const error = await failure(
      db.transaction().execute(async (trx) => {
        await write(trx, 1)
        const { rows } = await sql<{ xid: string }>`select pg_current_xact_id()::text as xid`.execute(trx)
        xid = rows[0]!.xid
        release()
        await Promise.all(holders)
        losesNext(await lineOf(trx, proxy))
      }),
    )
    const [row] = await cluster.primary.query<{ status: string }>('select pg_xact_status($1::xid8) as status', [xid])
    expect(row!.status).toBe('committed')
    expect(error).toBeInstanceOf(OutcomeUnknownError)
    expect(await replica!.query('select n from written')).toEqual([])
  })
})
