// BEGIN that rides along with the first statement, as Kysely's users meet it: how many round trips a transaction takes,
// what has been asked before its callback runs, and that nothing of it ever runs outside of it.

import { CompiledQuery, sql } from 'kysely'
import { afterEach, describe, expect, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import type { SmartPgOptions } from '../../src/index.ts'
import { startWiretap } from '../support/wiretap.ts'
import type { Wiretap } from '../support/wiretap.ts'
import { wire } from '../support/wire.ts'
import {
  backendsOf,
  failureOf,
  hasReplicas,
  inDatabase,
  newLog,
  pidOf,
  rowOf,
  run,
  takesSignals,
  terminate,
  waitsForLock,
} from './support.ts'
import type { Opened } from './support.ts'

const place = inDatabase()
const dora = { name: 'dora', age: 1 }
const ben = { name: 'ben', age: 2 }
const everyone = ['ada', 'bob', 'cleo']

/** Where statements cannot be sent together BEGIN is sent as ever. */
const rides = wire === 'native'

const taps: Wiretap[] = []
afterEach(async () => {
  await Promise.all(taps.splice(0).map((tap) => tap.close()))
})

/** One connection, already open, on which the test listens from now on. */
async function tapped(options: Partial<SmartPgOptions> = {}): Promise<Opened & { tap: Wiretap }> {
  const tap = await startWiretap(place.url)
  taps.push(tap)
  const opened = place.openOne({ primary: tap.url, ...options })
  await pidOf(opened.db)
  tap.forget()
  return { ...opened, tap }
}

const syncs = (tap: Wiretap): number => tap.flights.join('').replaceAll(/[^SQ]/g, '').length

describe('a transaction', () => {
  test('of three inserts takes four round trips, and the first of them has one Sync', async () => {
    const { db, tap } = await tapped()
    await db.transaction().execute(async (trx) => {
      for (const name of ['x', 'y', 'z']) await trx.insertInto('person').values({ name, age: 1 }).execute()
    })
    expect(tap.flights).toHaveLength(rides ? 4 : 5)
    expect(tap.flights[0]).toBe(rides ? 'PBDEPBDES' : 'Q')
    expect(syncs(tap)).toBe(tap.flights.length)
    expect(await place.names()).toEqual([...everyone, 'x', 'y', 'z'])
  })

  test.for(['commits', 'rolls back'] as const)('that sends nothing and %s takes none', async (how) => {
    const { db, tap } = await tapped()
    const own = new Error('mine')
    const whole = db.transaction().execute(async () => {
      if (how === 'rolls back') throw own
      return 7
    })
    if (how === 'commits') expect(await whole).toBe(7)
    else expect(await failureOf(whole)).toBe(own)
    expect(tap.flights).toEqual(rides ? [] : ['Q', 'Q'])
  })

  test.for([true, false])('that sends nothing is in Kysely’s log all the same (lazyBegin: %s)', async (lazyBegin) => {
    const { log, texts, entries } = newLog()
    const { db } = place.openOne({ transactions: { lazyBegin } }, { log })
    await db.transaction().execute(async () => undefined)
    await db
      .transaction()
      .setIsolationLevel('serializable')
      .execute(() => Promise.reject(new Error('mine')))
      .catch(() => undefined)
    expect(texts()).toEqual(['begin', 'commit', 'start transaction isolation level serializable', 'rollback'])
    expect(entries.every(({ level }) => level === 'query')).toBe(true)
  })

  test('with lazyBegin: false has begun on the server before its callback runs', async () => {
    const { db, tap, applicationName } = await tapped({ transactions: { lazyBegin: false } })
    await db.transaction().execute(async (trx) => {
      expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle in transaction' }])
      await trx.insertInto('person').values(dora).execute()
    })
    expect(tap.flights).toHaveLength(3)
    expect(await place.names()).toContain('dora')
  })

  test('as it is otherwise has not', async () => {
    const { db, applicationName } = await tapped()
    await db.transaction().execute(async () => {
      const state = rides ? 'idle' : 'idle in transaction'
      expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state }])
    })
  })

  test('runs no callback against a server that is not there', async () => {
    const nobody = new URL(place.url)
    nobody.port = '1'
    const { db } = place.openOne({ primary: nobody.href, pool: { acquireTimeout: 300 } })
    let called = false
    const failure = await failureOf(db.transaction().execute(async () => void (called = true)))
    expect(isSmartPgError(failure)).toBe(true)
    expect(called).toBe(false)
  })

  test('runs no callback while the circuit is open', async () => {
    const { db, dialect } = place.openOne()
    await pidOf(db)
    dialect.breaker('primary').forceOpen('a test')
    let called = false
    const failure = await failureOf(db.transaction().execute(async () => void (called = true)))
    expect(failure).toMatchObject({ code: 'SMARTPG_CIRCUIT_OPEN' })
    expect(called).toBe(false)
  })

  test.for(['repeatable read', 'serializable'] as const)('rides at the level that was asked for: %s', async (level) => {
    const { db, tap } = await tapped()
    const seen = await db
      .transaction()
      .setIsolationLevel(level)
      .setAccessMode('read only')
      .execute((trx) =>
        rowOf(
          trx,
          "select current_setting('transaction_isolation') as i, current_setting('transaction_read_only') as r",
        ),
      )
    expect(seen).toEqual({ i: level, r: 'on' })
    expect(tap.texts[0]).toBe(`start transaction isolation level ${level} read only`)
    expect(await rowOf(db, 'show transaction_isolation')).toEqual({ transaction_isolation: 'read committed' })
  })

  test('sees one snapshot from its first statement on', async () => {
    const { db } = place.openOne()
    await db
      .transaction()
      .setIsolationLevel('repeatable read')
      .execute(async (trx) => {
        expect(await trx.selectFrom('person').select('id').execute()).toHaveLength(3)
        await place.ask("insert into person (name) values ('late')")
        expect(await trx.selectFrom('person').select('id').execute()).toHaveLength(3)
      })
  })

  test('of five statements at once begins once, and all of them are in it', async () => {
    const { db, tap } = await tapped()
    const xids = await db.transaction().execute((trx) =>
      Promise.all(
        [1, 2, 3, 4, 5].map(async (n) => {
          await trx
            .insertInto('person')
            .values({ name: `p${n}`, age: n })
            .execute()
          return rowOf<{ xid: string }>(trx, 'select pg_current_xact_id()::text as xid')
        }),
      ),
    )
    expect(new Set(xids.map(({ xid }) => xid)).size).toBe(1)
    expect(tap.texts.filter((text) => text === 'begin')).toHaveLength(1)
    expect(await place.names()).toHaveLength(8)
  })

  test('of five statements at once on its connection is no different, and none of them is kept when it fails', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db.transaction().execute((trx) =>
        trx.getExecutor().provideConnection(async (connection) => {
          const insert = (name: string) => trx.insertInto('person').values({ name, age: 1 }).compile()
          const settled = await Promise.allSettled(
            ['x', 'y', 'ada', 'z', 'w'].map((name) => connection.executeQuery(insert(name))),
          )
          expect(settled.slice(0, 3).map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected'])
        }),
      ),
    )
    expect(failure).toMatchObject({ name: 'AbortedTransactionError' })
    expect(await place.names()).toEqual(everyone)
  })
})

