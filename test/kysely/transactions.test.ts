// Transactions as Kysely's users write them, with the server as the witness: what was kept, at which isolation,
// on which kind of server, and what is told when a transaction or its connection fails.

import { connect, createServer } from 'node:net'
import { sql } from 'kysely'
import { describe, expect, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import { freePort } from '../support/postgres/free-port.ts'
import {
  backendsOf,
  failureOf,
  hasReplicas,
  inDatabase,
  newLog,
  pidOf,
  rowOf,
  run,
  terminate,
  waitsForLock,
} from './support.ts'

const place = inDatabase()
const dora = { name: 'dora', age: 1 }
const ben = { name: 'ben', age: 2 }

interface Standby {
  standby: boolean
}
const STANDBY = 'select pg_is_in_recovery() as standby'

describe('a transaction', () => {
  test('keeps what its callback did, and resolves with what the callback returned', async () => {
    const { db } = place.open()
    const id = await db.transaction().execute(async (trx) => {
      const { id: made } = await trx.insertInto('person').values(dora).returning('id').executeTakeFirstOrThrow()
      await trx.updateTable('person').set({ age: 3 }).where('id', '=', made).execute()
      return made
    })
    expect(await place.ask('select name, age from person where id = $1', [id])).toEqual([{ name: 'dora', age: 3 }])
  })

  test('keeps nothing when its callback throws, and rejects with the very error that was thrown', async () => {
    const { db } = place.open()
    const own = new Error('mine')
    const failure = await failureOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values(dora).execute()
        throw own
      }),
    )
    expect(failure).toBe(own)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('shows nothing to others before it ends', async () => {
    const { db } = place.open()
    await db.transaction().execute(async (trx) => {
      await trx.insertInto('person').values(dora).execute()
      expect(await db.selectFrom('person').select('name').where('name', '=', 'dora').execute()).toEqual([])
      expect(await trx.selectFrom('person').select('name').where('name', '=', 'dora').execute()).toHaveLength(1)
    })
  })

  test('runs all of its statements, also those sent at once, on one session', async () => {
    const { db } = place.open()
    const pids = await db.transaction().execute((trx) => Promise.all([pidOf(trx), pidOf(trx), pidOf(trx), pidOf(trx)]))
    expect(new Set(pids).size).toBe(1)
  })

  test.for(['read uncommitted', 'read committed', 'repeatable read', 'serializable'] as const)(
    'runs %s when that was asked for, and the next caller as ever',
    async (level) => {
      const { db } = place.openOne()
      const transaction = db.transaction().setIsolationLevel(level)
      const seen = await transaction.execute((trx) => rowOf(trx, 'show transaction_isolation'))
      expect(seen).toEqual({ transaction_isolation: level })
      expect(await rowOf(db, 'show transaction_isolation')).toEqual({ transaction_isolation: 'read committed' })
    },
  )

  test('whose statement failed and was swallowed is an error at COMMIT, because nothing was kept', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values(dora).execute()
        await trx
          .insertInto('person')
          .values({ name: 'ada', age: 1 })
          .execute()
          .catch(() => undefined)
      }),
    )
    expect(failure).toMatchObject({ name: 'AbortedTransactionError' })
    expect(Symbol.for('kysely.AbortedTransactionError') in failure).toBe(true)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('whose COMMIT fails by a deferred constraint rejects with the server’s error and keeps nothing', async () => {
    const { db, applicationName } = place.openOne()
    const failure = await failureOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values(dora).execute()
        await trx.insertInto('pet').values({ name: 'rex', owner_id: 999 }).execute()
      }),
    )
    expect(failure).toMatchObject({ code: '23503' })
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    await pidOf(db)
    expect(await backendsOf(place.url, applicationName)).toMatchObject([{ state: 'idle' }])
  })

  test('that cannot begin rejects with the server’s reason and leaves a working connection', async () => {
    const { db } = place.openOne({ transactions: { lazyBegin: false } })
    // PostgreSQL has no such level.
    const failure = await failureOf(
      db
        .transaction()
        .setIsolationLevel('snapshot')
        .execute(async () => 'never'),
    )
    expect(failure).toMatchObject({ code: '42601' })
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('waits with its COMMIT for a statement that the callback did not await', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table person')
    let unawaited: Promise<unknown> | undefined
    let reached!: () => void
    const waiting = new Promise<void>((resolve) => (reached = resolve))
    const whole = db.transaction().execute(async (trx) => {
      unawaited = trx.insertInto('person').values(dora).execute()
      await waitsForLock(place.url, applicationName)
      reached()
    })
    await waiting
    await holder.query('rollback')
    await Promise.all([whole, unawaited])
    expect(await place.names()).toContain('dora')
  })

  test('refuses statements after it has ended instead of running them outside', async () => {
    const { db } = place.openOne()
    const kept = await db.transaction().execute(async (trx) => trx)
    await expect(kept.insertInto('person').values(dora).execute()).rejects.toThrow()
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })
})

