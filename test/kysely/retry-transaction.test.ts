// `retryTransaction` before a real server: what is run again until it succeeds, what never is, and that whatever is run
// again is there once.

import { Kysely, PostgresDialect, sql } from 'kysely'
import type { Transaction } from 'kysely'
import { Pool } from 'pg'
import { describe, expect, onTestFinished, test } from 'vitest'
import { ConfigError, NotExecutedError, OutcomeUnknownError, SmartPgError, retryTransaction } from '../../src/index.ts'
import type { RetryEvent, RetryTransactionOptions } from '../../src/index.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import { failureOf, inDatabase, ownPidOf, pidOf, run, terminate, waitsForLock } from './support.ts'

type Tables = Parameters<typeof pidOf>[0] extends Kysely<infer DB> ? DB : never

const place = inDatabase()
const dora = { name: 'dora', age: 1 }
/** Enough for anybody who only stands in others' way; without waiting for long. */
const patient = { attempts: 100, base: '2ms', max: '20ms' } as const

/** Backs off for no time. */
const hasty = { base: 0, max: 0 } as const

/** Ends when as many have called it. */
function meeting(count: number): () => Promise<void> {
  let arrived = 0
  let all!: () => void
  const everybody = new Promise<void>((resolve) => (all = resolve))
  return () => {
    if (++arrived === count) all()
    return everybody
  }
}

describe('a transaction that others stand in the way of', () => {
  test('eight callers with a write skew under serializable all succeed, and the server finds them in a row', async () => {
    const { db } = place.open()
    await place.ask('update person set age = 0')
    const tries: number[] = []
    const met = meeting(8)
    const adding = async (trx: Transaction<Tables>, caller: number): Promise<void> => {
      tries.push(caller)
      const { sum } = await trx
        .selectFrom('person')
        .select((eb) => eb.fn.sum<string>('age').as('sum'))
        .executeTakeFirstOrThrow()
      if (tries.length <= 8) await met()
      await trx
        .insertInto('person')
        .values({ name: `caller ${caller}`, age: Number(sum) + 1 })
        .execute()
    }
    await Promise.all(
      Array.from({ length: 8 }, (_, caller) =>
        retryTransaction(db, (trx) => adding(trx, caller), { ...patient, isolationLevel: 'serializable' }),
      ),
    )
    const rows = await place.ask<{ age: number }>("select age from person where name like 'caller %' order by age")
    // Each saw all that came before: 1, 1 + 1, 1 + 1 + 2 …
    expect(rows.map(({ age }) => age)).toEqual([1, 2, 4, 8, 16, 32, 64, 128])
    expect(tries.length).toBeGreaterThan(8)
  })

  test('two that lock each other out both succeed', async () => {
    const { db, dialect } = place.open()
    const retries: RetryEvent[] = []
    dialect.on('retry', (event) => retries.push(event))
    const met = meeting(2)
    let ran = 0
    const moving = async (trx: Transaction<Tables>, from: string, to: string): Promise<void> => {
      const first = ++ran <= 2
      await trx.updateTable('person').set({ age: 1 }).where('name', '=', from).execute()
      if (first) await met()
      await trx.updateTable('person').set({ age: 2 }).where('name', '=', to).execute()
    }
    await Promise.all([
      retryTransaction(db, (trx) => moving(trx, 'ada', 'bob')),
      retryTransaction(db, (trx) => moving(trx, 'bob', 'ada')),
    ])
    expect(ran).toBe(3)
    expect(retries).toEqual([{ node: 'primary', attempt: 1, fault: 'rolled-back', because: 'deadlock' }])
  })

  test('a serialization failure that a batch in it met is one, too', async () => {
    const { db } = place.open()
    let ran = 0
    const result = await retryTransaction(
      db,
      async (trx) => {
        await trx.selectFrom('person').selectAll().execute()
        if (++ran === 1) await place.ask("update person set age = 99 where name = 'ada'")
        await trx.batch([trx.updateTable('person').set({ age: 7 }).where('name', '=', 'ada')])
        return ran
      },
      { ...hasty, isolationLevel: 'repeatable read' },
    )
    expect(result).toBe(2)
    expect(await place.ask("select age from person where name = 'ada'")).toEqual([{ age: 7 }])
  })

  test('one that always fails is run as often as was said, and its caller told the last error', async () => {
    const { db } = place.open()
    let ran = 0
    const failure = await failureOf(
      retryTransaction(
        db,
        async (trx) => {
          await run(trx, `do $$ begin raise exception 'no ${++ran}' using errcode = '40001'; end $$`)
        },
        { attempts: 4, ...hasty },
      ),
    )
    expect(ran).toBe(4)
    expect(failure).toMatchObject({ code: '40001', message: 'no 4' })
  })
})