describe('a BEGIN that the server refuses', () => {
  /** PostgreSQL has no such level. */
  const snapshot = 'snapshot'

  test('rejects the first statement with the server’s own error, and nothing is kept', async () => {
    const { db, applicationName } = place.openOne()
    const failure = await failureOf(
      db
        .transaction()
        .setIsolationLevel(snapshot)
        .execute((trx) => trx.insertInto('person').values(dora).execute()),
    )
    expect(failure).toMatchObject({ code: '42601', name: 'error' })
    expect(await place.names()).toEqual(everyone)
    await pidOf(db)
    expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
  })

  test.for<[string, string]>([
    ['a text with parameters', 'insert'],
    ['several statements', "insert into person (name) values ('x'); insert into person (name) values ('y')"],
    ['a batch', 'batch'],
    ['a stream', 'stream'],
  ])('lets nothing run outside of the transaction, whoever swallows what: %s', async ([, what]) => {
    const { db } = place.openOne()
    const transaction = db.transaction().setIsolationLevel(snapshot)
    const failure = await failureOf(
      transaction.execute(async (trx) => {
        const insert = trx.insertInto('person').values(dora)
        const once = async (): Promise<void> => {
          if (what === 'insert') await insert.execute()
          else if (what === 'batch') await trx.batch([insert, insert])
          else if (what === 'stream') for await (const _ of insert.returning('id').stream()) break
          else await run(trx, what)
        }
        for (let round = 0; round < 3; round++) await failureOf(once())
        await failureOf(insert.execute())
        await failureOf(trx.batch([insert]))
      }),
    )
    expect(failure).toMatchObject(rides ? { name: 'AbortedTransactionError' } : { code: '42601' })
    expect(await place.names()).toEqual(everyone)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('and was swallowed is told at the end: nothing was kept', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db
        .transaction()
        .setIsolationLevel(snapshot)
        .execute(async (trx) => {
          await trx
            .insertInto('person')
            .values(dora)
            .execute()
            .catch(() => undefined)
        }),
    )
    if (rides) expect(failure).toMatchObject({ name: 'AbortedTransactionError' })
    else expect(failure).toMatchObject({ code: '42601' })
    expect(await place.names()).toEqual(everyone)
  })

  test('leaves a controlled transaction that can be rolled back, and its connection to the next', async () => {
    const { db } = place.openOne({ transactions: { lazyBegin: true } })
    for (let round = 0; round < 3; round++) {
      if (!rides) {
        await failureOf(db.startTransaction().setIsolationLevel(snapshot).execute())
        continue
      }
      const trx = await db.startTransaction().setIsolationLevel(snapshot).execute()
      expect(await failureOf(trx.insertInto('person').values(dora).execute())).toMatchObject({ code: '42601' })
      await trx.rollback().execute()
    }
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    expect(await place.names()).toEqual(everyone)
  })
})

