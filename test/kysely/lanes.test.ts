// Statements of many callers on few connections: nobody waits for ever behind somebody else, nobody is hit by what
// becomes of a neighbour, and nobody sees what another has done to his session.

import { setImmediate } from 'node:timers/promises'
import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import { seededChance } from '../support/chance.ts'
import { wire } from '../support/wire.ts'
import { failureOf, inDatabase, ownPidOf, pidOf, rowOf, run, takesSignals } from './support.ts'
import type { Tables } from './support.ts'

const place = inDatabase()
const shares = wire === 'native'
const onlyShared = "(wire: 'pg' shares no connection)"

/** So many connections, all open from the start. */
const pooling = (max: number) => ({ pool: { min: max, initial: max, max } })

/** Often enough that everybody knows how long it takes. */
async function learn(work: () => Promise<unknown>): Promise<void> {
  for (let times = 0; times < 4; times++) await work()
}

const nameOf = (db: Kysely<Tables>, id: number): Promise<{ name: string } | undefined> =>
  db.selectFrom('person').select('name').where('id', '=', id).executeTakeFirst()

describe.skipIf(!shares)(`a transaction that waits for a read of its own caller ${onlyShared}`, () => {
  test.each([10, 3])('gets it, with %i connections and nine updates waiting for its lock', async (max) => {
    const { db, dialect, applicationName } = place.open(pooling(max))
    await dialect.ready()
    const older = (): Promise<unknown> =>
      db
        .updateTable('person')
        .set((eb) => ({ age: eb('age', '+', 1) }))
        .where('id', '=', 1)
        .execute()
    await learn(older)
    await learn(() => nameOf(db, 1))
    const updates: Promise<unknown>[] = []
    await db.transaction().execute(async (trx) => {
      await trx.updateTable('person').set({ age: 100 }).where('id', '=', 1).execute()
      for (let i = 0; i < 9; i++) {
        updates.push(older())
        // Meanwhile the one before has come to stand before the lock, or waits for a place.
        await place.ask('select')
      }
      await expect
        .poll(async () => {
          const waiting = `select 1 from pg_stat_activity where application_name = $1 and wait_event_type = 'Lock'`
          return (await place.ask(waiting, [applicationName])).length
        })
        .toBeGreaterThan(0)
      for (let i = 0; i < 20; i++) expect(await nameOf(db, 2)).toEqual({ name: 'bob' })
      const twenty = await Promise.all(Array.from({ length: 20 }, () => nameOf(db, 1)))
      expect(twenty.map((row) => row?.name)).toEqual(Array(20).fill('ada'))
      // Nobody has seen these yet, so nobody knows how long they take.
      expect(await db.selectFrom('person').select('age').where('name', '=', 'bob').execute()).toEqual([{ age: 20 }])
      expect(await db.selectFrom('pet').selectAll().execute()).toEqual([])
    })
    await Promise.all(updates)
    expect(await place.ask('select age from person where id = 1')).toEqual([{ age: 109 }])
  })
})

describe('fast statements beside slow ones', () => {
  test('are all answered, and none of the slow ones is harmed', async () => {
    const { db } = place.open(pooling(10))
    const slept: number[] = []
    const load = { over: false }
    const sleeper = async (n: number): Promise<void> => {
      while (!load.over) {
        const { rows } = await sql<{ n: number }>`select ${n}::int as n from pg_sleep(0.1)`.execute(db)
        slept.push(rows[0]!.n)
      }
    }
    const sleepers = Promise.all(Array.from({ length: 8 }, (_, n) => sleeper(n)))
    const names: (string | undefined)[] = []
    const reader = async (): Promise<void> => {
      for (let i = 0; i < 50; i++) names.push((await nameOf(db, 1 + (i % 3)))?.name)
    }
    await Promise.all(Array.from({ length: 20 }, reader))
    load.over = true
    await sleepers
    expect(names).toHaveLength(1_000)
    expect(names.filter((name) => name === 'ada')).toHaveLength(20 * 17)
    expect(new Set(slept).size).toBe(8)
  })
})