describe('access modes', () => {
  test('a read only transaction refuses a write with the server’s error, and later writes still go through', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db
        .transaction()
        .setAccessMode('read only')
        .execute((trx) => trx.insertInto('person').values(dora).execute()),
    )
    expect(failure).toMatchObject({ code: '25006' })
    await db.insertInto('person').values(ben).execute()
    expect(await place.names()).toContain('ben')
  })

  test('isolation level and access mode arrive together', async () => {
    const { db } = place.open()
    const seen = await db
      .transaction()
      .setIsolationLevel('repeatable read')
      .setAccessMode('read only')
      .execute(async (trx) => [
        await rowOf(trx, 'show transaction_isolation'),
        await rowOf(trx, 'show transaction_read_only'),
      ])
    expect(seen).toEqual([{ transaction_isolation: 'repeatable read' }, { transaction_read_only: 'on' }])
  })

  test('read write is written out when it was asked for', async () => {
    const { db } = place.open({ session: { settings: { default_transaction_read_only: true } } })
    await db
      .transaction()
      .setAccessMode('read write')
      .execute((trx) => trx.insertInto('person').values(dora).execute())
    expect(await place.names()).toContain('dora')
  })

  describe.skipIf(!hasReplicas)('with replicas (there are none when TEST_DATABASE_URL names one server)', () => {
    test('a read only transaction runs on a replica, all of it on one session', async () => {
      const { db } = await place.openWithReplicas()
      await db
        .transaction()
        .setAccessMode('read only')
        .execute(async (trx) => {
          expect(await rowOf(trx, STANDBY)).toEqual({ standby: true })
          expect(await trx.selectFrom('person').select('name').orderBy('id').execute()).toHaveLength(3)
          expect(await rowOf(trx, STANDBY)).toEqual({ standby: true })
          expect(await pidOf(trx)).toBe(await pidOf(trx))
        })
    })

    test('a serializable read only transaction stays on the primary, which alone can be serializable', async () => {
      const { db, dialect } = await place.openWithReplicas()
      const refusals: string[] = []
      using _ = dialect.on('retry', ({ because }) => void refusals.push(because))
      const { standby } = await db
        .transaction()
        .setIsolationLevel('serializable')
        .setAccessMode('read only')
        .execute((trx) => rowOf<Standby>(trx, STANDBY))
      expect(standby).toBe(false)
      // Nor was it sent to a replica first.
      expect(refusals).toEqual([])
    })

    test('a transaction without access mode runs on the primary even when it only reads', async () => {
      const { db } = await place.openWithReplicas()
      const { standby } = await db.transaction().execute(async (trx) => {
        await trx.selectFrom('person').select('id').execute()
        return rowOf<Standby>(trx, STANDBY)
      })
      expect(standby).toBe(false)
    })

    test('routing.readOnlyTransactions: false keeps them on the primary', async () => {
      const { db } = await place.openWithReplicas({ routing: { readOnlyTransactions: false } })
      const { standby } = await db
        .transaction()
        .setAccessMode('read only')
        .execute((trx) => rowOf<Standby>(trx, STANDBY))
      expect(standby).toBe(false)
    })

    test('a controlled read only transaction runs on a replica, too', async () => {
      const { db } = await place.openWithReplicas()
      const trx = await db.startTransaction().setAccessMode('read only').execute()
      expect(await rowOf(trx, STANDBY)).toEqual({ standby: true })
      await trx.commit().execute()
    })
  })
})

