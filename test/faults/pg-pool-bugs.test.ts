// Nine things that pg-pool 3.14 does to its users, each reproduced with it once and kept out of this package by a
// test against a real server. The comment of each test says what was seen with Kysely's own dialect and pg-pool.

import { randomBytes } from 'node:crypto'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { CompiledQuery, Kysely, sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, onTestFinished, test } from 'vitest'
import type { PoolOptions, SmartPgOptions } from '../../src/config/options.ts'
import type { Events } from '../../src/core/events.ts'
import { SmartPgDialect } from '../../src/dialect.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'

interface Tables {
  t: { id: number }
}

let database: Database

beforeAll(async () => {
  database = await createDatabase({ url: inject('primaryUrl') })
  await ask(database.url, 'create table t (id int primary key)')
})

afterAll(() => database.drop())

interface Client {
  readonly db: Kysely<Tables>
  readonly dialect: SmartPgDialect
  /** As pg_stat_activity shows its sessions. */
  readonly name: string
  /** Process ids of its sessions on the server. */
  readonly sessions: () => Promise<number[]>
}

function connect(pool: PoolOptions, options: Partial<SmartPgOptions> = {}): Client {
  const name = `pool-bugs-${randomBytes(4).toString('hex')}`
  const dialect = new SmartPgDialect({
    wire,
    primary: database.url,
    applicationName: name,
    metrics: false,
    logger: silent,
    pool: { min: 0, initial: 0, minIdle: 0, ...pool },
    ...options,
  })
  const db = new Kysely<Tables>({ dialect })
  onTestFinished(() => db.destroy())
  const sessions = async (): Promise<number[]> => {
    const found = 'select pid from pg_stat_activity where application_name = $1 order by pid'
    return (await ask<{ pid: number }>(database.url, found, [name])).map(({ pid }) => pid)
  }
  return { db, dialect, name, sessions }
}

const nothing = (): void => undefined
const silent = { debug: nothing, info: nothing, warn: nothing, error: nothing }

/** A promise and the hand that settles it. */
function signal(): { readonly given: Promise<void>; readonly give: () => void } {
  let give = (): void => undefined
  const given = new Promise<void>((resolve) => (give = resolve))
  return { given, give }
}

/** Holds a connection of its own until the returned function is called. */
async function holdConnection(db: Kysely<Tables>): Promise<() => Promise<void>> {
  const held = signal()
  const end = signal()
  const holding = db.connection().execute(async (connection) => {
    // The first statement may run anywhere, from the second on the connection is this caller's.
    for (let n = 0; n < 2; n++) await connection.executeQuery(CompiledQuery.raw('select 1 as held'))
    held.give()
    await end.given
  })
  await Promise.race([held.given, holding])
  return () => {
    end.give()
    return holding
  }
}

const insert = (db: Kysely<Tables>, id: number): Promise<unknown> => db.insertInto('t').values({ id }).execute()
const answer = async (db: Kysely<Tables>, value: number): Promise<number> =>
  (await sql<{ n: number }>`select ${value}::int as n`.execute(db)).rows[0]!.n

describe('destroy', () => {
  // pg-pool: end() waits for ever for a queue that nobody serves any more, and the queue waits for ever, too.
  test('tells everybody who still waits for a connection, and settles', async () => {
    const { db, sessions } = connect({ max: 1, acquireTimeout: '5min' })
    const letGo = await holdConnection(db)
    const waiting = Promise.allSettled([answer(db, 1), answer(db, 2), answer(db, 3)])
    const destroyed = db.destroy()
    for (const one of await waiting) {
      expect(one).toMatchObject({ status: 'rejected', reason: { code: 'SMARTPG_CLOSED' } })
    }
    await letGo()
    await destroyed
    await expect.poll(sessions).toEqual([])
  })

  test('closes what ready has opened, even if no query ever ran', async () => {
    const { db, dialect, sessions } = connect({ initial: 2, max: 2 })
    await dialect.ready()
    expect(await sessions()).toHaveLength(2)
    // Kysely does not tell its driver when it has never run a query.
    await db.destroy()
    await dialect.destroy()
    await expect.poll(sessions, { timeout: 5_000 }).toEqual([])
  })
})