describe('the first statement of a transaction may be', () => {
  test('several statements in one text: BEGIN goes ahead of them', async () => {
    const { db, tap } = await tapped()
    await db.transaction().execute(async (trx) => {
      await run(trx, "insert into person (name) values ('x'); insert into person (name) values ('y')")
      await trx.deleteFrom('person').where('name', '=', 'x').execute()
    })
    expect(tap.flights.slice(0, 2)).toEqual(['Q', 'Q'])
    expect(tap.texts[0]).toBe('begin')
    expect(await place.names()).toEqual([...everyone, 'y'])
  })

  test('several statements of which one fails: nothing of them is kept', async () => {
    const { db } = place.openOne()
    const text = "insert into person (name) values ('x'); insert into person (name) values ('ada')"
    const failure = await failureOf(db.transaction().execute((trx) => run(trx, text)))
    expect(failure).toMatchObject({ code: '23505' })
    expect(await place.names()).toEqual(everyone)
  })

  test('a COPY, which has no data and fails, and the transaction with it', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(db.transaction().execute((trx) => run(trx, 'copy person (name) from stdin')))
    expect(failure).toBeInstanceOf(Error)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
    expect(await place.names()).toEqual(everyone)
  })

  test('a text that only has the word copy in it', async () => {
    const { db } = place.openOne()
    const rows = await db
      .transaction()
      .execute((trx) => rowOf(trx, "(select 'copy' as a) union all (select 'b') order by 1 desc"))
    expect(rows).toEqual({ a: 'copy' })
  })

  test('a savepoint', async () => {
    const { db, tap } = await tapped()
    const trx = await db.startTransaction().execute()
    const inside = await trx.savepoint('a').execute()
    await inside.insertInto('person').values(dora).execute()
    const back = await inside.rollbackToSavepoint('a').execute()
    await back.insertInto('person').values(ben).execute()
    await back.commit().execute()
    expect(await place.names()).toEqual([...everyone, 'ben'])
    expect(tap.flights).toHaveLength(rides ? 5 : 6)
  })

  test('a stream', async () => {
    const { db } = place.openOne()
    const ages = await db.transaction().execute(async (trx) => {
      const seen: (number | null)[] = []
      const written = trx.insertInto('person').values([dora, ben]).returning('age')
      for await (const { age } of written.stream(1)) seen.push(age)
      return seen
    })
    expect(ages).toEqual([1, 2])
    expect(await place.names()).toEqual([...everyone, 'dora', 'ben'])
    await db
      .transaction()
      .execute(async (trx) => {
        for await (const _ of trx.deleteFrom('person').returning('id').stream(1)) throw new Error('mine')
      })
      .catch(() => undefined)
    expect(await place.names()).toHaveLength(5)
  })

  test('a batch, which takes BEGIN along', async () => {
    const { db, tap } = await tapped()
    await db.transaction().execute(async (trx) => {
      await trx.batch([trx.insertInto('person').values(dora), trx.insertInto('person').values(ben)])
      await trx.deleteFrom('person').where('name', '=', 'dora').execute()
    })
    expect(await place.names()).toEqual([...everyone, 'ben'])
    if (rides) expect(tap.flights[0]).toMatch(/^PBDEPBDE(P?BD?E)+S$/)
    expect(tap.flights).toHaveLength(rides ? 3 : 5)
  })

  test('set transaction, which nothing may come before', async () => {
    const { db } = place.openOne()
    const seen = await db.transaction().execute(async (trx) => {
      await sql`set transaction isolation level serializable`.execute(trx)
      return rowOf(trx, 'show transaction_isolation')
    })
    expect(seen).toEqual({ transaction_isolation: 'serializable' })
  })

  test('one that fails: the transaction has failed with it', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db.transaction().execute(async (trx) => {
        await failureOf(trx.insertInto('person').values({ name: 'ada', age: 1 }).execute())
        expect(await failureOf(trx.insertInto('person').values(dora).execute())).toMatchObject({ code: '25P02' })
      }),
    )
    expect(failure).toMatchObject({ name: 'AbortedTransactionError' })
    expect(await place.names()).toEqual(everyone)
  })

  test('one whose value cannot be serialized: nothing was sent, and the transaction begins with the next', async () => {
    const { db } = place.openOne()
    const value = {
      toPostgres: () => {
        throw new Error('no')
      },
    }
    for (const swallowed of [true, false]) {
      const whole = db.transaction().execute(async (trx) => {
        const refused = failureOf(sql`select ${value}::text`.execute(trx))
        expect(await refused).toMatchObject({ code: 'SMARTPG_INVALID_QUERY' })
        await trx.insertInto('person').values(dora).execute()
        expect(await rowOf(trx, 'select pg_current_xact_id_if_assigned() is null as none')).toEqual({ none: false })
        if (!swallowed) throw await refused
      })
      if (swallowed) await whole
      else await failureOf(whole)
      expect(await place.names()).toEqual(swallowed ? [...everyone, 'dora'] : everyone)
      await place.ask("delete from person where name = 'dora'")
    }
  })

  test.for(['insert into person (name) values ($1)', 'batch'])(
    'a failure that was swallowed leaves nothing to be run outside: %s',
    async (text) => {
      const { db } = place.openOne()
      await db
        .transaction()
        .execute(async (trx) => {
          const value = { toPostgres: () => JSON.parse('no') as string }
          if (text === 'batch') await failureOf(trx.batch([sql`select 1`, sql`select ${value}::text`]))
          else await failureOf(run(trx, text, [value]))
          await trx.insertInto('person').values(dora).execute()
          throw new Error('mine')
        })
        .catch(() => undefined)
      expect(await place.names()).toEqual(everyone)
    },
  )
})

