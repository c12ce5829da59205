// Reads of many callers that stand under one Sync of a shared connection, as their callers see them: each gets his own
// row or his own error, and nothing that is true of a neighbour's transaction.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { describe, expect, test } from 'vitest'
import { startWiretap } from '../support/wiretap.ts'
import { wire } from '../support/wire.ts'
import { backendsOf, failureOf, inDatabase, terminate } from './support.ts'
import type { Failure, Tables } from './support.ts'

const place = inDatabase()
const onlyNative = "(wire: 'pg' shares no connection)"
const pooling = (max: number) => ({ pool: { min: max, initial: max, max } })
const times = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** Often enough that everybody knows how long it takes. */
async function learn(work: () => Promise<unknown>): Promise<void> {
  for (let n = 0; n < 20; n++) await work()
}

const NAMES = ['ada', 'bob', 'cleo']

const personOf = (db: Kysely<Tables>, id: number): Promise<{ id: number; name: string } | undefined> =>
  db.selectFrom('person').select(['id', 'name']).where('id', '=', id).executeTakeFirst()

const quotient = (db: Kysely<Tables>, divisor: number, n: number): Promise<{ n: number; q: number }> =>
  sql<{ n: number; q: number }>`select ${n}::int as n, 60 / ${divisor}::int as q`
    .execute(db)
    .then(({ rows }) => rows[0]!)

async function whoAsksForTheImpossible(db: Kysely<Tables>, n: number): Promise<unknown> {
  return await db
    .selectFrom('person')
    .select(sql`${n}::int / (id - id)`.as('q'))
    .where('id', '=', 1)
    .execute()
}

