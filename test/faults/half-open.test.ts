// Half-open connections with default options: the network has lost them, nobody is told, and queryTimeout is half a minute
// away. The server is asked what it knows of them, so that whoever waits there is told what is true within seconds.
// Whatever only takes its time is never harmed by that: this is the larger part of the file.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { Client, Query } from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, onTestFinished, test } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { noPgBouncer, pgBouncerNeeded, startPgBouncer } from '../support/pgbouncer.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { signal } from '../support/postgres/processes.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { hasOpenssl, makeCertificates, turnTlsOn } from '../wire/own-server.ts'
import { openBehindProxy, still } from './behind-proxy.ts'
import type { Behind as BehindProxy } from './behind-proxy.ts'
import { backends, borrowed, failure, heldAtOnce, open, ownOnly, ownPidOf } from './dialects.ts'

interface Tables {
  written: { n: number; text: string | null }
}

type Db = Kysely<Tables>
type Behind = BehindProxy<Tables>

/** Far below queryTimeout, and far above what it takes. */
const SOON_MS = 12_000
/** Longer than it takes to give up a connection that is lost. */
const SLOW_S = 3

const TABLES = 'create table written (n int not null, text text)'
const connected = (url: string, options: Partial<SmartPgOptions> = {}): Promise<Behind> =>
  openBehindProxy<Tables>(url, { ...options, pool: { ...still, initial: 3, max: 3, ...options.pool } })

const write = (db: Db, n: number): Promise<unknown> => db.insertInto('written').values({ n, text: null }).execute()
const one = (db: Db): Promise<unknown> => sql`select 1 as n`.execute(db)

/** What a caller is told, and whether that was soon. */
async function told(work: Promise<unknown>): Promise<string> {
  const since = performance.now()
  const what = await work.then(
    () => 'answered',
    (error: unknown) => String((error as { code?: string }).code ?? error),
  )
  const ms = performance.now() - since
  return ms < SOON_MS ? what : `${what} after ${Math.round(ms)} ms`
}

/** Callers who all have what they need before something happens, and go on behind it. */
class Gate {
  #awaited: number
  #arrived!: () => void
  #opened!: () => void
  readonly #everybody = new Promise<void>((resolve) => (this.#arrived = resolve))
  readonly #open = new Promise<void>((resolve) => (this.#opened = resolve))

  constructor(awaited: number) {
    this.#awaited = awaited
  }