describe('a prepared statement that is stale at the beginning of a transaction', () => {
  const widen = (): Promise<unknown> => place.ask('alter table person add column extra int default 5')
  afterEach(() => place.ask('alter table person drop column if exists extra'))

  /** Where BEGIN has been answered already, nothing can be begun again: it fails once, and the next is well. */
  const once = async <T>(code: string, work: () => Promise<T>): Promise<T> => {
    if (!rides) expect(await failureOf(work())).toMatchObject({ code })
    return work()
  }

  const selectAll = CompiledQuery.raw('select * from person where id = $1', [1])

  test('after DDL (0A000) is prepared anew, and nobody notices', async () => {
    const { db, tap } = await tapped({ statements: { prepare: 'always' } })
    await db.transaction().execute((trx) => trx.executeQuery(selectAll))
    await widen()
    tap.forget()
    const rows = await once('0A000', () =>
      db.transaction().execute(async (trx) => {
        const { rows: first } = await trx.executeQuery<{ extra: number }>(selectAll)
        await trx.insertInto('person').values(dora).execute()
        return first
      }),
    )
    expect(rows).toMatchObject([{ name: 'ada', extra: 5 }])
    expect(await place.names()).toContain('dora')
    if (rides) expect(tap.texts.filter((text) => text === 'begin')).toHaveLength(2)
  })

  test('after DEALLOCATE ALL (26000) is prepared anew, and nobody notices', async () => {
    const { db } = place.openOne({ statements: { prepare: 'always' } })
    const insert = (name: string) => db.insertInto('person').values({ name, age: 1 }).compile()
    await db.connection().execute(async (one) => {
      await one.transaction().execute((trx) => trx.executeQuery(insert('x')))
      await run(one, 'deallocate all')
      await once('26000', () =>
        one.transaction().execute(async (trx) => {
          await trx.executeQuery(insert('y'))
          await trx.executeQuery(insert('z'))
        }),
      )
    })
    expect(await place.names()).toEqual([...everyone, 'x', 'y', 'z'])
  })

  test('as a later statement fails the transaction, and the next one is well again', async () => {
    const { db } = place.openOne({ statements: { prepare: 'always' } })
    await db.transaction().execute((trx) => trx.executeQuery(selectAll))
    await widen()
    const work = (): Promise<unknown> =>
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values(dora).execute()
        return trx.executeQuery(selectAll)
      })
    expect(await failureOf(work())).toMatchObject({ code: '0A000' })
    expect(await place.names()).toEqual(everyone)
    await work()
    expect(await place.names()).toContain('dora')
  })
})