describe('a controlled transaction', () => {
  test('keeps its writes at commit', async () => {
    const { db } = place.open()
    const trx = await db.startTransaction().execute()
    await trx.insertInto('person').values(dora).execute()
    await trx.commit().execute()
    expect(trx.isCommitted).toBe(true)
    expect(await place.names()).toContain('dora')
  })

  test('drops its writes at rollback', async () => {
    const { db } = place.open()
    const trx = await db.startTransaction().execute()
    await trx.insertInto('person').values(dora).execute()
    await trx.rollback().execute()
    expect(trx.isRolledBack).toBe(true)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('goes back to a savepoint after an error, releases it, and keeps what came before', async () => {
    const { db } = place.open()
    const trx = await db.startTransaction().execute()
    await trx.insertInto('person').values(dora).execute()
    const after = await trx.savepoint('after dora').execute()
    expect(await failureOf(after.insertInto('person').values(dora).execute())).toMatchObject({ code: '23505' })
    const back = await after.rollbackToSavepoint('after dora').execute()
    await back.insertInto('person').values(ben).execute()
    const released = await back.releaseSavepoint('after dora').execute()
    await released.commit().execute()
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'dora', 'ben'])
  })

  test('quotes the names of savepoints, whatever is in them', async () => {
    const { db } = place.open()
    const trx = await db.startTransaction().execute()
    const name = 'a"; drop table pet; --' as const
    const inside = await trx.savepoint(name).execute()
    await inside.insertInto('person').values(dora).execute()
    await (await inside.rollbackToSavepoint(name).execute()).commit().execute()
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    expect(await place.ask("select to_regclass('pet')::text as pet")).toEqual([{ pet: 'pet' }])
  })

  test('holds one session at the isolation level it asked for, which nobody else gets meanwhile', async () => {
    const { db } = place.open()
    const trx = await db.startTransaction().setIsolationLevel('serializable').execute()
    const pid = await pidOf(trx)
    const others = await Promise.all([pidOf(db), pidOf(db), pidOf(db)])
    expect(others).not.toContain(pid)
    expect(await rowOf(trx, 'show transaction_isolation')).toEqual({ transaction_isolation: 'serializable' })
    expect(await pidOf(trx)).toBe(pid)
    await trx.rollback().execute()
  })

  test('that cannot begin frees its connection', async () => {
    const { db } = place.openOne({ transactions: { lazyBegin: false } })
    for (let round = 0; round < 3; round++) {
      const failure = await failureOf(db.startTransaction().setIsolationLevel('snapshot').execute())
      expect(failure).toMatchObject({ code: '42601' })
    }
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })

  test('whose COMMIT was answered with ROLLBACK is an error and frees its connection', async () => {
    const { db } = place.openOne()
    const trx = await db.startTransaction().execute()
    await trx
      .insertInto('person')
      .values({ name: 'ada', age: 1 })
      .execute()
      .catch(() => undefined)
    const failure = await failureOf(trx.commit().execute())
    expect(Symbol.for('kysely.AbortedTransactionError') in failure).toBe(true)
    // Before Kysely knew that error, its caller had to say that it is over.
    await trx
      .rollback()
      .execute()
      .catch(() => undefined)
    expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
  })
})

describe('when the connection dies under a transaction', () => {
  test('the user’s own error is what he gets, not what the rollback met', async () => {
    const { db } = place.openOne()
    const own = new Error('mine')
    const failure = await failureOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values(dora).execute()
        await terminate(place.url, await pidOf(trx))
        throw own
      }),
    )
    expect(failure).toBe(own)
    expect(await db.selectFrom('person').select('name').execute()).toHaveLength(3)
  })

  test('so is it when the line is cut only by the rollback itself', async () => {
    const line = await lineCutBy(place.url, 'rollback')
    const { db } = place.openOne({ primary: line.url })
    const own = new Error('mine')
    for (let round = 0; round < 2; round++) {
      const failure = await failureOf(
        db.transaction().execute(async (trx) => {
          await trx.insertInto('person').values(dora).execute()
          throw own
        }),
      )
      expect(failure).toBe(own)
      expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
      expect(await db.selectFrom('person').select('name').execute()).toHaveLength(3)
    }
    expect(line.cuts).toBe(2)
    await db.destroy()
    line.close()
  })

  test('its next statement says that the connection was lost, and the process lives', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values(dora).execute()
        await terminate(place.url, await pidOf(trx))
        await trx.insertInto('person').values(ben).execute()
      }),
    )
    expect(failure).not.toBeInstanceOf(TypeError)
    expect(isSmartPgError(failure) || failure.code === '57P01').toBe(true)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    expect(await db.selectFrom('person').select('name').execute()).toHaveLength(3)
  })

  test('a statement that was running is not sent again', async () => {
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
    expect(failure).not.toBeInstanceOf(TypeError)
    await holder.query('rollback')
    await pidOf(db)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('rolling back a controlled transaction resolves, and its place in the pool is free again', async () => {
    const { db } = place.openOne()
    for (let round = 0; round < 3; round++) {
      const trx = await db.startTransaction().execute()
      await terminate(place.url, await pidOf(trx))
      await trx.rollback().execute()
      expect(trx.isRolledBack).toBe(true)
    }
    expect(await db.selectFrom('person').select('name').execute()).toHaveLength(3)
  })

  test('committing tells that nobody knows, or that nothing was kept, and never that all is well', async () => {
    const { db } = place.openOne()
    const failure = await failureOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('person').values(dora).execute()
        await terminate(place.url, await pidOf(trx))
      }),
    )
    expect(isSmartPgError(failure)).toBe(true)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })
})