describe.skipIf(!takesSignals)('aborting one of many (Kysely 0.28 has no signals)', () => {
  // Kysely prints what failed in the background after an abort.
  beforeEach(() => void vi.spyOn(console, 'error').mockImplementation(() => undefined))
  afterEach(() => void vi.restoreAllMocks())

  test.each(['cancel query', 'kill session', 'ignore query'] as const)(
    "with '%s' never hurts a neighbour",
    async (strategy) => {
      const { db } = place.open(pooling(3))
      const reason = new Error('the user went away')
      const hurt: unknown[] = []
      const told: unknown[] = []
      // So short that a cancel request mostly comes too late for it, and hits whatever runs then.
      const short = (n: number, options?: object) =>
        sql<{ n: number }>`select ${n}::int as n from pg_sleep(0.0005)`.execute(db, options)
      const neighbour = async (n: number): Promise<void> => {
        if (n === 0) await db.updateTable('person').set({ age: n }).where('id', '=', 3).execute()
        const { rows } = await sql<{ n: number }>`select ${n}::int as n from pg_sleep(0.002)`.execute(db)
        if (rows[0]?.n !== n) hurt.push(rows)
      }
      await learn(() => Promise.all([short(0), neighbour(0)]))
      const chance = seededChance(7)
      for (let round = 0; round < 200; round++) {
        const abort = new AbortController()
        const options = { signal: abort.signal, inflightQueryAbortStrategy: strategy }
        const before = chance() < 0.3 ? [neighbour(1)] : []
        const aborted = short(round, options).catch((error: unknown) => void told.push(error))
        const settled = Promise.allSettled([...before, ...[0, 1, 2, 3, 4].map(neighbour)])
        for (let turns = chance() * 4; turns > 0; turns--) await setImmediate()
        abort.abort(reason)
        for (const one of await settled) if (one.status === 'rejected') hurt.push(one.reason)
        await aborted
      }
      expect(hurt).toEqual([])
      expect(told.length).toBeGreaterThan(0)
      expect(told.every((error) => error === reason)).toBe(true)
    },
  )
})

describe('currval and lastval', () => {
  const refusal = async (asking: Promise<unknown>): Promise<void> => {
    const failure = await failureOf(asking)
    expect(isSmartPgError(failure, 'SMARTPG_INVALID_QUERY')).toBe(true)
    expect(failure.hint).toContain('RETURNING')
  }

  test.each(['select lastval()', "select currval('person_id_seq')", "select pg_catalog.currval('person_id_seq')"])(
    'are refused where they would answer with somebody else’s value: %s',
    async (text) => {
      const { db } = place.open()
      await db.insertInto('person').values({ name: 'dora' }).execute()
      await refusal(run(db, text))
      if (shares) {
        await db.connection().execute(async (one) => {
          await one.insertInto('person').values({ name: 'eve' }).execute()
          await refusal(run(one, text))
        })
      }
    },
  )

  test.skipIf(!shares)(`are refused in another insert as well ${onlyShared}`, async () => {
    const { db } = place.open()
    await db.connection().execute(async (one) => {
      await one.insertInto('person').values({ name: 'dora' }).execute()
      await refusal(run(one, "insert into pet (name, owner_id) values ('rex', currval('person_id_seq'))"))
    })
  })

  test('answer in a transaction, and on a connection that has been the caller’s since before his insert', async () => {
    const { db } = place.open()
    const dora = await db.transaction().execute(async (trx) => {
      await trx.insertInto('person').values({ name: 'dora' }).execute()
      await run(trx, "insert into pet (name, owner_id) values ('rex', currval('person_id_seq'))")
      return rowOf<{ id: string }>(trx, 'select lastval() as id')
    })
    expect(Number(dora.id)).toBeGreaterThan(0)
    await db.connection().execute(async (one) => {
      await run(one, 'select 1')
      await one.insertInto('person').values({ name: 'eve' }).execute()
      expect(await rowOf(one, "select name from person where id = currval('person_id_seq')")).toEqual({ name: 'eve' })
    })
  })
})

