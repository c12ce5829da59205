// Half-open connections with default options: the network has lost them, nobody is told, and queryTimeout is half a minute
// away. The server is asked what it knows of them, so that whoever waits there is told what is true within seconds.
// Whatever only takes its time is never harmed by that: this is the larger part of the file.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { Client, Query } from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, onTestFinished, test } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import type { FaultProxy } from '../support/fault-proxy.ts'
import { noPgBouncer, pgBouncerNeeded, startPgBouncer } from '../support/pgbouncer.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { createDatabase } from '../support/postgres/database.ts'
import type { Database } from '../support/postgres/database.ts'
import { signal } from '../support/postgres/processes.ts'
import { ask } from '../support/postgres/server.ts'
import { openBehindProxy, still } from './behind-proxy.ts'
import type { Behind as BehindProxy } from './behind-proxy.ts'
import { backends, borrowed, failure, heldAtOnce, open, ownOnly, ownPidOf, Tally } from './dialects.ts'

interface Tables {
  written: { n: number; text: string | null }
}

type Db = Kysely<Tables>
type Behind = BehindProxy<Tables>

/** Far below queryTimeout, and far above what it takes. */
const SOON_MS = 12_000
/** Longer than it takes to give up a connection that is lost. */
const SLOW_S = 3

const TABLES = 'create table written (n int not null, text text)'
const connected = (url: string, options: Partial<SmartPgOptions> = {}): Promise<Behind> =>
  openBehindProxy<Tables>(url, { ...options, pool: { ...still, initial: 3, max: 3, ...options.pool } })

const write = (db: Db, n: number): Promise<unknown> => db.insertInto('written').values({ n, text: null }).execute()
const one = (db: Db): Promise<unknown> => sql`select 1 as n`.execute(db)

/** What a caller is told, and whether that was soon. */
async function told(work: Promise<unknown>): Promise<string> {
  const since = performance.now()
  const what = await work.then(
    () => 'answered',
    (error: unknown) => String((error as { code?: string }).code ?? error),
  )
  const ms = performance.now() - since
  return ms < SOON_MS ? what : `${what} after ${Math.round(ms)} ms`
}

/** Callers who all have what they need before `then` happens, and go on behind it. */
class Gate {
  #awaited: number
  #arrived!: () => void
  #opened!: () => void
  readonly #everybody = new Promise<void>((resolve) => (this.#arrived = resolve))
  readonly #open = new Promise<void>((resolve) => (this.#opened = resolve))

  constructor(awaited: number) {
    this.#awaited = awaited
  }

  async pass(): Promise<void> {
    if (--this.#awaited === 0) this.#arrived()
    await this.#open
  }

  async openWhenAllAreHere(then: () => unknown): Promise<void> {
    await this.#everybody
    await then()
    this.#opened()
  }
}

describe('connections that go half-open, with the default queryTimeout', () => {
  let database: Database
  beforeAll(async () => {
    database = await createDatabase({ url: inject('primaryUrl') })
    await ask(database.url, TABLES)
  })
  afterAll(() => database.drop())
  beforeEach(() => ask(database.url, 'truncate written'))

  const written = async (): Promise<number[]> => {
    const rows = await ask<{ n: number }>(database.url, 'select n from written order by n')
    return rows.map(({ n }) => n)
  }

  const expectWhole = async ({ db, applicationName, proxy }: Behind, max = 3): Promise<void> => {
    expect((await heldAtOnce(db as never, max)).size).toBe(max)
    await db.destroy()
    await proxy.heal()
    await expect.poll(() => backends(database.url, applicationName)).toBe(0)
  }

  const flows: Record<string, (db: Db, gate: Gate) => Promise<unknown>> = {
    read: async (db, gate) => {
      await gate.pass()
      return db.selectFrom('written').select('n').execute()
    },
    write: async (db, gate) => {
      await gate.pass()
      return write(db, 1)
    },
    batch: async (db, gate) => {
      await gate.pass()
      return db.batch([db.insertInto('written').values({ n: 2, text: null }), sql`select 1`])
    },
    'a first chunk': async (db, gate) => {
      await gate.pass()
      for await (const _ of db.selectFrom('written').selectAll().stream(10));
    },
    'a later chunk': async (db, gate) => {
      let rows = 0
      const numbers = sql<{ n: number }>`select generate_series(1, 1000) as n`
      for await (const _ of db.selectFrom(numbers.as('numbers')).select('numbers.n').stream(10)) {
        if (++rows === 10) await gate.pass()
      }
    },
    'in a transaction': async (db, gate) =>
      db.transaction().execute(async (trx) => {
        await write(trx, 3)
        await gate.pass()
        await write(trx, 3)
      }),
    commit: async (db, gate) =>
      db.transaction().execute(async (trx) => {
        await write(trx, 4)
        await gate.pass()
      }),
    'an own session': async (db, gate) =>
      db.connection().execute(async (own) => {
        await ownPidOf(own as never)
        await gate.pass()
        await one(own)
      }),
  }

  describe.each([['toServer'], ['toClient'], [undefined]] as const)('where nothing arrives any more (%s)', (way) => {
    test('everybody is told what is true long before queryTimeout, and the others are answered', async () => {
      const names = Object.keys(flows)
      const max = 2 * names.length
      const opened = await connected(database.url, { pool: { initial: max, max } })
      const { db, proxy } = opened
      const gate = new Gate(names.length)
      const all = names.map(async (name) => [name, await told(flows[name]!(db, gate))])
      const since = performance.now()
      await gate.openWhenAllAreHere(() => {
        for (const line of proxy.open) line.silence(way)
      })
      const what = Object.fromEntries(await Promise.all(all)) as Record<string, string>
      console.log(`half-open (${way ?? 'both ways'}): ${JSON.stringify(what)} after ${Math.round(performance.now() - since)} ms`)
      expect(what).toEqual({})
      await expectWhole(opened, max)
    })
  })
})