describe('one connection under concurrent calls', () => {
  test('answers each of them, on one session, and gives back just one connection', async () => {
    const { db, applicationName } = place.openOne()
    const pids = await db.getExecutor().provideConnection((connection) =>
      Promise.all(
        [1, 2, 3, 4].map(async (n) => {
          const query = sql<{ pid: number; n: number }>`select pg_backend_pid() as pid, ${n}::int as n`
          const { rows } = await connection.executeQuery<{ pid: number; n: number }>(query.compile(db))
          expect(rows[0]?.n).toBe(n)
          return rows[0]!.pid
        }),
      ),
    )
    expect(new Set(pids).size).toBe(1)
    expect(await pidOf(db)).toBe(pids[0])
    expect(await backendsOf(place.url, applicationName)).toHaveLength(1)
  })

  test.skipIf(!hasReplicas)('leaks none when the first of them read on a replica', async () => {
    const { db } = await place.openWithReplicas({
      pool: { min: 0, initial: 0, minIdle: 0, max: 1, acquireTimeout: '5s' },
    })
    const reads = [1, 2, 3, 4].map((id) => db.selectFrom('person').select('id').where('id', '=', id).compile())
    for (let round = 0; round < 3; round++) {
      await db
        .getExecutor()
        .provideConnection((connection) => Promise.all(reads.map((read) => connection.executeQuery(read))))
    }
    // With one connection per node a leaked one would leave nothing for these.
    await run(db, 'select 1')
    await db.selectFrom('person').select('id').execute()
  })
})

describe('the log of Kysely', () => {
  test('shows begin, savepoints and commit in the order they were sent, without parameters', async () => {
    const { texts, entries, log } = newLog()
    const { db } = place.open({}, { log })
    const trx = await db.startTransaction().execute()
    const inside = await trx.savepoint('first step').execute()
    await inside.insertInto('person').values(dora).execute()
    const back = await inside.rollbackToSavepoint('first step').execute()
    const released = await back.releaseSavepoint('first step').execute()
    await released.commit().execute()
    expect(texts()).toEqual([
      'begin',
      'savepoint "first step"',
      'insert into "person" ("name", "age") values ($1, $2)',
      'rollback to "first step"',
      'release "first step"',
      'commit',
    ])
    expect(entries.map(({ level }) => level)).toEqual(Array.from({ length: 6 }, () => 'query'))
    for (const { query } of entries) {
      if (!query.sql.startsWith('insert')) expect(query.parameters).toEqual([])
    }
  })

  test('shows rollback, and settings as they were sent', async () => {
    const { texts, log } = newLog()
    const { db } = place.open({}, { log })
    await db
      .transaction()
      .setIsolationLevel('repeatable read')
      .setAccessMode('read write')
      .execute(() => Promise.reject(new Error('mine')))
      .catch(() => undefined)
    expect(texts()).toEqual(['start transaction isolation level repeatable read read write', 'rollback'])
  })

  test('shows a failed statement as an error with the error itself, and never what the house sends for itself', async () => {
    const { entries, texts, log } = newLog()
    const { db } = place.openOne({}, { log })
    const failure = await failureOf(db.insertInto('person').values({ name: 'ada', age: 1 }).execute())
    await db.connection().execute((one) => run(one, 'set search_path to nowhere'))
    await db.selectFrom('person').select('id').execute()
    expect(entries[0]).toMatchObject({ level: 'error', error: failure })
    expect(texts()).toEqual([
      'insert into "person" ("name", "age") values ($1, $2)',
      'set search_path to nowhere',
      'select "id" from "person"',
    ])
  })
})

/** A line to the server that breaks when a client says `word`, before the server hears it. */
async function lineCutBy(url: string, word: string): Promise<{ url: string; cuts: number; close(): void }> {
  const server = new URL(url)
  const listener = createServer((client) => {
    const upstream = connect(Number(server.port), server.hostname)
    const cut = (): void => {
      client.destroy()
      upstream.destroy()
    }
    client.on('error', cut).on('close', cut)
    upstream.on('error', cut).on('close', cut)
    upstream.pipe(client)
    client.on('data', (data) => {
      if (!data.includes(word)) {
        upstream.write(data)
      } else {
        line.cuts++
        cut()
      }
    })
  })
  const port = await freePort()
  await new Promise<void>((resolve) => listener.listen(port, '127.0.0.1', resolve))
  const here = new URL(url)
  here.host = `127.0.0.1:${port}`
  const line = { url: here.href, cuts: 0, close: () => void listener.close() }
  return line
}