  readonly pass = (): Promise<void> => {
    if (--this.#awaited === 0) this.#arrived()
    return this.#open
  }

  async opensBehind(what: () => unknown): Promise<void> {
    await this.#everybody
    await what()
    this.#opened()
  }
}

type Flow = (db: Db, pass: () => Promise<void>) => Promise<unknown>

/** What each is told when `happens` comes while it is where it calls `pass`. */
async function meanwhile(
  db: Db,
  flows: Readonly<Record<string, Flow>>,
  happens: () => unknown,
): Promise<Record<string, string>> {
  const names = Object.keys(flows)
  const gate = new Gate(names.length)
  const ends = names.map(async (name) => {
    let passed = false
    const pass = (): Promise<void> => {
      passed = true
      return gate.pass()
    }
    const end = await told(flows[name]!(db, pass))
    if (!passed) void gate.pass()
    return [name, passed ? end : `${end}, too early`]
  })
  await gate.opensBehind(happens)
  return Object.fromEntries(await Promise.all(ends)) as Record<string, string>
}

describe('connections that go half-open, with the default queryTimeout', () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    await ask(database.url, TABLES)
  })
  afterAll(() => database.drop())
  beforeEach(() => ask(database.url, 'truncate written'))

  const written = async (): Promise<number[]> => {
    const rows = await ask<{ n: number }>(database.url, 'select n from written order by n')
    return rows.map(({ n }) => n)
  }

  const expectWhole = async ({ db, applicationName, proxy }: Behind, max = 3): Promise<void> => {
    expect((await heldAtOnce(db as never, max)).size).toBe(max)
    await db.destroy()
    await proxy.heal()
    await expect.poll(() => backends(database.url, applicationName)).toBe(0)
  }

  /** What they write is told apart by `from`. */
  const flowsOf = (from: number): Record<string, Flow> => ({
    read: async (db, pass) => {
      await pass()
      return db.selectFrom('written').select('n').execute()
    },
    write: async (db, pass) => {
      await pass()
      return write(db, from + 1)
    },
    batch: async (db, pass) => {
      await pass()
      return db.batch([db.insertInto('written').values({ n: from + 2, text: null }), sql`select 1`])
    },
    'a first chunk': async (db, pass) => {
      await pass()
      for await (const _ of db.selectFrom('written').selectAll().stream(10));
    },
    'a later chunk': async (db, pass) => {
      let rows = 0
      const numbers = sql<{ n: number }>`(select generate_series(1, 1000) as n)`
      for await (const _ of db.selectFrom(numbers.as('numbers')).select('numbers.n').stream(10)) {
        if (++rows === 10) await pass()
      }
    },
    'in a transaction': async (db, pass) =>
      db.transaction().execute(async (trx) => {
        await write(trx, from + 3)
        await pass()
        await write(trx, from + 3)
      }),
    commit: async (db, pass) =>
      db.transaction().execute(async (trx) => {
        await write(trx, from + 4)
        await pass()
      }),
    'an own session': async (db, pass) =>
      db.connection().execute(async (own) => {
        await ownPidOf(own as never)
        await pass()
        await one(own)
      }),
  })

  test('everybody is told what is true long before queryTimeout, whichever way nothing arrives any more', async () => {
    const ways = { 0: undefined, 10: 'toServer', 20: 'toClient' } as const
    const each = Object.entries(ways).map(async ([from, way]) => {
      const flows = flowsOf(Number(from))
      const max = 2 * Object.keys(flows).length
      const opened = await connected(database.url, { pool: { initial: max, max } })
      let since = 0
      const what = await meanwhile(opened.db, flows, () => {
        since = performance.now()
        for (const line of opened.proxy.open) line.silence(way)
      })
      const ms = Math.round(performance.now() - since)
      console.log(`half-open (${way ?? 'both ways'}): all were told within ${ms} ms`)
      expect(what).toEqual({
        read: 'answered',
        write: 'SMARTPG_OUTCOME_UNKNOWN',
        // A BEGIN that goes alone may go again.
        batch: wire === 'pg' ? 'answered' : 'SMARTPG_BATCH',
        'a first chunk': 'answered',
        'a later chunk': 'SMARTPG_CONNECTION_LOST',
        'in a transaction': 'SMARTPG_CONNECTION_LOST',
        commit: 'SMARTPG_OUTCOME_UNKNOWN',
        'an own session': 'SMARTPG_CONNECTION_LOST',
      })
      await expectWhole(opened, max)
    })
    await Promise.all(each)
    // What was carried out although nobody knows is there once, and what was open is gone.
    expect(await written()).toEqual(wire === 'pg' ? [2, 12, 21, 22, 24] : [21, 22, 24])
  })

  test('who waits for a connection is served, although all there may be were lost at once', async () => {
    const opened = await connected(database.url)
    const { db, proxy } = opened
    const waiting = (): Promise<string>[] =>
      Array.from({ length: 30 }, (_, n) => told(n % 3 === 0 ? db.transaction().execute((trx) => one(trx)) : one(db)))
    const work: Promise<string>[] = []
    const kept = { 1: transactionOf(1), 2: transactionOf(2), 3: transactionOf(3) }
    function transactionOf(n: number): Flow {
      return (all, pass) =>
        all.transaction().execute(async (trx) => {
          await write(trx, n)
          await pass()
          await write(trx, n)
        })
    }
    const what = await meanwhile(db, kept, () => {
      for (const line of proxy.open) line.silence()
      work.push(...waiting())
    })
    expect(Object.values(what)).toEqual([
      'SMARTPG_CONNECTION_LOST',
      'SMARTPG_CONNECTION_LOST',
      'SMARTPG_CONNECTION_LOST',
    ])
    expect(new Set(await Promise.all(work))).toEqual(new Set(['answered']))
    expect(await written()).toEqual([])
    await expectWhole(opened)
  })

  test('the locks of a transaction that was lost are free again, although its server heard of nothing', async () => {
    const opened = await connected(database.url)
    const { db, proxy } = opened
    await write(db, 1)
    const what = await meanwhile(
      db,
      {
        holder: (all, pass) =>
          all.transaction().execute(async (trx) => {
            await trx.selectFrom('written').selectAll().forUpdate().execute()
            await pass()
            await one(trx)
          }),
      },
      () => proxy.open.forEach((line) => line.silence()),
    )
    expect(what).toEqual({ holder: 'SMARTPG_CONNECTION_LOST' })
    await db.updateTable('written').set({ text: 'free' }).execute()
    await expectWhole(opened)
  })

  test('destroy() does not wait for them, and while the server is asked leaves nothing behind', async () => {
    const opened = await connected(database.url)
    const { db, proxy, applicationName } = opened
    for (const line of proxy.open) line.silence()
    const lines = proxy.connections.length
    const reads = [told(one(db)), told(write(db, 1))]
    // The connection on which the server is asked is being opened.
    await expect.poll(() => proxy.connections.length, { interval: 1 }).toBeGreaterThan(lines)
    expect(await told(db.destroy())).toBe('answered')
    await Promise.all(reads)
    await proxy.heal()
    await expect.poll(() => backends(database.url, applicationName)).toBe(0)
    expect(proxy.open).toEqual([])
  })

  describe('whatever only takes its time is left alone', () => {
    const seconds = `select pg_sleep(${SLOW_S})`
    /** As long as the slow ones take, on a connection of nobody's. */
    const aWhile = (): Promise<unknown> => ask(database.url, seconds)

    const slow: Record<string, (db: Db, opened: Behind) => Promise<unknown>> = {
      'a statement': (db) => sql`select pg_sleep(${SLOW_S})`.execute(db),
      'a text without parameters': (db) => sql.raw(seconds).execute(db),
      'a wait for a lock': async (db) => {
        const locker = new Client({ connectionString: database.url })
        await locker.connect()
        await locker.query('begin; lock table locked')
        const waiting = sql`insert into locked values (1)`.execute(db)
        await locker.query(seconds)
        await locker.end()
        await waiting
      },
      'statements behind one another': async (db) =>
        db.transaction().execute(async (trx) => {
          await Promise.all([sql.raw(seconds).execute(trx), write(trx, 2), one(trx)])
        }),
      'a procedure that commits': (db) =>
        sql.raw(`do $$ begin for i in 1..3 loop perform pg_sleep(1); commit; end loop; end $$`).execute(db),
      'a batch': (db) => db.batch([sql.raw(seconds), sql`select 1`]),
      'a stream whose reader pauses': async (db) => {
        let rows = 0
        const numbers = sql<{ n: number }>`(select generate_series(1, 30) as n)`
        for await (const _ of db.selectFrom(numbers.as('numbers')).select('numbers.n').stream(10)) {
          if (++rows === 10) await aWhile()
        }
        expect(rows).toBe(30)
      },
      'a transaction whose caller is slow': async (db) =>
        db.transaction().execute(async (trx) => {
          await write(trx, 3)
          await aWhile()
          await write(trx, 4)
        }),
      'a COPY by withClient': async (_, { dialect }) =>
        dialect.withClient(async (client: Client) => {
          const copy = new SlowCopyIn('copy written (n) from stdin', aWhile)
          client.query(copy)
          await copy.done
        }),
      'COMMIT with a slow trigger': async (db) =>
        db.transaction().execute((trx) => sql`insert into checked values (1)`.execute(trx)),
    }

    test('and what it is told is what the server said', async () => {
      await ask(
        database.url,
        `create table locked (n int);
        create table checked (n int);
        create function check_slowly() returns trigger language plpgsql as
          $$ begin perform pg_sleep(${SLOW_S}); return null; end $$;
        create constraint trigger slowly after insert on checked deferrable initially deferred
          for each row execute function check_slowly()`,
      )
      const max = 2 * Object.keys(slow).length
      const opened = await connected(database.url, { pool: { initial: max, max } })
      const { db, proxy } = opened
      const lines = proxy.open
      const what = Object.entries(slow).map(async ([name, flow]) => [name, await told(flow(db, opened))])
      const told$ = Object.fromEntries(await Promise.all(what)) as Record<string, string>
      expect(told$).toEqual(Object.fromEntries(Object.keys(slow).map((name) => [name, 'answered'])))
      // Somebody was asked, and all lived; the client's own is closed in any case.
      expect(proxy.connections.length).toBeGreaterThan(max)
      expect(lines.filter((line) => !line.open)).toHaveLength(1)
      expect(await written()).toEqual([2, 3, 4, 5, 6])
    })

    test('on a slow line: a long message on its way there, and a long answer on its way back', async () => {
      const bytes = 600_000
      const there = await connected(database.url, { pool: { initial: 1, max: 1 } })
      const back = await connected(database.url, { pool: { initial: 1, max: 1 } })
      const named = await connected(database.url, { pool: { initial: 1, max: 1 } })
      const text = 'x'.repeat(bytes)
      const long = (n: number): Promise<unknown> => named.db.insertInto('written').values({ n, text }).execute()
      // From the third time on it has a name.
      for (const n of [1, 2, 3]) await long(n)
      for (const { proxy } of [there, named]) proxy.bandwidth(bytes / SLOW_S, 'toServer')
      back.proxy.bandwidth(bytes / SLOW_S, 'toClient')
      const rows = sql<{
        text: string
      }>`(select repeat('y', 1000) as text from generate_series(1, ${bytes / 1000}::int))`
      const streamed = async (): Promise<void> => {
        let count = 0
        for await (const _ of back.db.selectFrom(rows.as('rows')).select('rows.text').stream(10_000)) count++
        expect(count).toBe(bytes / 1000)
      }
      const all = [
        told(sql.raw(`insert into written values (7, '${text}')`).execute(there.db)),
        told(long(4)),
        told(streamed()),
      ]
      expect(await Promise.all(all)).toEqual(['answered', 'answered', 'answered'])
      expect(await written()).toEqual([1, 2, 3, 4, 7])
      for (const { proxy } of [there, back, named]) expect(proxy.connections[0]!.open).toBe(true)
    })

    test('in a process that is blocked for seconds: what came meanwhile is read before anybody is judged', async () => {
      const { db, proxy } = await connected(database.url)
      await db.connection().execute(async (own) => {
        const pid = await ownPidOf(own as never)
        const lines = proxy.connections.length
        // Whoever is to be asked is there already.
        const first = sql.raw('select pg_sleep(1.5)').execute(db)
        await expect.poll(() => proxy.connections.length, { interval: 5 }).toBeGreaterThan(lines)
        for (let i = 0; i < 2; i++) {
          const answer = sql<{ n: number }>`select ${i}::int as n from pg_sleep(0.8)`.execute(own)
          // Seen once without a byte.
          await ask(database.url, 'select pg_sleep(0.6)')
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_200)
          expect((await answer).rows).toEqual([{ n: i }])
        }
        expect(await ownPidOf(own as never)).toBe(pid)
        await first
      })
    })
  })

  describe('where the server cannot say', () => {
    const role = 'half_open_few'
    beforeAll(() =>
      ask(
        database.url,
        `drop role if exists ${role};
        create role ${role} login connection limit 3;
        create role ${role}_other nologin;
        grant ${role}_other to ${role};
        grant select on written to ${role}, ${role}_other`,
      ),
    )
    afterAll(() => ask(database.url, `drop owned by ${role}, ${role}_other; drop role ${role}, ${role}_other`))

    const asRole = (): string => Object.assign(new URL(database.url), { username: role }).href

    test('whoever is slow is answered, and the lost are told so after queryTimeout', async () => {
      const cases: Record<string, readonly [url: string, options: Partial<SmartPgOptions>]> = {
        'track_activities is off': [database.url, { session: { settings: { track_activities: 'off' } } }],
        'a role that may not see its own backends': [
          asRole(),
          { session: { settings: { role: `${role}_other` } }, pool: { initial: 2, max: 2 } },
        ],
        'no place left to ask from': [asRole(), { pool: { initial: 1, max: 1 } }],
      }
      const each = Object.entries(cases).map(async ([why, [url, options]]) => {
        const opened = await connected(url, { queryTimeout: 2_000, ...options })
        return { why, ...opened }
      })
      // The last of them has the last place.
      const all = await Promise.all(each)
      const lines = all.map(({ proxy }) => proxy.connections.length)
      const slow = await Promise.all(all.map(({ db }) => told(sql`select pg_sleep(1.7)`.execute(db))))
      expect(slow).toEqual(all.map(() => 'answered'))
      // All have tried to ask.
      expect(all.filter(({ proxy }, i) => proxy.connections.length === lines[i])).toEqual([])
      for (const { proxy } of all) for (const line of proxy.open) line.silence()
      const lost = await Promise.all(all.map(({ db }) => failure(sql.raw('select 1').execute(db))))
      expect(lost.map(({ code }) => code)).toEqual(all.map(() => 'SMARTPG_QUERY_TIMEOUT'))
    })
  })

  test.skipIf(noPgBouncer)(`behind a pooler nobody is asked ${pgBouncerNeeded}`, async () => {
    const bouncer = await startPgBouncer(database.url, { pool_mode: 'transaction', default_pool_size: 3 })
    onTestFinished(() => bouncer.close())
    const { db, proxy } = await connected(bouncer.url)
    const lines = proxy.connections.length
    expect(await told(sql`select pg_sleep(${SLOW_S})`.execute(db))).toBe('answered')
    expect(proxy.connections).toHaveLength(lines)
  })
})