describe('a controlled transaction', () => {
  test('that is never used leaves its connection clean at rollback and at commit', async () => {
    const { db, tap, applicationName } = await tapped()
    for (const how of ['rollback', 'commit'] as const) {
      const trx = await db.startTransaction().setIsolationLevel('serializable').execute()
      await trx[how]().execute()
      expect(await rowOf(db, 'show transaction_isolation')).toEqual({ transaction_isolation: 'read committed' })
    }
    expect(tap.texts.filter((text) => text.startsWith('start'))).toHaveLength(rides ? 0 : 2)
    expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
  })

  test('that is forgotten does not keep destroy from closing its connection', { timeout: 20_000 }, async () => {
    const { db, applicationName } = place.openOne({ queryTimeout: 500 })
    await db.startTransaction().execute()
    await db.destroy()
    await expect.poll(() => backendsOf(place.url, applicationName)).toEqual([])
  })

  test('on db.connection() that sends nothing leaves the session as it was', async () => {
    const { db } = place.openOne()
    await db.connection().execute(async (one) => {
      await run(one, "set search_path to 'pg_catalog'")
      await one.transaction().execute(async () => undefined)
      await one
        .transaction()
        .execute(() => Promise.reject(new Error('mine')))
        .catch(() => undefined)
      expect(await rowOf(one, 'show search_path')).toEqual({ search_path: 'pg_catalog' })
      await run(one, "insert into public.person (name) values ('kept')")
    })
    expect(await place.names()).toContain('kept')
  })
})

