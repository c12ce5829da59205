// What networks do between a server that is well and its clients: answers are lost on their way, connections go silent
// or break within a message, bytes are wrong, doors are slow or closed, an address moves. Whoever asked is told what is
// known, nothing is done twice, and the pool is whole again. The database is asked what really happened.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, onTestFinished, test } from 'vitest'
import { OutcomeUnknownError, isSmartPgError } from '../../src/index.ts'
import type { SmartPgOptions } from '../../src/index.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import type { FaultProxy } from '../support/fault-proxy.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { backends, failure, heldAtOnce, open, ownPidOf, spread, Tally } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  written: { n: number; text: string | null }
}

interface Behind extends Opened<Tables> {
  readonly proxy: FaultProxy
}

const max = 3
/** A connection is asked whether it lives for no other reason than the fault, and none is opened without need. */
const still = { min: 0, minIdle: 0, initial: max, max, validateAfterIdle: '1h', keepalive: 0 } as const

describe('behind a faulty network', () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    await ask(database.url, 'create table written (n int not null, text text)')
  })
  afterAll(() => database.drop())
  beforeEach(() => ask(database.url, 'truncate written'))

  const startProxy = async (): Promise<FaultProxy> => {
    const proxy = await startFaultProxy(database.url)
    // Runs before the dialect is destroyed, which must settle all the same.
    onTestFinished(() => proxy.close())
    return proxy
  }

  const connected = async (options: Partial<SmartPgOptions> = {}): Promise<Behind> => {
    const proxy = await startProxy()
    const opened = open<Tables>({ primary: proxy.url, pool: still, ...options })
    await opened.dialect.ready()
    return { ...opened, proxy }
  }

  const written = async (): Promise<number[]> => {
    const rows = await ask<{ n: number }>(database.url, 'select n from written order by n')
    return rows.map(({ n }) => n)
  }

  const one = async (db: Kysely<Tables>): Promise<number> => {
    const { rows } = await sql<{ n: number }>`select 1 as n`.execute(db)
    return rows[0]!.n
  }

  /** As many leases as before, and nothing left on the server when it is over. */
  const expectWhole = async ({ db, applicationName, proxy }: Behind): Promise<void> => {
    expect((await heldAtOnce(db as never, max)).size).toBe(max)
    await db.destroy()
    // The server learns now that silent connections were closed.
    await proxy.heal()
    await expect.poll(() => backends(database.url, applicationName)).toBe(0)
  }

  describe('an answer that is lost after the server has done its work', () => {
    test('leaves a COMMIT unknown to its caller, and the row is there', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      const lost = proxy.loseReply({ to: /^commit/i })
      const error = await failure(
        db.transaction().execute((trx) => trx.insertInto('written').values({ n: 1, text: null }).execute()),
      )
      expect(lost.happened).toBe(true)
      expect(error).toBeInstanceOf(OutcomeUnknownError)
      expect(error).toMatchObject({ phase: 'commit', sqlState: '08007', retryable: false })
      expect(await written()).toEqual([1])
      await expectWhole(opened)
    })

    test('is nobody’s loss when it was the COMMIT behind a stream that has only read', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      await ask(database.url, 'insert into written select generate_series(1, 5)')
      const lost = proxy.loseReply({ to: /^commit/i })
      const read: number[] = []
      for await (const { n } of db.selectFrom('written').select('n').orderBy('n').stream(2)) read.push(n)
      expect(lost.happened).toBe(true)
      expect(read).toEqual([1, 2, 3, 4, 5])
      await expectWhole(opened)
    })

    test('leaves a write of its own unknown, which is never sent twice', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      const lost = proxy.loseReply({ to: /insert into/ })
      const error = await failure(db.insertInto('written').values({ n: 1, text: null }).execute())
      expect(lost.happened).toBe(true)
      expect(error).toBeInstanceOf(OutcomeUnknownError)
      expect(error).toMatchObject({ phase: 'execute', retryable: false })
      expect(await written()).toEqual([1])
      await expectWhole(opened)
    })

    test('leaves many writes unknown, and each is there exactly once', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      const told = new Tally()
      await spread(60, max, async (n) => {
        if (n % 3 === 0) proxy.loseReply({ to: /insert into/ })
        await db
          .insertInto('written')
          .values({ n, text: null })
          .execute()
          .then(
            () => told.add('answered'),
            (error: unknown) => told.add(error),
          )
      })
      expect(Object.keys(told.counts).toSorted()).toEqual(['SMARTPG_OUTCOME_UNKNOWN', 'answered'])
      expect(await written()).toEqual(Array.from({ length: 60 }, (_, n) => n))
      await proxy.heal()
      await expectWhole(opened)
    })

    test('is asked for once more when it was a read, and nobody notices', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      await ask(database.url, 'insert into written values (7)')
      const lost = proxy.loseReply({ to: /from "written"/ })
      expect(await db.selectFrom('written').select('n').execute()).toEqual([{ n: 7 }])
      expect(lost.happened).toBe(true)
      await expectWhole(opened)
    })

    test('leaves a batch unknown or kept, never torn', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      const lost = proxy.loseReply({ to: /^commit/i })
      const insert = (n: number) => db.insertInto('written').values({ n, text: null })
      const error = await failure(db.batch([insert(1), insert(2), insert(3)]))
      expect(lost.happened).toBe(true)
      expect(error).toMatchObject({
        code: 'SMARTPG_BATCH',
        retryable: false,
        cause: { code: 'SMARTPG_OUTCOME_UNKNOWN' },
      })
      expect(await written()).toEqual([1, 2, 3])
      await expectWhole(opened)
    })
  })

  describe('a connection that goes silent', () => {
    const queryTimeout = 500
    /** What reliability promises: every promise settles within its budget and a second. */
    const latestMs = queryTimeout + 1_000

    /** The connection on which `work` is under way. */
    const busyWith = async (proxy: FaultProxy, work: () => unknown): Promise<number> => {
      const before = proxy.connections.map(({ roundTrips }) => roundTrips)
      work()
      const changed = (): number => proxy.connections.findIndex(({ roundTrips }, i) => roundTrips !== before[i])
      await expect.poll(changed, { interval: 5 }).toBeGreaterThanOrEqual(0)
      return changed()
    }

    test('in a query is given up within queryTimeout and a second, and the others are asked whether they live', async () => {
      const opened = await connected({ queryTimeout })
      const { db, proxy } = opened
      const since = performance.now()
      let settled!: Promise<Error & Record<string, unknown>>
      const silent = await busyWith(proxy, () => (settled = failure(sql`select pg_sleep(30)`.execute(db))))
      proxy.connections[silent]!.silence()
      const error = await settled
      const ms = performance.now() - since
      console.log(`queryTimeout ${queryTimeout} ms, half-open connection: settled after ${Math.round(ms)} ms`)
      expect(error.code).toBe('SMARTPG_QUERY_TIMEOUT')
      expect(ms).toBeLessThan(latestMs)
      const others = proxy.connections.slice(0, max).filter((_, i) => i !== silent)
      const before = others.map(({ roundTrips }) => roundTrips)
      // Two statements each, because the first may run anywhere.
      await db.connection().execute(async (first) => {
        await ownPidOf(first as never)
        await db.connection().execute((second) => ownPidOf(second as never))
      })
      // A ping, then the two, on each that stood before.
      expect(others.map(({ roundTrips }, i) => roundTrips - before[i]!)).toEqual([3, 3])
      await expectWhole(opened)
    })

    test('with all others at once costs the first callers their time alone, and the next are answered by new ones', async () => {
      const opened = await connected({ queryTimeout })
      const { db, proxy } = opened
      const old = proxy.open
      for (const connection of old) connection.silence()
      const since = performance.now()
      const error = await failure(one(db))
      expect(performance.now() - since).toBeLessThan(latestMs)
      expect(error.code).toBe('SMARTPG_QUERY_TIMEOUT')
      expect(await Promise.all(Array.from({ length: 10 }, () => one(db)))).toEqual(Array.from({ length: 10 }, () => 1))
      await expect.poll(() => old.filter((connection) => connection.open)).toEqual([])
      await expectWhole(opened)
    })

    test.each(['toServer', 'toClient'] as const)(
      'in a write (%s) leaves it unknown, and it is not sent again',
      async (direction) => {
        const opened = await connected({ queryTimeout })
        const { db, proxy } = opened
        for (const connection of proxy.open) connection.silence(direction)
        const since = performance.now()
        const error = await failure(db.insertInto('written').values({ n: 1, text: null }).execute())
        expect(performance.now() - since).toBeLessThan(latestMs)
        expect(error).toBeInstanceOf(OutcomeUnknownError)
        expect(await written()).toEqual(direction === 'toClient' ? [1] : [])
        await expectWhole(opened)
      },
    )

    test('while it is idle is found out by a ping before anybody is given it', async () => {
      const opened = await connected({ pool: { ...still, validateAfterIdle: 1 } })
      const { db, proxy } = opened
      for (const connection of proxy.open) connection.silence()
      const since = performance.now()
      await expect.poll(() => performance.now() - since).toBeGreaterThan(10)
      expect(await Promise.all(Array.from({ length: 10 }, () => one(db)))).toEqual(Array.from({ length: 10 }, () => 1))
      await expectWhole(opened)
    })

    test('for good does not keep destroy from settling', async () => {
      const { db, proxy } = await connected({ queryTimeout })
      proxy.silence()
      await db.destroy()
    })
  })

  describe('a connection that is reset within an answer', () => {
    test.each([0, 1, 4, 5, 12])(
      '%s bytes into a row: the read is sent again and answered whole',
      async (afterBytes) => {
        const opened = await connected()
        const { db, proxy } = opened
        await ask(
          database.url,
          'insert into written select n, repeat(chr(64 + n), 20) from generate_series(1, 20) as n',
        )
        const armed = proxy.resetInside({ to: /from "written"/, type: 'D', message: 7, afterBytes })
        const rows = await db.selectFrom('written').selectAll().orderBy('n').execute()
        expect(armed.happened).toBe(true)
        expect(rows).toEqual(
          Array.from({ length: 20 }, (_, i) => ({ n: i + 1, text: String.fromCharCode(65 + i).repeat(20) })),
        )
        await expectWhole(opened)
      },
    )

    test('of a write that returns rows leaves it unknown, and it is there once', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      const armed = proxy.resetInside({ to: /insert into/, type: 'D', afterBytes: 8 })
      const error = await failure(db.insertInto('written').values({ n: 1, text: 'x' }).returningAll().execute())
      expect(armed.happened).toBe(true)
      expect(error).toBeInstanceOf(OutcomeUnknownError)
      expect(await written()).toEqual([1])
      await expectWhole(opened)
    })

    test('of a stream ends it with an error, never with fewer rows', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      await ask(database.url, 'insert into written select n from generate_series(1, 100) as n')
      const armed = proxy.resetInside({ to: /from "written"/, type: 'D', message: 35, afterBytes: 6 })
      const seen: number[] = []
      const error = await failure(
        (async () => {
          for await (const row of db.selectFrom('written').select('n').orderBy('n').stream(10)) seen.push(row.n)
        })(),
      )
      expect(armed.happened).toBe(true)
      expect(error).toBeInstanceOf(Error)
      expect(seen).toEqual(Array.from({ length: seen.length }, (_, i) => i + 1))
      expect(seen.length).toBeLessThan(35)
      await expectWhole(opened)
    })
  })

  describe('bytes that are wrong', () => {
    const faults = (['type', 'length', 'truncate', 'gap'] as const).flatMap((kind) =>
      (['T', 'D', 'C', 'Z'] as const).map((type) => ({ kind, type })),
    )

    test.each(faults)('($kind of $type) cost at most one connection, and never change an answer', async (fault) => {
      const opened = await connected({ queryTimeout: 1_000 })
      const { db, proxy } = opened
      await ask(database.url, "insert into written values (1, 'one'), (2, 'two'), (3, 'three')")
      const armed = proxy.corrupt({ ...fault, to: /from "written"/ })
      const before = proxy.connections.length
      const answer = await db
        .selectFrom('written')
        .selectAll()
        .orderBy('n')
        .execute()
        .catch((error: unknown) => error)
      expect(armed.happened).toBe(true)
      // Sent again and answered, or an error of ours.
      if (!isSmartPgError(answer)) {
        expect(answer).toEqual([
          { n: 1, text: 'one' },
          { n: 2, text: 'two' },
          { n: 3, text: 'three' },
        ])
      }
      expect(await one(db)).toBe(1)
      expect(proxy.connections.length - before).toBeLessThanOrEqual(1)
      await expectWhole(opened)
    })

    test.each(['type', 'length'] as const)('(%s) in the answer to a write leave it unknown', async (kind) => {
      const opened = await connected()
      const { db, proxy } = opened
      const armed = proxy.corrupt({ kind, to: /insert into/, type: 'C' })
      const error = await failure(db.insertInto('written').values({ n: 1, text: null }).execute())
      expect(armed.happened).toBe(true)
      expect(error).toBeInstanceOf(OutcomeUnknownError)
      expect(await written()).toEqual([1])
      await expectWhole(opened)
    })

    test('that make a row a message of another known type never make an answer short', async () => {
      const opened = await connected({ queryTimeout: 1_000 })
      const { db, proxy } = opened
      await ask(database.url, 'insert into written values (1), (2), (3)')
      // A single bit: DataRow becomes CopyData.
      const armed = proxy.corrupt({ kind: 'type', as: 'd'.charCodeAt(0), type: 'D', to: /from "written"/ })
      const answer = await db
        .selectFrom('written')
        .select('n')
        .orderBy('n')
        .execute()
        .catch((error: unknown) => error)
      expect(armed.happened).toBe(true)
      if (!isSmartPgError(answer)) expect(answer).toEqual([{ n: 1 }, { n: 2 }, { n: 3 }])
      await expectWhole(opened)
    })

    test('while connecting are told as a failed connect, and the next try succeeds', async () => {
      const proxy = await startProxy()
      const armed = proxy.corrupt({ kind: 'length', type: 'K' })
      const opened = open<Tables>({ primary: proxy.url, pool: still })
      expect(await one(opened.db)).toBe(1)
      expect(armed.happened).toBe(true)
      await expectWhole({ ...opened, proxy })
    })
  })

  describe('a slow or closed door', () => {
    test('that takes 1.5 s to open keeps nobody out: with default options all are answered', async () => {
      const proxy = await startProxy()
      await proxy.accept({ afterMs: 1_500 })
      const { db } = open<Tables>({ primary: proxy.url })
      const answers = await Promise.all(Array.from({ length: 100 }, () => one(db)))
      expect(answers).toEqual(Array.from({ length: 100 }, () => 1))
    })

    test('that refuses for a second makes those who came before wait, and all are answered', async () => {
      const opened = await connected({ pool: { max } })
      const { db, dialect, proxy } = opened
      const standing = proxy.open.length
      const errors = new Tally()
      dialect.on('error', ({ during }) => errors.add(during))
      proxy.refuse()
      proxy.reset()
      await expect.poll(() => errors.counts['idle connection']).toBe(standing)
      const since = performance.now()
      const answers = Promise.all(Array.from({ length: 50 }, () => one(db)))
      await expect.poll(() => performance.now() - since).toBeGreaterThan(1_000)
      expect(errors.counts['connect']).toBeGreaterThan(1)
      await proxy.accept()
      expect(await answers).toEqual(Array.from({ length: 50 }, () => 1))
      await expectWhole(opened)
    })

    test('that refuses for a second, without a circuit breaker: those who come meanwhile are answered as well', async () => {
      const { db, proxy } = await connected({ breaker: false })
      const failures = new Tally()
      const since = performance.now()
      let answered = 0
      let calls = 0
      const callers = spread(Infinity, 20, async () => {
        calls++
        await one(db).then(
          () => answered++,
          (error: unknown) => failures.add(error),
        )
        if (answered > 2_000 && performance.now() - since > 1_200) throw new Error('enough')
      }).catch(() => undefined)
      await expect.poll(() => answered).toBeGreaterThan(50)
      proxy.refuse()
      proxy.reset()
      await expect.poll(() => performance.now() - since).toBeGreaterThan(1_000)
      await proxy.accept()
      await callers
      await expect.poll(() => answered + failures.total).toBe(calls)
      console.log(`${calls} reads, the door closed for a second among them: ${JSON.stringify(failures.counts)}`)
      expect(failures.counts).toEqual({})
    })
  })

  describe('a line of 5 ms', () => {
    test('lets a transaction of three inserts take five round trips', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      const insert = (trx: Kysely<Tables>, n: number) => trx.insertInto('written').values({ n, text: null }).execute()
      const transaction = (from: number): Promise<void> =>
        db.transaction().execute(async (trx) => {
          for (const n of [from, from + 1, from + 2]) await insert(trx, n)
        })
      await transaction(1)
      proxy.latency(5)
      const trips = (): number => proxy.connections.reduce((sum, { roundTrips }) => sum + roundTrips, 0)
      const [before, since] = [trips(), performance.now()]
      await transaction(4)
      const [took, ms] = [trips() - before, performance.now() - since]
      console.log(`a transaction of three inserts behind 5 ms: ${took} round trips, ${ms.toFixed(1)} ms`)
      expect(took).toBeLessThanOrEqual(5)
      expect(ms).toBeGreaterThanOrEqual(took * 5)
      expect(await written()).toEqual([1, 2, 3, 4, 5, 6])
      await expectWhole(opened)
    })

    test('with jitter gives every caller his own answer', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      proxy.latency(3, { jitter: 6, seed: 11 })
      const wrong = new Tally()
      await spread(200, 20, async (n) => {
        const { rows } = await sql<{ n: number }>`select ${n}::int as n`.execute(db)
        if (rows[0]!.n !== n) wrong.add(n)
      })
      expect(wrong.counts).toEqual({})
      await proxy.heal()
      await expectWhole(opened)
    })
  })

  describe('an address that moves to another server', () => {
    test('is followed by new connections, and those that were cut cost no read and no write twice', async () => {
      const opened = await connected({ breaker: false })
      const { db, proxy } = opened
      // Another way to the same primary stands for the server that took over.
      const successor = await startProxy()
      const told = new Tally()
      const acknowledged: number[] = []
      const calls = 2_000
      await spread(calls, 20, async (n) => {
        if (n === 800) proxy.retarget(successor.url, { cut: true })
        try {
          if (n % 2 === 0) await one(db)
          else await db.insertInto('written').values({ n, text: null }).execute()
          told.add('answered')
          if (n % 2 === 1) acknowledged.push(n)
        } catch (error) {
          told.add(error)
        }
      })
      console.log(`${calls} calls, an address that moved among them: ${JSON.stringify(told.counts)}`)
      expect(
        Object.keys(told.counts).filter((code) => code !== 'answered' && code !== 'SMARTPG_OUTCOME_UNKNOWN'),
      ).toEqual([])
      expect(told.counts['answered']).toBeGreaterThanOrEqual(calls * 0.98)
      const there = await written()
      expect(there).toHaveLength(new Set(there).size)
      expect(acknowledged.filter((n) => !there.includes(n))).toEqual([])
      expect(successor.open.length).toBeGreaterThan(0)
      expect(successor.open).toHaveLength(proxy.open.length)
      await expectWhole(opened)
    })

    test('without a cut keeps the connections that stand', async () => {
      const opened = await connected()
      const { db, proxy } = opened
      const successor = await startProxy()
      proxy.retarget(successor.url)
      expect(await one(db)).toBe(1)
      expect(successor.connections).toEqual([])
      proxy.reset()
      expect(await one(db)).toBe(1)
      expect(successor.open).toHaveLength(proxy.open.length)
      await expectWhole(opened)
    })
  })
})