describe('a connection that is given back in a transaction', () => {
  // pg-pool: the next borrower is in that transaction; his acknowledged inserts vanish when it is rolled back.
  test('never takes the next caller into it: what he inserts is there for everybody', async () => {
    const { db } = connect({ max: 1 })
    await db.connection().execute(async (connection) => {
      await connection.executeQuery(CompiledQuery.raw('begin'))
      await insert(connection, 1)
    })
    await insert(db, 2)
    expect(await ask(database.url, 'select id from t order by id')).toEqual([{ id: 2 }])
  })

  test('in a failed transaction serves the next caller as if nothing had been', async () => {
    const { db } = connect({ max: 1 })
    await db.connection().execute(async (connection) => {
      await connection.executeQuery(CompiledQuery.raw('begin'))
      await sql`select 1 / 0`.execute(connection).catch(() => undefined)
    })
    expect(await answer(db, 7)).toBe(7)
  })
})

describe('a query over its time', () => {
  // pg-pool: the client goes back to the pool with the query still running; the next caller waits behind it or is
  // handed its answer's error.
  test('leaves nothing to the next caller of its connection, and does not run on in the server', async () => {
    const { db, name } = connect({ max: 1 }, { queryTimeout: 300 })
    await expect(sql`select pg_sleep(120)`.execute(db)).rejects.toMatchObject({ code: 'SMARTPG_QUERY_TIMEOUT' })
    expect([await answer(db, 1), await answer(db, 2), await answer(db, 3)]).toEqual([1, 2, 3])
    const running = `select pid from pg_stat_activity
      where application_name = $1 and state = 'active' and query like '%pg_sleep%'`
    await expect.poll(() => ask(database.url, running, [name])).toEqual([])
  })
})

describe('a caller who waits while a connection is opened for him', () => {
  // pg-pool: he is bound to that connect. It took 1,040 ms although another connection was free after 10 ms.
  test('takes the one that comes free before', async () => {
    const slow = signal()
    let connects = 0
    const { db } = connect(
      { max: 2 },
      {
        primary: async () => {
          if (++connects > 1) await slow.given
          return database.url
        },
      },
    )
    const letGo = await holdConnection(db)
    const waiting = answer(db, 5)
    await expect.poll(() => connects).toBe(2)
    await letGo()
    // It would wait for ever if it waited for the second connect.
    expect(await waiting).toBe(5)
    slow.give()
  })
})

describe('min', () => {
  // pg-pool: `min` is read by nothing but its idle timer; no connection is ever opened ahead.
  test('connections stand before the first query', async () => {
    const { dialect, db, sessions } = connect({ min: 3, initial: 3, max: 5 })
    await dialect.ready()
    expect(await sessions()).toHaveLength(3)
    expect(await answer(db, 1)).toBe(1)
    expect(await sessions()).toHaveLength(3)
  })

  test('connections stand again after the server has closed them', async () => {
    const { dialect, db, sessions } = connect({ min: 3, initial: 3, max: 5 })
    await dialect.ready()
    await answer(db, 1)
    const before = await sessions()
    await ask(database.url, 'select pg_terminate_backend(pid) from unnest($1::int[]) as pid', [before])
    await expect.poll(async () => (await sessions()).filter((pid) => !before.includes(pid)).length).toBe(3)
  })
})

describe('a pool whose max is above what the server allows', () => {
  // pg-pool: 177 of 200 callers failed with 53300, although 20 connections stood and could have served them.
  test('serves two hundred callers with the twenty connections it gets', async () => {
    const role = `limited_${randomBytes(4).toString('hex')}`
    await ask(database.url, `create role ${role} login password 'limited' connection limit 20`)
    onTestFinished(async () => {
      await ask(database.url, `drop role ${role}`)
    })
    const url = new URL(database.url)
    url.username = role
    url.password = 'limited'
    // Without lanes, so that each of them asks for a connection.
    const { db, sessions } = connect({ max: 50, lanes: false }, { primary: url.href })
    const answers = await Promise.all(
      Array.from({ length: 200 }, async (_, i) => {
        const { rows } = await sql<{ n: number }>`select ${i}::int as n, pg_sleep(0.02)`.execute(db)
        return rows[0]!.n
      }),
    )
    expect(answers).toEqual(Array.from({ length: 200 }, (_, i) => i))
    expect((await sessions()).length).toBeLessThanOrEqual(20)
    await db.destroy()
    await expect.poll(sessions).toEqual([])
  })
})