describe.skipIf(borrowed)(`servers to which things happen ${ownOnly}`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 1 })
    await cluster.primary.query(TABLES)
    await cluster.caughtUp()
  })
  afterAll(() => cluster.close())
  const stopped = new Set<number>()
  afterEach(() => {
    for (const pid of stopped) signal(pid, 'SIGCONT')
    stopped.clear()
  })
  const stop = (pid: number): void => {
    stopped.add(pid)
    signal(pid, 'SIGSTOP')
  }

  test('another server behind the same address is not believed: what it says is about its own backends', async () => {
    const { db, proxy } = await connected(cluster.url)
    await db.connection().execute(async (own) => {
      const pid = await ownPidOf(own as never)
      const slow = told(sql`select pg_sleep(${SLOW_S})`.execute(own))
      proxy.retarget(cluster.replicaUrls[0]!)
      expect(await slow).toBe('answered')
      expect(await ownPidOf(own as never)).toBe(pid)
    })
    // It was asked.
    expect(proxy.connections.length).toBeGreaterThan(3)
  })

  test('a backend that stands still before it has got the statement is lost, and a read is answered by another', async () => {
    const { db, applicationName } = await connected(cluster.url, { pool: { initial: 1, max: 2 } })
    const ours = 'select pid from pg_stat_activity where application_name = $1'
    const [{ pid }] = (await cluster.primary.query(ours, [applicationName])) as [{ pid: number }]
    stop(pid)
    expect(await told(db.selectFrom('written').select('n').execute())).toBe('answered')
    signal(pid, 'SIGCONT')
    // It was told to end meanwhile.
    await expect.poll(() => cluster.primary.query('select from pg_stat_activity where pid = $1', [pid])).toEqual([])
  })

  test('a backend that stands still in the middle of a statement is left alone until queryTimeout', async () => {
    const { db } = await connected(cluster.url, { queryTimeout: 2_500 })
    const slow = failure(sql`select pg_sleep(30)`.execute(db))
    const running = `select pid from pg_stat_activity where query like 'select pg_sleep(%' and state = 'active' and pid <> pg_backend_pid()`
    await expect.poll(() => cluster.primary.query(running)).toHaveLength(1)
    const [{ pid }] = (await cluster.primary.query<{ pid: number }>(running)) as [{ pid: number }]
    stop(pid)
    expect((await slow).code).toBe('SMARTPG_QUERY_TIMEOUT')
  })

  test('a backend that is killed, with nobody told of it, is known to be gone', async () => {
    const { db, proxy } = await connected(cluster.url, { pool: { initial: 1, max: 1 } })
    await db.connection().execute(async (own) => {
      const pid = await ownPidOf(own as never)
      const slow = told(sql`select pg_sleep(30)`.execute(own))
      const active = `select from pg_stat_activity where pid = ${pid} and state = 'active'`
      await expect.poll(() => cluster.primary.query(active)).toHaveLength(1)
      for (const line of proxy.open) line.silence('toClient')
      signal(pid, 'SIGKILL')
      expect(await slow).toBe('SMARTPG_CONNECTION_LOST')
    })
    expect(await told(one(db))).toBe('answered')
  })

  test.skipIf(!hasOpenssl)(
    'over TLS it is the same: the slow are answered and the lost are told (openssl is there)',
    async () => {
      const { ca, leaf, key } = makeCertificates()
      await turnTlsOn(cluster, leaf, key)
      const encrypted =
        'select from pg_stat_ssl where ssl and pid in (select pid from pg_stat_activity where application_name = $1)'
      const probe = (): Promise<unknown> => told(open({ primary: cluster.url, ssl: { ca } }).dialect.ready())
      await expect.poll(probe).toBe('answered')
      const { db, proxy, applicationName } = await connected(cluster.url, { ssl: { ca } })
      expect(await cluster.primary.query(encrypted, [applicationName])).toHaveLength(3)
      const bytes = 3_000_000
      proxy.bandwidth(bytes / SLOW_S, 'toClient')
      const [slow, long] = await Promise.all([
        told(sql`select pg_sleep(${SLOW_S})`.execute(db)),
        told(sql`select repeat('y', ${bytes}::int)`.execute(db)),
      ])
      expect([slow, long]).toEqual(['answered', 'answered'])
      await proxy.heal()
      for (const line of proxy.open) line.silence()
      expect(await told(one(db))).toBe('answered')
      expect(await told(write(db, 1))).toBe('answered')
    },
  )
})

/** COPY … FROM STDIN as pg-copy-streams submits it, whose data takes a while. */
class SlowCopyIn extends Query {
  readonly done: Promise<void>
  readonly #pause: () => Promise<unknown>

  constructor(text: string, pause: () => Promise<unknown>) {
    let settle: (error: Error | null) => void
    const done = new Promise<void>((resolve, reject) => {
      settle = (error) => (error === null ? resolve() : reject(error))
    })
    // Without @types/pg knowing it, the callback is the second argument.
    super(text, ((error: Error | null) => settle(error)) as never)
    this.done = done
    this.#pause = pause
  }

  handleCopyInResponse(connection: { sendCopyFromChunk(chunk: Buffer): void; endCopyFrom(): void }): void {
    connection.sendCopyFromChunk(Buffer.from('5\n'))
    void this.#pause().then(() => {
      connection.sendCopyFromChunk(Buffer.from('6\n'))
      connection.endCopyFrom()
    })
  }
}
