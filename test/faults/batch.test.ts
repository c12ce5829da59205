// `db.batch` when the network or the backend fails under it. Whatever happens, all of it is there or none, once; who
// was told that it was kept finds it, who was told that it was not executed does not, and who is told that nobody knows
// is told nothing else.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest'
import { BatchError, OutcomeUnknownError } from '../../src/index.ts'
import type { SmartPgOptions } from '../../src/index.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { expectWholeBehind, openBehindProxy, still } from './behind-proxy.ts'
import type { Behind as BehindProxy } from './behind-proxy.ts'
import { backends, failure, ownPidOf, pidOf, spread, Tally } from './dialects.ts'

interface Tables {
  written: { batch: number; n: number }
}

type Behind = BehindProxy<Tables>

/** Where several statements leave together, so does the COMMIT with them. */
const asOne = wire === 'native'

/** As the house says it, or the socket. */
const connectionLost = /^(SMARTPG_CONNECTION_LOST|ECONNRESET|EPIPE)$/

let database: Database
beforeAll(async () => {
  database = await createDatabase({ url: inject('primaryUrl') })
  await ask(database.url, 'create table written (batch int not null, n int not null)')
})
afterAll(() => database.drop())
beforeEach(() => ask(database.url, 'truncate written'))

const connected = (options: Partial<SmartPgOptions> = {}): Promise<Behind> =>
  openBehindProxy<Tables>(database.url, options)

const queries = (db: Kysely<Tables>, batch: number, count = 5) =>
  Array.from({ length: count }, (_, n) => db.insertInto('written').values({ batch, n }))

/** How many rows of each batch there are. */
const written = async (): Promise<Record<string, number>> => {
  const rows = await ask<{ batch: number; n: number }>(
    database.url,
    'select batch, count(*)::int as n from written group by batch order by batch',
  )
  return Object.fromEntries(rows.map(({ batch, n }) => [batch, n]))
}

interface FailedBatch extends Error {
  readonly index: number | null
  readonly phase: string
  readonly cause: Error & { code?: string; phase?: string }
}
const batchFailure = async (work: Promise<unknown>): Promise<FailedBatch> => {
  const error = await failure(work)
  expect(error).toBeInstanceOf(BatchError)
  return error as unknown as FailedBatch
}

/** What really happened to a batch agrees with what was told of it. */
const expectTruth = async (told: 'kept' | FailedBatch, batch: number, count = 5): Promise<void> => {
  const there = (await written())[batch] ?? 0
  expect([0, count]).toContain(there)
  if (told === 'kept') expect(there).toBe(count)
  else if (!(told.cause instanceof OutcomeUnknownError)) expect(there).toBe(0)
}

const toldBy = (work: Promise<unknown>): Promise<'kept' | FailedBatch> =>
  work.then(
    () => 'kept',
    (error: unknown) => {
      expect(error).toBeInstanceOf(BatchError)
      return error as FailedBatch
    },
  )

const expectWhole = (opened: Behind): Promise<void> => expectWholeBehind(database.url, opened)

describe('a batch whose answer is lost after the server has committed it', () => {
  test('is unknown to its caller, at COMMIT and at no query, and is there exactly once', async () => {
    const opened = await connected()
    const lost = opened.proxy.loseReply({ to: /^commit/i })
    const error = await batchFailure(opened.db.batch(queries(opened.db, 1)))
    expect(lost.happened).toBe(true)
    expect(error).toMatchObject({ index: null, phase: 'commit' })
    expect(error.cause).toBeInstanceOf(OutcomeUnknownError)
    expect(error.cause).toMatchObject({ phase: 'commit', sqlState: '08007' })
    expect(error).toMatchObject({ retryable: false })
    expect(await written()).toEqual({ 1: 5 })
    await expectWhole(opened)
  })

  test('many of them at once: each is there exactly once, and nobody is told the contrary', async () => {
    const opened = await connected()
    const { db, proxy } = opened
    const tally = new Tally()
    await spread(40, 2, async (batch) => {
      if (batch % 4 === 0) proxy.loseReply({ to: /^commit/i })
      const told = await toldBy(db.batch(queries(db, batch)))
      tally.add(told === 'kept' ? told : told.cause)
      await expectTruth(told, batch)
    })
    expect(Object.keys(tally.counts).toSorted()).toEqual(['SMARTPG_OUTCOME_UNKNOWN', 'kept'])
    expect(await written()).toEqual(Object.fromEntries(Array.from({ length: 40 }, (_, n) => [n, 5])))
    await proxy.heal()
    await expectWhole(opened)
  })

  test('in a transaction of the caller: he is told at his batch, and nothing was kept', async () => {
    const opened = await connected()
    const { db, proxy } = opened
    const lost = proxy.loseReply({ to: /insert into/ })
    const error = await failure(
      db.transaction().execute(async (trx) => {
        await trx.batch(queries(trx, 1))
      }),
    )
    expect(lost.happened).toBe(true)
    expect(error).toBeInstanceOf(BatchError)
    expect(error['cause']).toMatchObject({ code: expect.stringMatching(connectionLost) })
    expect(await written()).toEqual({})
    await expectWhole(opened)
  })
})

