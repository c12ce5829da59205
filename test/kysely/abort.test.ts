// Abort signals, which Kysely hands to its driver from 0.29 on. The caller is told at once; what became of the
// statement is asked of the server, with a lock of a stranger's that keeps it from ending by itself.

import { describe, expect, test, vi } from 'vitest'
import { afterEach, beforeEach } from 'vitest'
import type { Client } from 'pg'
import { backendsOf, failureOf, inDatabase, pidOf, rowOf, run, takesSignals, waitsForLock } from './support.ts'

const place = inDatabase()
const dora = { name: 'dora', age: 1 }
const reason = new Error('the user went away')

/** A stranger who lets nobody at the people until he is told to go. */
async function lockPeople(): Promise<Client> {
  const holder = await place.stranger()
  await holder.query('begin; lock table person')
  return holder
}

/** Whether the backend runs something. */
async function busy(pid: number): Promise<boolean> {
  const rows = await place.ask<{ state: string }>('select state from pg_stat_activity where pid = $1', [pid])
  return rows[0]?.state === 'active'
}

async function alive(pid: number): Promise<boolean> {
  return (await place.ask('select 1 from pg_stat_activity where pid = $1', [pid])).length > 0
}

describe.skipIf(!takesSignals)('an aborted query (Kysely 0.28 has no signals)', () => {
  // Kysely prints what failed in the background after an abort.
  beforeEach(() => void vi.spyOn(console, 'error').mockImplementation(() => undefined))
  afterEach(() => void vi.restoreAllMocks())

  test('whose signal had aborted before is never sent', async () => {
    const { db } = place.open()
    expect(
      await failureOf(
        db
          .insertInto('person')
          .values(dora)
          .execute({ signal: AbortSignal.abort(reason) }),
      ),
    ).toBe(reason)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('that was answered before is not touched by a later abort', async () => {
    const { db } = place.openOne()
    const abort = new AbortController()
    await db
      .insertInto('person')
      .values(dora)
      .execute({ signal: abort.signal, inflightQueryAbortStrategy: 'kill session' })
    const pid = await pidOf(db)
    abort.abort(reason)
    expect(await pidOf(db)).toBe(pid)
    expect(await place.names()).toContain('dora')
  })

  test("'ignore query' lets it run to its end on the server; the connection is free only then", async () => {
    const { db, applicationName } = place.openOne()
    const holder = await lockPeople()
    const abort = new AbortController()
    const insert = failureOf(db.insertInto('person').values(dora).execute({ signal: abort.signal }))
    const pid = await waitsForLock(place.url, applicationName)
    abort.abort(reason)
    expect(await insert).toBe(reason)
    expect(await busy(pid)).toBe(true)
    const next = pidOf(db)
    expect(await busy(pid)).toBe(true)
    await holder.query('rollback')
    expect(await next).toBe(pid)
    expect(await place.names()).toContain('dora')
  })

  test("'cancel query' ends it on the server; nothing is written and the session serves on", async () => {
    const { db, applicationName } = place.openOne()
    const holder = await lockPeople()
    const abort = new AbortController()
    const options = { signal: abort.signal, inflightQueryAbortStrategy: 'cancel query' } as const
    const insert = failureOf(db.insertInto('person').values(dora).execute(options))
    const pid = await waitsForLock(place.url, applicationName)
    abort.abort(reason)
    expect(await insert).toBe(reason)
    // Before the lock is gone: it was not the lock that ended it.
    expect(await pidOf(db)).toBe(pid)
    expect(await busy(pid)).toBe(false)
    await holder.query('rollback')
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test("'kill session' ends the session on the server; nothing is written and the next query gets another", async () => {
    const { db, applicationName } = place.openOne()
    const holder = await lockPeople()
    const abort = new AbortController()
    const options = { signal: abort.signal, inflightQueryAbortStrategy: 'kill session' } as const
    const insert = failureOf(db.insertInto('person').values(dora).execute(options))
    const pid = await waitsForLock(place.url, applicationName)
    abort.abort(reason)
    expect(await insert).toBe(reason)
    await expect.poll(() => alive(pid)).toBe(false)
    expect(await pidOf(db)).not.toBe(pid)
    await holder.query('rollback')
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test.for(['cancel query', 'kill session'] as const)(
    "'%s' of a read does not run it again",
    async (inflightQueryAbortStrategy) => {
      const { db, applicationName } = place.openOne()
      await lockPeople()
      const abort = new AbortController()
      const read = failureOf(
        db.selectFrom('person').selectAll().execute({ signal: abort.signal, inflightQueryAbortStrategy }),
      )
      await waitsForLock(place.url, applicationName)
      abort.abort(reason)
      expect(await read).toBe(reason)
      await pidOf(db)
      const backends = await backendsOf(place.url, applicationName)
      expect(backends).toMatchObject([{ state: 'idle' }])
    },
  )

  test('cancels nobody else: the same statement of another caller runs to its end', async () => {
    const { db, applicationName } = place.open()
    const holder = await lockPeople()
    const abort = new AbortController()
    const options = { signal: abort.signal, inflightQueryAbortStrategy: 'cancel query' } as const
    const aborted = failureOf(db.insertInto('person').values(dora).execute(options))
    const pid = await waitsForLock(place.url, applicationName)
    const others = ['emil', 'fay', 'gus'].map((name) => db.insertInto('person').values({ name, age: 1 }).execute())
    // All four have their connections, so that the one that comes free goes to nobody.
    const waiting = "select 1 from pg_stat_activity where application_name = $1 and wait_event_type = 'Lock'"
    await expect.poll(() => place.ask(waiting, [applicationName])).toHaveLength(4)
    abort.abort(reason)
    expect(await aborted).toBe(reason)
    await expect.poll(() => busy(pid)).toBe(false)
    expect(await place.ask(waiting, [applicationName])).toHaveLength(3)
    await holder.query('rollback')
    await Promise.all(others)
    expect((await place.names()).toSorted()).toEqual(['ada', 'bob', 'cleo', 'emil', 'fay', 'gus'])
  })

  test('while it waits for a connection leaves the queue at once, and is never sent', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table pet')
    const first = db.selectFrom('pet').selectAll().execute()
    await waitsForLock(place.url, applicationName)
    const abort = new AbortController()
    const insert = failureOf(db.insertInto('person').values(dora).execute({ signal: abort.signal }))
    const behind = pidOf(db)
    abort.abort(reason)
    expect(await insert).toBe(reason)
    await holder.query('rollback')
    await first
    await behind
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
    expect(await rowOf(db, 'select 1 as one')).toEqual({ one: 1 })
  })

  test('while its connection is being opened is never sent', async () => {
    let open!: () => void
    const opened = new Promise<void>((resolve) => (open = resolve))
    const { db } = place.openOne({ primary: async () => opened.then(() => place.url) })
    const abort = new AbortController()
    const insert = failureOf(db.insertInto('person').values(dora).execute({ signal: abort.signal }))
    abort.abort(reason)
    expect(await insert).toBe(reason)
    open()
    await pidOf(db)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test('while the reserve hook still runs is never sent', async () => {
    let go!: () => void
    const gone = new Promise<void>((resolve) => (go = resolve))
    let reached!: () => void
    const reserving = new Promise<void>((resolve) => (reached = resolve))
    const { db } = place.openOne({
      onReserveConnection: async () => {
        reached()
        await gone
      },
    })
    const abort = new AbortController()
    const insert = failureOf(db.insertInto('person').values(dora).execute({ signal: abort.signal }))
    await reserving
    abort.abort(reason)
    expect(await insert).toBe(reason)
    go()
    await pidOf(db)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })

  test.for(['ignore query', 'cancel query', 'kill session'] as const)(
    "in a transaction with '%s' rolls back without waiting for what was in flight",
    async (inflightQueryAbortStrategy) => {
      const { db, applicationName } = place.openOne()
      const holder = await place.stranger()
      await holder.query('begin; lock table pet')
      const abort = new AbortController()
      const whole = failureOf(
        db.transaction().execute(async (trx) => {
          await trx.insertInto('person').values(dora).execute()
          await trx.selectFrom('pet').selectAll().execute({ signal: abort.signal, inflightQueryAbortStrategy })
        }),
      )
      const pid = await waitsForLock(place.url, applicationName)
      abort.abort(reason)
      expect(await whole).toBe(reason)
      // The lock is still held: were the statement not cancelled, ROLLBACK and this would wait for it.
      expect(await db.selectFrom('person').select('id').execute()).toHaveLength(3)
      expect(await busy(pid)).toBe(false)
      expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
      await holder.query('rollback')
    },
  )

  test('in a transaction that goes on leaves it as PostgreSQL does: failed, until a savepoint brings it back', async () => {
    const { db, applicationName } = place.openOne()
    const holder = await place.stranger()
    await holder.query('begin; lock table pet')
    const trx = await db.startTransaction().execute()
    await trx.insertInto('person').values(dora).execute()
    const inside = await trx.savepoint('before').execute()
    const abort = new AbortController()
    const options = { signal: abort.signal, inflightQueryAbortStrategy: 'cancel query' } as const
    const read = failureOf(inside.selectFrom('pet').selectAll().execute(options))
    await waitsForLock(place.url, applicationName)
    abort.abort(reason)
    expect(await read).toBe(reason)
    const back = await inside.rollbackToSavepoint('before').execute()
    await back.commit().execute()
    expect(await place.names()).toContain('dora')
  })

  test('a hundred times, at any moment, leaks no connection and stains no neighbour', async () => {
    const { db, applicationName } = place.open({ pool: { max: 3 } })
    const strategies = ['ignore query', 'cancel query', 'kill session'] as const
    const outcomes = await Promise.all(
      Array.from({ length: 100 }, async (_, n) => {
        const abort = new AbortController()
        const options = { signal: abort.signal, inflightQueryAbortStrategy: strategies[n % 3]! }
        const aborted = db.selectFrom('person').select('id').where('id', '=', n).execute(options)
        const neighbour = rowOf<{ n: number }>(db, 'select $1::int as n', [n])
        for (let turns = n % 10; turns > 0; turns--) await Promise.resolve()
        abort.abort(reason)
        const outcome = await aborted.then(
          () => 'answered',
          (error: unknown) => error,
        )
        expect(['answered', reason]).toContain(outcome)
        return (await neighbour).n === n
      }),
    )
    expect(outcomes).not.toContain(false)
    await Promise.all(Array.from({ length: 10 }, () => run(db, 'select 1')))
    await expect.poll(async () => (await backendsOf(place.url, applicationName)).length).toBeLessThanOrEqual(3)
  })
})
