// A process that does something else for seconds (a large JSON, a synchronous file, a pause of its machine) hears
// nothing meanwhile: timers that came due run before anything is read. Every answer that came in time is one, and
// whoever waits for what takes several round trips gets the time back. The servers are well all the time.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { ask } from '../support/postgres/server.ts'
import { heldAtOnce, metric, open, Tally } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  written: { n: number }
}
type Db = Kysely<Tables>

const max = 3
/** Each deadline is over long before the process hears again. */
const timeoutMs = 1_000
const blockedMs = 2_500

function block(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, blockedMs)
}

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve))
}

describe(`an event loop that is blocked for ${blockedMs} ms, where every timeout is ${timeoutMs} ms`, () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl'), replicaUrls: inject('replicaUrls') })
    await ask(database.url, 'create table written (n int not null)')
  })
  afterAll(() => database.drop())

  const connected = (options: Partial<SmartPgOptions> = {}): Opened<Tables> =>
    open<Tables>({
      primary: database.url,
      queryTimeout: timeoutMs,
      ...options,
      pool: { acquireTimeout: timeoutMs, connectTimeout: timeoutMs, min: 0, initial: 0, max, ...options.pool },
    })

  /** With all its connections, which have been used. */
  const warm = async (options: Partial<SmartPgOptions> = {}): Promise<Opened<Tables>> => {
    const opened = connected(options)
    await heldAtOnce(opened.db as never, options.pool?.max === 1 ? 1 : max)
    for (let i = 0; i < 3; i++) await one(opened.db)
    return opened
  }

  const one = (db: Db): Promise<unknown> => sql`select 1 as n`.execute(db)
  const many = <T>(count: number, work: (n: number) => Promise<T>): Promise<T>[] =>
    Array.from({ length: count }, (_, n) => work(n))

  const transaction = (db: Db, n: number): Promise<void> =>
    db.transaction().execute(async (trx) => {
      await trx.insertInto('written').values({ n }).execute()
      await trx.selectFrom('written').selectAll().where('n', '=', n).execute()
    })

  const expectAnswered = async (work: readonly Promise<unknown>[]): Promise<void> => {
    const told = new Tally()
    for (const end of await Promise.allSettled(work)) {
      told.add(end.status === 'fulfilled' ? 'answered' : String(end.reason))
    }
    expect(told.counts).toEqual({ answered: work.length })
  }

  // What is under way is caught at different steps: before the first byte, within the handshake, waiting for an answer.
  describe.each([0, 1, 3])('%i turns after it was asked', (turned) => {
    test('costs no answer, whatever was waited for', async () => {
      const cold = connected()
      const starting = connected({ pool: { initial: 2 } })
      const listening = connected()
      const reads = await warm()
      const slow = await warm()
      const large = await warm()
      const alone = await warm({ pool: { lanes: false } })
      const busy = await warm()
      const dirty = await warm({ pool: { max: 1 } })
      const asked = await warm({ pool: { validateAfterIdle: 1 } })
      const since = performance.now()
      await vi.waitUntil(() => performance.now() - since > 20)

      const work = [
        ...many(20, () => one(cold.db)),
        starting.dialect.ready(),
        listening.dialect.listen('news', () => undefined),
        ...many(100, () => one(reads.db)),
        ...many(6, () => sql`select pg_sleep(0.2)`.execute(slow.db)),
        ...many(3, () => sql`select repeat('x', 1000) as text from generate_series(1, 5000)`.execute(large.db)),
        ...many(20, () => one(alone.db)),
        ...many(20, (n) => transaction(busy.db, n)),
        dirty.db.connection().execute(async (lease) => {
          await sql`set work_mem = '77MB'`.execute(lease)
        }),
        ...many(3, () => one(dirty.db)),
        ...many(20, () => one(asked.db)),
      ]
      await turns(turned)
      block()
      await expectAnswered(work)
      await Promise.all([starting.dialect.destroy(), listening.dialect.destroy()])
      for (const { dialect } of [reads, slow, large, alone, busy, asked]) {
        expect(await metric(dialect, 'connections_closed_total')).toBe(0)
      }
    })
  })

  test('while the dialect is closed: who holds a connection may finish, and destroy settles', async () => {
    const { db } = await warm()
    const work = many(max, (n) => transaction(db, n))
    await turns(4)
    const destroyed = db.destroy()
    block()
    await expectAnswered([...work, destroyed])
  })

  test.skipIf(inject('replicaUrls').length === 0)('takes no replica for dead that the monitor has asked', async () => {
    const opened = connected({ replicas: database.replicaUrls, failover: { probeInterval: '20ms' } })
    await opened.dialect.ready()
    const left: string[] = []
    opened.dialect.on('node', ({ because }) => left.push(because))
    const failed = new Tally()
    opened.dialect.on('error', ({ during }) => failed.add(during))
    const read = (): Promise<unknown> => opened.db.selectFrom('written').selectAll().limit(0).execute()
    await read()
    await turns(3)
    const work = many(20, read)
    block()
    await expectAnswered(work)
    await read()
    expect(left).toEqual([])
    expect(failed.counts).toEqual({})
  })

  test('does not keep a deadline off for ever: what is truly late is told so', async () => {
    const { db } = await warm()
    const work = sql`select pg_sleep(60)`.execute(db).then(
      () => 'answered',
      (error: unknown) => (error as { code?: unknown }).code,
    )
    await turns(2)
    block()
    expect(await work).toBe('SMARTPG_QUERY_TIMEOUT')
  })
})