describe('a batch whose connection was gone before a byte of it was written', () => {
  test('because it was reset while it was idle: it is sent on another, and its caller notices nothing', async () => {
    const opened = await connected()
    const { db, proxy } = opened
    const before = await pidOf(db as never)
    proxy.reset()
    await expect.poll(() => backends(database.url, opened.applicationName)).toBe(0)
    await db.batch(queries(db, 1))
    expect(await written()).toEqual({ 1: 5 })
    expect(await pidOf(db as never)).not.toBe(before)
    await expectWhole(opened)
  })

  test('because its backend was ended right before: it is kept once, or told what is true', async () => {
    const opened = await connected()
    const { db } = opened
    for (let batch = 0; batch < 10; batch++) {
      const pid = await pidOf(db as never)
      await ask(database.url, 'select pg_terminate_backend($1, 10000)', [pid])
      await expectTruth(await toldBy(db.batch(queries(db, batch))), batch)
    }
    await expectWhole(opened)
  })

  test('while the caller of db.transaction() was busy: his batch begins the transaction on another', async () => {
    const opened = await connected()
    const { db, proxy, applicationName } = opened
    const told = await db
      .transaction()
      .execute(async (trx) => {
        proxy.reset()
        await expect.poll(() => backends(database.url, applicationName)).toBe(0)
        await trx.batch(queries(trx, 1))
      })
      .then(
        () => 'kept' as const,
        (error: unknown) => error as FailedBatch,
      )
    await expectTruth(told, 1)
    if (asOne) expect(told).toBe('kept')
    await expectWhole(opened)
  })

  test('under db.connection(): it is not sent on a session that is not his', async () => {
    const opened = await connected()
    const { db, proxy, applicationName } = opened
    await db.connection().execute(async (one) => {
      await ownPidOf(one as never)
      proxy.reset()
      await expect.poll(() => backends(database.url, applicationName)).toBe(0)
      await failure(sql`select 1`.execute(one))
      await batchFailure(one.batch(queries(one, 1)))
    })
    expect(await written()).toEqual({})
    await expectWhole(opened)
  })
})

describe('a batch whose connection is lost in the middle', () => {
  test('of its answers: none of it is sent again, and what is told is true', async () => {
    const opened = await connected({ breaker: false })
    const { db, proxy } = opened
    for (const [batch, afterBytes] of [0, 1, 5, 9].entries()) {
      for (const message of [1, 3, 6]) {
        const cut = proxy.resetInside({ to: /insert into/, type: 'C', message, afterBytes })
        const told = await toldBy(db.batch(queries(db, 10 * batch + message)))
        await proxy.heal()
        if (!cut.happened) continue
        expect(told).not.toBe('kept')
        const { cause } = told as FailedBatch
        // The server may have read all of it, COMMIT included.
        if (asOne) expect(cause).toBeInstanceOf(OutcomeUnknownError)
        await expect.poll(() => backends(database.url, opened.applicationName)).toBeLessThan(2)
        await expectTruth(told, 10 * batch + message)
      }
    }
    await expectWhole(opened)
  })

  test('of what is written: nothing of it is kept, and nobody is told that it was', async () => {
    const opened = await connected()
    const { db, proxy, applicationName } = opened
    // So slow that its end has not left when the connection breaks.
    proxy.bandwidth(200_000, 'toServer')
    const padding = 'x'.repeat(500_000)
    const whole = toldBy(db.batch([...queries(db, 1), sql`select length(${padding}::text)`, ...queries(db, 1)]))
    const sent = proxy.bytes.toServer
    await expect.poll(() => proxy.bytes.toServer).toBeGreaterThan(sent + 60_000)
    proxy.reset()
    const told = await whole
    expect(told).not.toBe('kept')
    await proxy.heal()
    proxy.bandwidth(0)
    await expect.poll(() => backends(database.url, applicationName)).toBe(0)
    expect(await written()).toEqual({})
    await expectWhole(opened)
  })

  test('of the whole, silently: it ends with its deadline, and what is told is true', async () => {
    const opened = await connected({ queryTimeout: 500 })
    const { db, proxy } = opened
    for (const [batch, direction] of (['toClient', 'toServer'] as const).entries()) {
      // The connection that is to fall silent.
      await pidOf(db as never)
      proxy.silence(direction)
      const told = await toldBy(db.batch(queries(db, batch)))
      expect(told).not.toBe('kept')
      await proxy.heal()
      await expectTruth(told, batch)
      // What the server had been sent was there in time.
      if (asOne) expect((await written())[batch] ?? 0).toBe(direction === 'toClient' ? 5 : 0)
    }
    await expectWhole(opened)
  })
})

describe('backends that are ended under a load of batches', () => {
  test('leave each of them whole or not at all, once, and every caller with the truth', async () => {
    const opened = await connected({ pool: { ...still, max: 2 } })
    const { db, applicationName } = opened
    const told = new Map<number, 'kept' | FailedBatch>()
    const load = { running: true }
    const killing = (async () => {
      while (load.running) {
        const text = 'select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 limit 1'
        await ask(database.url, text, [applicationName])
      }
    })()
    try {
      await spread(120, 4, async (batch) => {
        const result = await db.batch(queries(db, batch)).then(
          () => 'kept' as const,
          (error: unknown) => error as FailedBatch,
        )
        told.set(batch, result)
      })
    } finally {
      load.running = false
      await killing
    }
    await expect.poll(() => backends(database.url, applicationName)).toBeLessThanOrEqual(2)
    const there = await written()
    for (const [batch, result] of told) {
      const rows = there[batch] ?? 0
      expect([0, 5]).toContain(rows)
      if (result === 'kept') expect(rows).toBe(5)
      else if (!(result.cause instanceof OutcomeUnknownError)) expect(rows).toBe(0)
    }
    expect([...told.values()].filter((one) => one === 'kept').length).toBeGreaterThan(0)
    await expectWhole(opened)
  })
})