describe('a transaction whose connection is lost', () => {
  test('in the middle runs again, and is there once', async () => {
    const { db } = place.open()
    let ran = 0
    await retryTransaction(
      db,
      async (trx) => {
        await trx.insertInto('person').values(dora).execute()
        if (++ran === 1) await terminate(place.url, await pidOf(trx))
        await trx.insertInto('person').values({ name: 'emil', age: ran }).execute()
      },
      hasty,
    )
    expect(ran).toBe(2)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'dora', 'emil'])
  })

  test('before COMMIT was sent runs again, and is there once', async () => {
    const { db } = place.open()
    let ran = 0
    await retryTransaction(
      db,
      async (trx) => {
        await trx.insertInto('person').values(dora).execute()
        const pid = await pidOf(trx)
        if (++ran > 1) return
        await terminate(place.url, pid)
        // Until its own end has heard of it.
        await expect.poll(() => run(trx, 'select 1').then(() => 'alive', () => 'lost')).toBe('lost') // prettier-ignore
      },
      hasty,
    )
    expect(ran).toBe(2)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'dora'])
  })

  test('by COMMIT is not run again, for it is there', async () => {
    const proxy = await startFaultProxy(place.url)
    onTestFinished(() => proxy.close())
    const { db } = place.open({ primary: proxy.url })
    const lost = proxy.loseReply({ to: /^commit/i })
    let ran = 0
    const failure = await failureOf(
      retryTransaction(
        db,
        async (trx) => {
          ran++
          await trx.insertInto('person').values(dora).execute()
        },
        hasty,
      ),
    )
    expect(lost.happened).toBe(true)
    expect(failure).toBeInstanceOf(OutcomeUnknownError)
    expect(ran).toBe(1)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'dora'])
  })

  test.for(['commit', 'end', "prepare transaction 'a test'", 'insert into person (name) values (null); commit'])(
    'by a statement that may have ended it, by hand, is not run again: %s',
    async (text) => {
      const proxy = await startFaultProxy(place.url)
      onTestFinished(() => proxy.close())
      const { db } = place.open({ primary: proxy.url })
      const lost = proxy.loseReply({ to: /^(commit|end|prepare|insert.*;)/i })
      let ran = 0
      const failure = await failureOf(
        retryTransaction(
          db,
          async (trx) => {
            ran++
            await trx.insertInto('person').values(dora).execute()
            await sql.raw(text).execute(trx)
          },
          hasty,
        ),
      )
      expect(lost.happened).toBe(true)
      expect(failure).toBeInstanceOf(OutcomeUnknownError)
      expect(ran).toBe(1)
    },
  )

  test('after a COMMIT by hand is not run again, for a part of it is there', async () => {
    const { db } = place.open()
    let ran = 0
    const failure = await failureOf(
      retryTransaction(
        db,
        async (trx) => {
          ran++
          await trx.insertInto('person').values(dora).execute()
          await sql`commit and chain`.execute(trx)
          await terminate(place.url, await pidOf(trx))
          await trx.insertInto('person').values({ name: 'emil', age: 1 }).execute()
        },
        hasty,
      ),
    )
    expect(failure.message).toMatch(/terminat|lost|gone/)
    expect(ran).toBe(1)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo', 'dora'])
  })

  test('on db.connection() is not run again: that session was promised', async () => {
    const { db } = place.open()
    let ran = 0
    await db.connection().execute(async (one) => {
      await ownPidOf(one)
      const failing = retryTransaction(one, async (trx) => {
        ran++
        await terminate(place.url, await pidOf(trx))
        await run(trx, 'select 1')
      })
      expect((await failureOf(failing)).message).toMatch(/terminat|lost|gone/)
    })
    expect(ran).toBe(1)
  })

  test('while its callback fails for a reason of its own is not run again', async () => {
    const { db } = place.open()
    const own = Object.assign(new Error('the payment service hung up'), { code: 'ECONNRESET' })
    let ran = 0
    const failing = retryTransaction(db, async (trx) => {
      ran++
      await trx.insertInto('person').values(dora).execute()
      throw own
    })
    expect(await failureOf(failing)).toBe(own)
    expect(ran).toBe(1)
    expect(await place.names()).toEqual(['ada', 'bob', 'cleo'])
  })
})

describe('what is certainly not executed', () => {
  test('is run again, and the last error knows how often', async () => {
    const { db } = place.open()
    let ran = 0
    const failure = await failureOf(
      retryTransaction(
        db,
        async () => {
          ran++
          throw new NotExecutedError('elsewhere', 'not executed', 'execute', undefined)
        },
        { attempts: 3, ...hasty },
      ),
    )
    expect(ran).toBe(3)
    expect(failure).toMatchObject({ code: 'SMARTPG_NOT_EXECUTED', attempts: 3 })
  })

  test('is not, where something else may have been: the outermost error is not the whole story', async () => {
    const { db } = place.open()
    let ran = 0
    const unknown = new OutcomeUnknownError('elsewhere', 'commit', undefined)
    const own = new SmartPgError('SMARTPG_NOT_EXECUTED', 'mine', { cause: unknown })
    const failing = retryTransaction(db, async () => {
      ran++
      throw own
    })
    expect(await failureOf(failing)).toBe(own)
    expect(ran).toBe(1)
  })
})

