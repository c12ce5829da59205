// Transactions whose BEGIN rides along with the first statement, when the network or the backend fails at each moment
// of their life: what begins elsewhere begins whole, what may have been written is not written again, and nothing of a
// transaction is ever kept without the rest of it.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest'
import { OutcomeUnknownError, isSmartPgError } from '../../src/index.ts'
import type { SmartPgOptions } from '../../src/index.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { expectWholeBehind, openBehindProxy } from './behind-proxy.ts'
import type { Behind as BehindProxy } from './behind-proxy.ts'
import { backends, failure, ownPidOf, spread } from './dialects.ts'

interface Tables {
  written: { trx: number; n: number }
}

type Behind = BehindProxy<Tables>

/** Where statements cannot be sent together BEGIN is sent as ever. */
const rides = wire === 'native'

let database: Database
beforeAll(async () => {
  database = await createDatabase({ url: inject('primaryUrl') })
  await ask(database.url, 'create table written (trx int not null, n int not null)')
})
afterAll(() => database.drop())
beforeEach(() => ask(database.url, 'truncate written'))

const connected = (options: Partial<SmartPgOptions> = {}): Promise<Behind> =>
  openBehindProxy<Tables>(database.url, options)

const write = (db: Kysely<Tables>, trx: number, n: number): Promise<unknown> =>
  db.insertInto('written').values({ trx, n }).execute()
const read = (db: Kysely<Tables>): Promise<unknown[]> => db.selectFrom('written').selectAll().execute()

const written = (): Promise<{ trx: number; n: number }[]> =>
  ask(database.url, 'select trx, n from written order by trx, n')

/** Every connection is reset, and the server has noticed. */
const cut = async ({ proxy, applicationName }: Behind): Promise<void> => {
  proxy.reset()
  await expect.poll(() => backends(database.url, applicationName)).toBe(0)
}

const expectWhole = (opened: Behind): Promise<void> => expectWholeBehind(database.url, opened)

describe('when the connection is gone before the first statement', () => {
  test.for(['a write', 'a read', 'several statements', 'a savepoint', 'a stream', 'a batch'])(
    'the transaction begins on another, whatever is its first: %s',
    async (what) => {
      const opened = await connected({ transactions: { lazyBegin: true } })
      const { db } = opened
      const whole = db.transaction().execute(async (trx) => {
        await cut(opened)
        if (what === 'a write') await write(trx, 1, 1)
        if (what === 'a read') await read(trx)
        if (what === 'several statements') await sql`insert into written values (1, 1); select 1`.execute(trx)
        if (what === 'a savepoint') await sql`savepoint a`.execute(trx)
        if (what === 'a stream') for await (const _ of trx.selectFrom('written').selectAll().stream(1)) break
        if (what === 'a batch') await trx.batch([trx.insertInto('written').values({ trx: 1, n: 1 })])
        await write(trx, 1, 2)
      })
      if (rides) await whole
      else expect(await failure(whole)).toBeInstanceOf(Error)
      const kept = await written()
      expect(kept.at(-1)).toEqual(rides ? { trx: 1, n: 2 } : undefined)
      await expectWhole(opened)
    },
  )

  test('and nothing is ever sent, the transaction ends well', async () => {
    const opened = await connected()
    const ended = opened.db.transaction().execute(async () => {
      await cut(opened)
      return 7
    })
    if (rides) expect(await ended).toBe(7)
    else await failure(ended)
    await expectWhole(opened)
  })

  test('on db.connection() it does not: that session was promised', async () => {
    const opened = await connected()
    await opened.db.connection().execute(async (one) => {
      await ownPidOf(one as never)
      const error = await failure(
        one.transaction().execute(async (trx) => {
          await cut(opened)
          await write(trx, 1, 1)
        }),
      )
      expect(isSmartPgError(error, 'SMARTPG_CONNECTION_LOST')).toBe(true)
    })
    expect(await written()).toEqual([])
    await expectWhole(opened)
  })
})