describe('db.connection() among many', () => {
  test('keeps one session from its second statement on, which nobody else uses', async () => {
    await place.ask('create or replace view who as select pg_backend_pid() as pid')
    const { db } = place.open(pooling(4))
    const load = { over: false }
    const strangers = new Map<number, number>()
    const callers = Promise.all(
      Array.from({ length: 10 }, async () => {
        while (!load.over) {
          const { rows } = await sql<{ pid: number }>`select pid from who`.execute(db)
          strangers.set(rows[0]!.pid, (strangers.get(rows[0]!.pid) ?? 0) + 1)
        }
      }),
    )
    try {
      for (let i = 0; i < 10; i++) {
        await db.connection().execute(async (one) => {
          const pid = await ownPidOf(one)
          const before = strangers.get(pid) ?? 0
          for (let n = 0; n < 20; n++) expect(await pidOf(one)).toBe(pid)
          expect(strangers.get(pid) ?? 0).toBe(before)
        })
      }
    } finally {
      load.over = true
      await callers
    }
  })
})

describe('session state', () => {
  test('of one caller never appears to another, whatever they do side by side', async () => {
    await place.ask(`create or replace view mess as select
      coalesce(current_setting('app.tenant', true), '') as tenant, current_setting('timezone') as timezone,
      (select count(*)::int from pg_locks where pid = pg_backend_pid() and locktype = 'advisory') as locks,
      (to_regclass('pg_temp.mine') is not null) as tables, current_user::text as "user"`)
    const { db, applicationName } = place.open(pooling(4))
    const clean = await rowOf(db, 'select * from mess')
    expect(clean).toMatchObject({ tenant: '', locks: 0, tables: false })
    const chance = seededChance(11)
    const wrong: unknown[] = []
    const sees = async (one: Kysely<Tables>, expected: object): Promise<void> => {
      const seen = await rowOf<object>(one, 'select * from mess')
      for (const [what, value] of Object.entries(expected)) {
        if ((seen as Record<string, unknown>)[what] !== value) wrong.push({ seen, expected })
      }
    }
    const deeds: ((n: number) => Promise<unknown>)[] = [
      () => sees(db, clean as object),
      () => sees(db, clean as object),
      () => sees(db, clean as object),
      () => nameOf(db, 1),
      (n) => run(db, `select set_config('app.tenant', 'single-${n}', false)`),
      () => run(db, "set timezone = 'Asia/Tokyo'"),
      (n) => run(db, `select pg_advisory_lock(${n})`),
      () => run(db, 'create temp table mine as select 1 as n'),
      () => run(db, 'set role pg_monitor'),
      (n) =>
        db.connection().execute(async (one) => {
          await run(one, `select set_config('app.tenant', 'connection-${n}', false)`)
          await sees(one, { ...(clean as object), tenant: `connection-${n}` })
          await run(one, `select pg_advisory_lock(${n})`)
          await run(one, 'create temp table mine as select 1 as n')
          await sees(one, { tenant: `connection-${n}`, locks: 1, tables: true })
        }),
      (n) =>
        db.transaction().execute(async (trx) => {
          await run(trx, `set local app.tenant = 'transaction-${n}'`)
          await sees(trx, { ...(clean as object), tenant: `transaction-${n}` })
        }),
      (n) =>
        db.connection().execute(async (one) => {
          await nameOf(one, 1)
          await sees(one, clean as object)
          await run(one, `set app.tenant = 'later-${n}'`)
          await sees(one, { tenant: `later-${n}` })
          throw new Error('done')
        }),
    ]
    let n = 0
    const caller = async (): Promise<void> => {
      for (let i = 0; i < 25; i++) {
        const deed = deeds[Math.floor(chance() * deeds.length)]!
        await deed(++n).catch((error: unknown) => {
          if ((error as Error).message !== 'done') wrong.push(error)
        })
      }
    }
    await Promise.all(Array.from({ length: 16 }, caller))
    expect(wrong).toEqual([])
    await Promise.all(Array.from({ length: 40 }, () => sees(db, clean as object)))
    expect(wrong).toEqual([])
    const left = `select 1 from pg_locks join pg_stat_activity using (pid)
      where application_name = $1 and locktype = 'advisory'`
    await expect.poll(() => place.ask(left, [applicationName])).toEqual([])
  })
})