describe('idle connections that the server has closed', () => {
  // pg-pool: handed out until each has failed one query with "Connection terminated unexpectedly".
  test('are handed to nobody: every write after it succeeds at its first try', async () => {
    const { db, dialect, sessions } = connect({ min: 4, initial: 4, max: 4 })
    const lost: unknown[] = []
    dialect.on('error', ({ during }) => during === 'idle connection' && lost.push(during))
    await dialect.ready()
    await answer(db, 1)
    const tries: Events['query'][] = []
    dialect.on('query', (event) => tries.push(event))
    await ask(database.url, 'select pg_terminate_backend(pid) from unnest($1::int[]) as pid', [await sessions()])
    await expect.poll(() => lost.length).toBe(4)
    await Promise.all([11, 12, 13, 14, 15, 16, 17, 18].map((id) => insert(db, id)))
    expect(tries.every(({ ok, attempts }) => ok && attempts === 1)).toBe(true)
    expect(await ask(database.url, 'select count(*)::int as n from t where id between 11 and 18')).toEqual([{ n: 8 }])
  })

  test('in the very moment of a query are no failure of a read', async () => {
    const { db, sessions } = connect({ max: 1 })
    for (let i = 0; i < 5; i++) {
      await answer(db, 0)
      const [pid] = await sessions()
      const killed = ask(database.url, 'select pg_terminate_backend($1)', [pid])
      expect(await answer(db, i)).toBe(i)
      await killed
    }
  })
})

describe('twenty thousand callers who wait in vain', () => {
  // pg-pool: one timer each, and a search through the whole queue for every one that fires; the event loop stood still
  // for 3.2 s.
  test('are all told so, and the process goes on meanwhile', async () => {
    const { db } = connect({ max: 1, maxWaiting: 20_000, acquireTimeout: '2s' })
    const letGo = await holdConnection(db)
    const delay = monitorEventLoopDelay({ resolution: 1 })
    let told = 0
    let turnsMeanwhile = 0
    let longestMs = 0
    let last = performance.now()
    const timer = setInterval(() => {
      if (told > 0 && told < 20_000) turnsMeanwhile++
      longestMs = Math.max(longestMs, performance.now() - last)
      last = performance.now()
    }, 1)
    delay.enable()
    const codes = await Promise.all(
      Array.from({ length: 20_000 }, () =>
        sql`select 1`.execute(db).then(
          () => 'answered',
          (error: { code: string }) => {
            told++
            return error.code
          },
        ),
      ),
    )
    delay.disable()
    clearInterval(timer)
    console.info(
      `20,000 acquire timeouts: longest turn ${longestMs.toFixed(0)} ms, ` +
        `99 % of turns within ${(delay.percentile(99) / 1e6).toFixed(0)} ms, ${turnsMeanwhile} turns while they were told`,
    )
    await letGo()
    expect(new Set(codes)).toEqual(new Set(['SMARTPG_ACQUIRE_TIMEOUT']))
    // Others are served between the first who is told and the last.
    expect(turnsMeanwhile).toBeGreaterThan(0)
    expect(await answer(db, 1)).toBe(1)
  })
})

describe('a pool that was filled in one moment', () => {
  // pg-pool: maxLifetimeSeconds without jitter; all connections ended within 8 ms, and all callers waited for connects.
  test('does not end in one moment', async () => {
    const connects: number[] = []
    const { dialect, db } = connect(
      { min: 16, initial: 16, max: 16, maxLifetime: '2s', idleTimeout: 100 },
      {
        primary: () => {
          connects.push(performance.now())
          return database.url
        },
      },
    )
    await dialect.ready()
    await answer(db, 1)
    // The second sixteen are opened in place of the first, each when one of them has ended.
    await expect.poll(() => connects.length).toBeGreaterThanOrEqual(32)
    const [first, last] = [connects[16]!, connects[31]!]
    expect(last - first).toBeGreaterThan(8)
  })
})