describe.skipIf(wire !== 'native')(`reads of many callers at once ${onlyNative}`, () => {
  test.each([1, 2, 10])('fail each for itself, on %i connections', async (max) => {
    const { db, dialect } = place.open(pooling(max))
    await dialect.ready()
    await learn(() => Promise.all([personOf(db, 1), quotient(db, 1, 0)]))
    await learn(() => failureOf(quotient(db, 0, 0)))
    for (let round = 0; round < 20; round++) {
      const answers = await Promise.allSettled(
        times(200).map((n) =>
          n % 10 === 3 ? quotient(db, 0, n) : n % 2 ? quotient(db, 5, n) : personOf(db, 1 + (n % 3)),
        ),
      )
      for (const [n, answer] of answers.entries()) {
        if (n % 10 === 3) expect(answer).toMatchObject({ status: 'rejected', reason: { code: '22012' } })
        else if (n % 2) expect(answer).toEqual({ status: 'fulfilled', value: { n, q: 12 } })
        else expect(answer).toEqual({ status: 'fulfilled', value: { id: 1 + (n % 3), name: NAMES[n % 3] } })
      }
      const errors = answers.flatMap((answer) => (answer.status === 'rejected' ? [answer.reason as Failure] : []))
      expect([errors.length, new Set(errors).size]).toEqual([20, 20])
    }
  })

  test('share a Sync, and those behind one that fails are asked again', async () => {
    await using tap = await startWiretap(place.url)
    const { db, dialect } = place.open({ primary: tap.url, ...pooling(1) })
    await dialect.ready()
    await learn(() => Promise.all([personOf(db, 1), quotient(db, 1, 0)]))
    let shared = ''
    // On a machine that is busy enough they are too slow to share.
    await expect
      .poll(
        async () => {
          tap.forget()
          await Promise.allSettled(times(100).map((n) => quotient(db, n % 10 === 3 ? 0 : 1, n)))
          shared = tap.flights.join('')
          return shared
        },
        { interval: 1 },
      )
      .toMatch(/(BE){8}/)
    expect(shared.replaceAll(/[^E]/g, '').length).toBeGreaterThan(100)
    expect(tap.errors.filter((code) => code !== '22012')).toEqual([])
  })

  test('fail with the stack of who asked', async () => {
    const { db, dialect } = place.open(pooling(1))
    await dialect.ready()
    await learn(() => personOf(db, 1))
    await learn(() => failureOf(whoAsksForTheImpossible(db, 1)))
    const answers = await Promise.all(
      times(60).map((n) => (n % 6 === 0 ? failureOf(whoAsksForTheImpossible(db, n)) : personOf(db, 1))),
    )
    for (const [n, answer] of answers.entries()) {
      if (n % 6 !== 0) expect(answer).toEqual({ id: 1, name: 'ada' })
      else expect((answer as Failure).stack).toContain('whoAsksForTheImpossible')
    }
  })

  test('never see a setting that is local to the transaction of another', async () => {
    await place.ask(`create or replace view tenant as select coalesce(current_setting('app.tenant', true), '') as seen`)
    const { db, dialect } = place.open(pooling(2))
    await dialect.ready()
    const sets = async (n: number): Promise<unknown> =>
      (await sql<{ own: string }>`select set_config('app.tenant', ${`t${n}`}, true) as own`.execute(db)).rows[0]!.own
    const asks = async (): Promise<unknown> =>
      (await sql<{ seen: string }>`select coalesce(current_setting('app.tenant', true), '') as seen`.execute(db))
        .rows[0]!.seen
    const looks = async (): Promise<unknown> =>
      (await sql<{ seen: string }>`select seen from tenant`.execute(db)).rows[0]!.seen
    await learn(() => Promise.all([sets(0), asks(), looks(), personOf(db, 1)]))
    for (let round = 0; round < 5; round++) {
      const answers = await Promise.all(
        times(200).map((n) => [() => sets(n), asks, looks, () => personOf(db, 1)][n % 4]!()),
      )
      const expected = times(200).map((n) => [`t${n}`, '', '', { id: 1, name: 'ada' }][n % 4])
      expect(answers).toEqual(expected)
    }
  })

  test('that call a function have each a Sync, and so a time, of their own', async () => {
    await using tap = await startWiretap(place.url)
    const { db, dialect } = place.open({ primary: tap.url, ...pooling(1) })
    await dialect.ready()
    const now = async (): Promise<string> =>
      (await sql<{ at: string }>`select now()::text as at from person where id = ${1}`.execute(db)).rows[0]!.at
    await learn(now)
    tap.forget()
    const answers = await Promise.all(times(200).map(now))
    expect(answers).toHaveLength(200)
    const said = tap.flights.join('')
    expect(said.replaceAll(/[^E]/g, '')).toHaveLength(200)
    expect(said).not.toMatch(/E[^S]*E/)
  })

  test.each(['serializable', 'repeatable read'])('are right where transactions are %s by default', async (level) => {
    const [{ name }] = (await place.ask<{ name: string }>('select current_database() as name')) as [{ name: string }]
    await place.ask(`alter database "${name}" set default_transaction_isolation = '${level}'`)
    try {
      const { db, dialect } = place.open(pooling(2))
      await dialect.ready()
      await learn(() => Promise.all([personOf(db, 1), quotient(db, 1, 0)]))
      for (let round = 0; round < 5; round++) {
        const age = 100 + round
        const update = db.updateTable('person').set({ age }).where('id', '=', 1).execute()
        const answers = await Promise.allSettled(
          times(200).map((n) => (n % 10 === 3 ? quotient(db, 0, n) : personOf(db, 1 + (n % 3)))),
        )
        await update
        for (const [n, answer] of answers.entries()) {
          if (n % 10 === 3) expect(answer).toMatchObject({ status: 'rejected', reason: { code: '22012' } })
          else expect(answer).toEqual({ status: 'fulfilled', value: { id: 1 + (n % 3), name: NAMES[n % 3] } })
        }
        const found = await db.selectFrom('person').select('age').where('id', '=', 1).executeTakeFirst()
        expect(found).toEqual({ age })
      }
    } finally {
      await place.ask(`alter database "${name}" reset default_transaction_isolation`)
    }
  })

  test('see what their own caller has written before', async () => {
    const { db, dialect } = place.open(pooling(3))
    await dialect.ready()
    const rename = (id: number, age: number): Promise<unknown> =>
      db.updateTable('person').set({ age }).where('id', '=', id).execute()
    const ageOf = (id: number) => db.selectFrom('person').select('age').where('id', '=', id).executeTakeFirst()
    await learn(() => Promise.all([rename(1, 0), ageOf(1), personOf(db, 1)]))
    const load = { over: false }
    const readers = times(60).map(async () => {
      while (!load.over) expect(await personOf(db, 2)).toEqual({ id: 2, name: 'bob' })
    })
    const writers = [1, 3].map(async (id) => {
      for (let age = 1; age <= 60; age++) {
        await rename(id, age)
        expect(await ageOf(id)).toEqual({ age })
      }
    })
    await Promise.all(writers).finally(() => (load.over = true))
    await Promise.all(readers)
  })

  test('are all answered when a backend is killed in the middle of the load, again and again', async () => {
    const { db, dialect, applicationName } = place.open(pooling(3))
    await dialect.ready()
    await learn(() => Promise.all([personOf(db, 1), quotient(db, 1, 0)]))
    const load = { over: false }
    let answers = 0
    const wrong: unknown[] = []
    const callers = times(100).map(async (n) => {
      while (!load.over) {
        if (n % 10 === 3) {
          const error = await failureOf(quotient(db, 0, n))
          if (error.code !== '22012') wrong.push(error)
        } else {
          const person = await personOf(db, 1 + (n % 3)).catch((error: unknown) => error)
          if ((person as { name?: string }).name !== NAMES[n % 3]) wrong.push(person)
        }
        answers++
      }
    })
    try {
      for (let kill = 0; kill < 5; kill++) {
        const enough = answers + 500
        await expect.poll(() => answers, { interval: 1 }).toBeGreaterThan(enough)
        const [backend] = await backendsOf(place.url, applicationName)
        if (backend !== undefined) await terminate(place.url, backend.pid)
      }
    } finally {
      load.over = true
      await Promise.all(callers)
    }
    expect(wrong).toEqual([])
  })
})