describe('definitions that change', () => {
  test('under a load of named statements never put a value under the wrong name, and fail nobody', async () => {
    await place.ask(`drop table if exists wide;
      create table wide (id int primary key, name text not null);
      insert into wide select n, 'name-' || n from generate_series(1, 50) as n`)
    const { db } = place.open(pooling(3))
    const failures: unknown[] = []
    const wrong: unknown[] = []
    let columns = 0
    const load = { over: false }
    let answers = 0
    const wide = (id: number) => sql<Record<string, unknown>>`select * from wide where id = ${id}`
    const reader = async (from: number): Promise<void> => {
      for (let id = from; !load.over; id = 1 + (id % 50)) {
        const before = columns
        try {
          const { rows } = await wide(id).execute(db)
          const [row] = rows
          answers++
          const extras = Object.entries(row!).filter(([name]) => name !== 'id' && name !== 'name')
          const right = row!['id'] === id && row!['name'] === `name-${id}`
          if (!right || extras.some(([name, value]) => value !== Number(name.slice(1)))) wrong.push(row)
          if (extras.length < before) wrong.push({ row, before })
        } catch (error) {
          failures.push(error)
        }
      }
    }
    const callers = Promise.all(Array.from({ length: 20 }, (_, n) => reader(n + 1)))
    try {
      for (let n = 1; n <= 12; n++) {
        const enough = answers + 200
        await vi.waitFor(() => expect(answers).toBeGreaterThan(enough), { timeout: 20_000, interval: 1 })
        const add = `alter table wide add column c${n} int not null default ${n}`
        await (n % 2 === 0 ? place.ask(add) : run(db, add))
        columns = n
      }
    } finally {
      load.over = true
      await callers
    }
    expect(wrong).toEqual([])
    expect(failures).toEqual([])
  })
})

describe('COPY', () => {
  test('of data that nobody sends fails with a clear error, and neighbours go on', async () => {
    const { db } = place.open(pooling(2))
    const read = (): Promise<unknown>[] => Array.from({ length: 30 }, () => nameOf(db, 1))
    const before = read()
    const copies = Array.from({ length: 3 }, () => failureOf(run(db, 'copy person (name) from stdin')))
    const behind = read()
    for (const failure of await Promise.all(copies)) expect(failure.message).toContain('COPY')
    for (const answer of await Promise.all([...before, ...behind])) expect(answer).toEqual({ name: 'ada' })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })
})

describe('a statement that fails', () => {
  test('fails alone: what stands before and behind it in the same write is answered', async () => {
    const { db } = place.openOne()
    await learn(() => nameOf(db, 1))
    const all = Array.from({ length: 60 }, (_, n) => {
      if (n % 6 === 0) return sql`select 1 / ${0}::int as n`.execute(db)
      if (n % 6 === 1) return db.insertInto('person').values({ name: 'ada' }).execute()
      if (n % 6 === 2) return sql`select ${{ toPostgres: unsendable }}`.execute(db)
      return nameOf(db, 1 + (n % 3))
    })
    const settled = await Promise.allSettled(all)
    settled.forEach((one, n) => {
      if (n % 6 > 2) expect(one).toEqual({ status: 'fulfilled', value: { name: ['ada', 'bob', 'cleo'][n % 3] } })
      else expect(one.status).toBe('rejected')
    })
    expect((settled[0] as PromiseRejectedResult).reason).toMatchObject({ code: '22012' })
    expect((settled[1] as PromiseRejectedResult).reason).toMatchObject({ code: '23505' })
    expect((settled[2] as PromiseRejectedResult).reason).toMatchObject({ code: 'SMARTPG_INVALID_QUERY', phase: 'send' })
  })
})

function unsendable(): never {
  throw new Error('cannot be sent')
}