describe('when the connection dies', () => {
  test('before the first statement: the transaction begins on another, or tells that it did not', async () => {
    const { db } = place.openOne()
    const pid = await pidOf(db)
    const told = await db
      .transaction()
      .execute(async (trx) => {
        await terminate(place.url, pid)
        await trx.insertInto('person').values(dora).execute()
      })
      .then(
        () => 'kept',
        (error: { code?: string }) => error.code,
      )
    // Whether the end of the connection has been read by then is chance: what is told is true in either case.
    expect(told).toBe((await place.names()).includes('dora') ? 'kept' : rides ? 'SMARTPG_CONNECTION_LOST' : told)
    expect(await place.names()).toHaveLength(told === 'kept' ? 4 : 3)
  })

  test('under the first statement, a write: it is not run again, and nothing is kept', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table person')
    const whole = failureOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values(dora).execute()
      }),
    )
    await terminate(place.url, await waitsForLock(place.url, applicationName))
    const failure = await whole
    expect(isSmartPgError(failure) || failure.code === '57P01').toBe(true)
    await holder.query('rollback')
    await pidOf(db)
    expect(await place.names()).toEqual(everyone)
  })

  test('under the first statement, a read: the transaction begins again and is whole', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table person')
    const whole = db.transaction().execute(async (trx) => {
      const found = await trx.selectFrom('person').select('name').orderBy('id').execute()
      await trx.insertInto('person').values(dora).execute()
      return found
    })
    const told = whole.catch((error: unknown) => error)
    await terminate(place.url, await waitsForLock(place.url, applicationName))
    if (rides) {
      await waitsForLock(place.url, applicationName)
      await holder.query('rollback')
      expect(await told).toHaveLength(3)
      expect(await place.names()).toContain('dora')
    } else {
      expect(await told).toBeInstanceOf(Error)
      await holder.query('rollback')
    }
  })

  test('and the failure was swallowed: nothing of the transaction is run elsewhere', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table pet')
    const whole = failureOf(
      db.transaction().execute(async (trx) => {
        await failureOf(trx.insertInto('pet').values({ name: 'rex', owner_id: 1 }).execute())
        await failureOf(trx.insertInto('person').values(dora).execute())
      }),
    )
    await terminate(place.url, await waitsForLock(place.url, applicationName))
    await whole
    await holder.query('rollback')
    await pidOf(db)
    expect(await place.names()).toEqual(everyone)
    expect(await place.ask('select name from pet')).toEqual([])
  })
})

describe.skipIf(!hasReplicas)('with replicas (there are none when TEST_DATABASE_URL names one server)', () => {
  test('a read only transaction begins on a replica with its first statement, of whatever kind', async () => {
    const { db } = await place.openWithReplicas()
    const standby = sql<{ standby: boolean }>`select pg_is_in_recovery() as standby`
    const transaction = db.transaction().setAccessMode('read only').setIsolationLevel('repeatable read')
    expect(await transaction.execute(async (trx) => (await standby.execute(trx)).rows)).toEqual([{ standby: true }])
    const [first, second] = await transaction.execute((trx) => trx.batch([standby, standby]))
    expect([first.rows, second.rows]).toEqual([[{ standby: true }], [{ standby: true }]])
    const streamed: unknown[] = []
    await transaction.execute(async (trx) => {
      for await (const row of trx.selectFrom('person').select(['name']).orderBy('id').stream(1)) streamed.push(row)
    })
    expect(streamed).toEqual(everyone.map((name) => ({ name })))
  })
})

describe.skipIf(!takesSignals)('a signal (Kysely 0.28 knows none)', () => {
  const reason = new Error('the user went away')

  test('that aborts the first statement while it runs: it is cancelled, and nothing is kept', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table person')
    const abort = new AbortController()
    const whole = failureOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values(dora).execute({ signal: abort.signal })
      }),
    )
    await waitsForLock(place.url, applicationName)
    abort.abort(reason)
    const failure = await whole
    expect([failure, failure.cause]).toContain(reason)
    // The lock is still held; the connection is free.
    await run(db, 'select 1')
    expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
    await holder.query('rollback')
    expect(await place.names()).toEqual(everyone)
  })

  test('that had aborted before the first statement: it is not sent, and the transaction may go on', async () => {
    const { db } = place.openOne()
    await db.transaction().execute(async (trx) => {
      const aborted = { signal: AbortSignal.abort(reason) }
      await failureOf(trx.insertInto('person').values(dora).execute(aborted))
      await trx.insertInto('person').values(ben).execute()
    })
    expect(await place.names()).toEqual([...everyone, 'ben'])
  })
})