describe('a transaction that succeeds', () => {
  test('resolves with what its callback did, at the isolation and in the mode that were asked for', async () => {
    const { db } = place.open()
    const seen = await retryTransaction(
      db,
      async (trx) => {
        const { rows } = await sql`select current_setting('transaction_isolation') as level,
          current_setting('transaction_read_only') as read_only`.execute(trx)
        return rows
      },
      { isolationLevel: 'repeatable read', accessMode: 'read only' },
    )
    expect(seen).toEqual([{ level: 'repeatable read', read_only: 'on' }])
  })

  test('and one that fails for its own reasons is run once', async () => {
    const { db } = place.open()
    let ran = 0
    const failing = retryTransaction(db, async (trx) => {
      ran++
      await run(trx, 'select 1 / 0')
    })
    expect(await failureOf(failing)).toMatchObject({ code: '22012' })
    expect(ran).toBe(1)
  })
})

describe('an abort signal', () => {
  const conflict = (trx: Kysely<Tables>): Promise<void> =>
    run(trx, `do $$ begin raise exception 'no' using errcode = '40001'; end $$`)

  test('ends the waiting between two runs', async () => {
    const { db, dialect } = place.open()
    const abort = new AbortController()
    const reason = new Error('enough')
    dialect.on('retry', () => abort.abort(reason))
    let ran = 0
    const failing = retryTransaction(
      db,
      async (trx) => {
        ran++
        await conflict(trx)
      },
      { base: '1h', max: '1h', signal: abort.signal },
    )
    expect(await failureOf(failing)).toBe(reason)
    expect(ran).toBe(1)
  })

  test('that was given before begins nothing', async () => {
    const { db } = place.open()
    let ran = 0
    const failing = retryTransaction(db, async () => void ran++, { signal: AbortSignal.abort(new Error('before')) })
    expect(await failureOf(failing)).toMatchObject({ message: 'before' })
    expect(ran).toBe(0)
  })
})

describe('a Kysely of another dialect', () => {
  const foreign = (url: string): Kysely<Tables> => {
    const pool = new Pool({ connectionString: url })
    // A client that is lent out has none of the pool's.
    pool.on('connect', (client) => client.on('error', () => undefined))
    pool.on('error', () => undefined)
    const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) })
    onTestFinished(() => db.destroy())
    return db
  }

  test('has its transactions run again for what the server said', async () => {
    const db = foreign(place.url)
    let ran = 0
    await retryTransaction(
      db,
      async (trx) => {
        await trx.selectFrom('person').selectAll().execute()
        if (++ran === 1) await place.ask("update person set age = 99 where name = 'ada'")
        await trx.updateTable('person').set({ age: 7 }).where('name', '=', 'ada').execute()
      },
      { ...hasty, isolationLevel: 'repeatable read' },
    )
    expect(ran).toBe(2)
  })

  test('and not for a lost connection, where nobody knows whether COMMIT had been sent', async () => {
    const db = foreign(place.url)
    let ran = 0
    const failing = retryTransaction(db, async (trx) => {
      ran++
      await terminate(place.url, await pidOf(trx))
      await run(trx, 'select 1')
    })
    await failureOf(failing)
    expect(ran).toBe(1)
  })
})

describe('what cannot be retried', () => {
  test('is refused inside a transaction', async () => {
    const { db } = place.open()
    const failure = await db
      .transaction()
      .execute((trx) => retryTransaction(trx, async () => 1))
      .catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(ConfigError)
    expect((failure as ConfigError).faults).toEqual([
      {
        path: 'retryTransaction.db',
        received: 'a transaction',
        expected: 'a Kysely outside of any, which can begin it anew',
      },
    ])
  })

  test('and wrong options are named all at once, before anything is begun', async () => {
    const { db } = place.open()
    let ran = 0
    const wrong = {
      attempts: 0,
      base: 'soon',
      max: -1,
      isolationLevel: 'chaos',
      accessMode: 'append',
      signal: 7,
      retries: 3,
    } as unknown as RetryTransactionOptions
    const failure = await failureOf(retryTransaction(db, async () => void ran++, wrong))
    expect(failure).toBeInstanceOf(ConfigError)
    expect((failure as unknown as ConfigError).faults.map(({ path }) => path).toSorted()).toEqual(
      ['accessMode', 'attempts', 'base', 'isolationLevel', 'max', 'retries', 'signal'].map(
        (name) => `retryTransaction.${name}`,
      ),
    )
    expect(ran).toBe(0)
  })

  test('waits for locks as ever: that is no failure', async () => {
    const { db, applicationName } = place.open()
    const holder = await place.stranger()
    await holder.query("begin; update person set age = 5 where name = 'ada'")
    let ran = 0
    const waiting = retryTransaction(db, async (trx) => {
      ran++
      await trx.updateTable('person').set({ age: 6 }).where('name', '=', 'ada').execute()
    })
    await waitsForLock(place.url, applicationName)
    await holder.query('commit')
    await waiting
    expect(ran).toBe(1)
  })
})