describe('when the answer to the first statement is lost', () => {
  test('a read begins again on another, and the transaction is whole', async () => {
    const opened = await connected()
    const { db, proxy } = opened
    const lost = proxy.loseReply({ to: /^select/ })
    const whole = db
      .transaction()
      .setIsolationLevel('repeatable read')
      .execute(async (trx) => {
        expect(await read(trx)).toEqual([])
        await write(trx, 1, 1)
        const { rows } = await sql`show transaction_isolation`.execute(trx)
        expect(rows).toEqual([{ transaction_isolation: 'repeatable read' }])
      })
    if (rides) await whole
    else await failure(whole)
    expect(lost.happened).toBe(true)
    expect(await written()).toEqual(rides ? [{ trx: 1, n: 1 }] : [])
    await expectWhole(opened)
  })

  test('a write is not run again: the connection was lost, nothing is kept, and its caller knows', async () => {
    const opened = await connected()
    const { db, proxy } = opened
    const lost = proxy.loseReply({ to: /^insert into/ })
    let began = 0
    const error = await failure(
      db.transaction().execute(async (trx) => {
        began++
        await write(trx, 1, 1)
      }),
    )
    expect(lost.happened).toBe(true)
    // As the house says it, or the socket.
    expect(error['code']).toMatch(/^(SMARTPG_CONNECTION_LOST|ECONNRESET|EPIPE)$/)
    expect(began).toBe(1)
    expect(await written()).toEqual([])
    await expectWhole(opened)
  })

  test('and its caller takes no notice, nothing else of the transaction is run anywhere', async () => {
    const opened = await connected()
    const { db, proxy } = opened
    proxy.loseReply({ to: /^insert into/ })
    await failure(
      db.transaction().execute(async (trx) => {
        await failure(write(trx, 1, 1))
        await failure(write(trx, 1, 2))
        await failure(read(trx))
        await failure(trx.batch([trx.insertInto('written').values({ trx: 1, n: 3 })]))
      }),
    )
    expect(await written()).toEqual([])
    await expectWhole(opened)
  })
})

describe('when the answer to COMMIT is lost', () => {
  test('nobody knows, and the transaction is there once', async () => {
    const opened = await connected()
    const { db, proxy } = opened
    const lost = proxy.loseReply({ to: /^commit/i })
    const error = await failure(db.transaction().execute((trx) => write(trx, 1, 1)))
    expect(lost.happened).toBe(true)
    expect(error).toBeInstanceOf(OutcomeUnknownError)
    expect(error).toMatchObject({ phase: 'commit' })
    expect(await written()).toEqual([{ trx: 1, n: 1 }])
    await expectWhole(opened)
  })

  test('also when its statements were not waited for', async () => {
    const opened = await connected()
    const { db, proxy } = opened
    const lost = proxy.loseReply({ to: /^commit/i })
    let unawaited: Promise<unknown> = Promise.resolve()
    const error = await failure(
      db.transaction().execute(async (trx) => {
        unawaited = write(trx, 1, 1)
        unawaited.catch(() => undefined)
        await new Promise((resolve) => setImmediate(resolve))
      }),
    )
    expect(lost.happened).toBe(true)
    await Promise.allSettled([unawaited])
    expect(error).toBeInstanceOf(OutcomeUnknownError)
    expect(await written()).toEqual([{ trx: 1, n: 1 }])
    await expectWhole(opened)
  })
})

describe('an answer that breaks off', () => {
  test.for([1, 2, 3, 4])(
    'in its message %i: BEGIN and the first statement are kept together or not at all',
    async (message) => {
      const opened = await connected()
      const { db, proxy } = opened
      for (const [trx, afterBytes] of [0, 3, 6].entries()) {
        const broken = proxy.resetInside({ to: /^insert into/, message, afterBytes })
        const told = await db
          .transaction()
          .execute(async (one) => {
            await write(one, trx, 1)
            await write(one, trx, 2)
          })
          .then(
            () => 'kept',
            (error: unknown) => error,
          )
        const happened = broken.happened
        await proxy.heal()
        expect(happened).toBe(true)
        expect(told).toBeInstanceOf(Error)
        expect((await written()).filter((row) => row.trx === trx)).toEqual([])
      }
      await expectWhole(opened)
    },
  )
})

describe('backends that are ended under a load of transactions', () => {
  test('leave each of them whole or not at all, once, and every caller with the truth', async () => {
    const opened = await connected()
    const { db, applicationName } = opened
    const told = new Map<number, unknown>()
    const load = { running: true }
    const killing = (async () => {
      while (load.running) {
        const text = 'select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 limit 1'
        await ask(database.url, text, [applicationName])
      }
    })()
    try {
      await spread(120, 4, async (trx) => {
        const result = await db
          .transaction()
          .execute(async (one) => {
            if (trx % 2 === 0) await read(one)
            await write(one, trx, 1)
            await write(one, trx, 2)
          })
          .then(
            () => 'kept',
            (error: unknown) => error,
          )
        told.set(trx, result)
      })
    } finally {
      load.running = false
      await killing
    }
    await expect.poll(() => backends(database.url, applicationName)).toBeLessThanOrEqual(2)
    const rows = await written()
    for (const [trx, result] of told) {
      const count = rows.filter((row) => row.trx === trx).length
      expect([0, 2]).toContain(count)
      if (result === 'kept') expect(count).toBe(2)
      else if (!(result instanceof OutcomeUnknownError)) expect(count).toBe(0)
    }
    expect([...told.values()].filter((one) => one === 'kept').length).toBeGreaterThan(0)
    await expectWhole(opened)
  })
})
