// Many callers on few connections, which die under them or fall silent. Afterwards the database is asked what really
// happened: what was acknowledged is there, nothing is there twice, and everybody has been told something.

import { Client } from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, onTestFinished, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import type { SmartPgOptions } from '../../src/index.ts'
import { seededChance } from '../support/chance.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { createDatabase } from '../support/postgres/database.ts'
import { signal } from '../support/postgres/processes.ts'
import { ask } from '../support/postgres/server.ts'
import { wire } from '../support/wire.ts'
import { Tally, backends, borrowed, heldAtOnce, metric, open, ownOnly, spread } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  written: { n: number }
}

// Not unique: a write that was done twice shall be seen, not refused.
const TABLES = 'create table written (n int not null); create index on written (n)'
const max = 6

/** Uniquely numbered inserts, and reads of what was acknowledged: two reads to a write. */
class Load {
  readonly done: number[] = []
  readonly unknown: number[] = []
  readonly failed: number[] = []
  readonly wrong: unknown[] = []
  readonly failures = new Tally()
  settled = 0
  over = false
  readonly #opened: Opened<Tables>
  readonly #chance = seededChance(5)
  #next = 0

  constructor(opened: Opened<Tables>) {
    this.#opened = opened
  }

  /** Runs until so many statements have ended. */
  async run(statements: number, callers: number): Promise<void> {
    await spread(statements, callers, () => (this.#chance() < 1 / 3 ? this.#insert() : this.#read()))
  }

  /** Asks the server, over a connection that is no part of this. */
  async expectKept(url: string): Promise<void> {
    const rows = await ask<{ n: number; times: number }>(
      url,
      'select n, count(*)::int as times from written group by n',
    )
    const there = new Set(rows.map(({ n }) => n))
    expect(rows.filter(({ times }) => times > 1)).toEqual([])
    expect(this.done.filter((n) => !there.has(n))).toEqual([])
    expect(this.failed.filter((n) => there.has(n))).toEqual([])
    expect(this.wrong).toEqual([])
    expect(this.done.length).toBeGreaterThan(0)
  }

  async #insert(): Promise<void> {
    const n = this.#next++
    try {
      await this.#opened.db.insertInto('written').values({ n }).execute()
      this.done.push(n)
    } catch (error) {
      this.failures.add(error)
      this[isSmartPgError(error, 'SMARTPG_OUTCOME_UNKNOWN') ? 'unknown' : 'failed'].push(n)
    }
    this.settled++
  }

  async #read(): Promise<void> {
    const n = this.done[Math.floor(this.#chance() * this.done.length)] ?? -1
    try {
      const rows = await this.#opened.db.selectFrom('written').selectAll().where('n', '=', n).execute()
      if (n >= 0 && (rows.length !== 1 || rows[0]!.n !== n)) this.wrong.push({ n, rows })
    } catch (error) {
      this.failures.add(error)
    }
    this.settled++
  }
}

/** Does something to the server each time so many statements have ended, until the load is over. */
async function disturbed(
  load: Load,
  running: Promise<void>,
  every: number,
  disturb: () => Promise<void>,
): Promise<void> {
  const all = running.finally(() => (load.over = true))
  for (let next = every; !load.over; next = load.settled + every) {
    await expect.poll(() => load.over || load.settled >= next, { interval: 1 }).toBe(true)
    if (!load.over) await disturb()
  }
  await all
}

describe('connections that many share', () => {
  let url: string
  let drop: () => Promise<void>
  let outside: Client
  beforeAll(async () => {
    const database = await createDatabase({ url: inject('primaryUrl') })
    ;({ url } = database)
    drop = () => database.drop()
    await ask(url, TABLES)
    outside = new Client({ connectionString: url })
    await outside.connect()
  })
  afterAll(async () => {
    await outside.end()
    await drop()
  })
  beforeEach(() => ask(url, 'truncate written').then(() => undefined))

  const connected = (options: Partial<SmartPgOptions> = {}): Opened<Tables> =>
    open({ primary: url, pool: { min: 2, initial: 2, max }, ...options })

  async function expectWhole({ db, dialect, applicationName }: Opened<Tables>): Promise<void> {
    expect((await heldAtOnce(db as never, max)).size).toBe(max)
    await expect.poll(() => metric(dialect, 'active_connections')).toBe(0)
    expect(await metric(dialect, 'pending_acquires')).toBe(0)
    await db.destroy()
    await expect.poll(() => backends(url, applicationName)).toBe(0)
  }

  test('may be terminated at any time: no acknowledged write is lost, none is done twice, everybody is told', async () => {
    const opened = connected()
    const load = new Load(opened)
    const kill = `select pg_terminate_backend(pid) from
      (select pid from pg_stat_activity where application_name = $1 order by random() limit 1) as one`
    let kills = 0
    await disturbed(load, load.run(20_000, 200), 600, async () => {
      const { rowCount } = await outside.query(kill, [opened.applicationName])
      kills += rowCount ?? 0
    })
    expect(kills).toBeGreaterThan(5)
    await load.expectKept(url)
    // Who is told that nobody knows was on one of them: all else is tried again.
    expect(Object.keys(load.failures.counts).filter((code) => code !== 'SMARTPG_OUTCOME_UNKNOWN')).toEqual([])
    await expectWhole(opened)
  })

  test('may all be reset at once, in the middle of everything', async () => {
    await using proxy = await startFaultProxy(url)
    // So many connections lost at once open the circuit, which is not what this is about.
    const opened = connected({ primary: proxy.url, breaker: false })
    const load = new Load(opened)
    await disturbed(load, load.run(10_000, 100), 1_000, async () => proxy.reset())
    await load.expectKept(url)
    expect(Object.keys(load.failures.counts).filter((code) => code !== 'SMARTPG_OUTCOME_UNKNOWN')).toEqual([])
    await expectWhole(opened)
  })

  test('may lose the answer to a write: its caller is told that nobody knows, and those behind it are answered', async () => {
    await using proxy = await startFaultProxy(url)
    const opened = connected({ primary: proxy.url })
    const load = new Load(opened)
    await load.run(200, 20)
    await disturbed(load, load.run(3_000, 60), 300, async () => void proxy.loseReply({ to: /^insert/i }))
    await load.expectKept(url)
    expect(load.unknown.length).toBeGreaterThan(0)
    expect(Object.keys(load.failures.counts)).toEqual(['SMARTPG_OUTCOME_UNKNOWN'])
    await proxy.heal()
    await expectWhole(opened)
  })

  test.skipIf(wire === 'pg')(
    "may fall silent: reads behind what hangs are answered over another one (wire: 'pg' shares none)",
    async () => {
      await using proxy = await startFaultProxy(url)
      const pool = { min: 0, initial: 1, minIdle: 0, max }
      const opened = connected({ primary: proxy.url, queryTimeout: '3s', pool })
      const { db } = opened
      await ask(url, 'insert into written select generate_series(1, 100)')
      const read = async (n: number): Promise<number | undefined> =>
        (await db.selectFrom('written').select('n').where('n', '=', n).executeTakeFirst())?.n
      const all = (): Promise<number | undefined>[] => Array.from({ length: 40 }, (_, n) => read(n + 1))
      // One after the other, so that no second one is opened.
      for (let n = 1; n <= 5; n++) await read(n)
      const silenced = proxy.open
      expect(silenced).toHaveLength(1)
      const reads = all()
      // Before anything is written.
      for (const one of silenced) one.silence()
      const settled = await Promise.allSettled(reads)
      const refused = settled.filter((one) => one.status === 'rejected')
      // What stands first may run, until the server says that it does not.
      expect(refused).toEqual([])
      settled.forEach((one, n) => {
        if (one.status === 'fulfilled') expect(one.value).toBe(n + 1)
      })
      await expectWhole(opened)
    },
  )
})

describe.skipIf(borrowed)(`backends that are killed with -9 ${ownOnly}`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster()
    await cluster.primary.query(TABLES)
  })
  afterAll(() => cluster.close())

  test('under statements of many callers: no acknowledged write is lost, none is done twice, everybody is told', async () => {
    const opened = open<Tables>({
      primary: cluster.url,
      // A crashed backend takes all others with it, and the server is away for a moment.
      breaker: false,
      retry: { attempts: 10 },
      pool: { min: 2, initial: 2, max, acquireTimeout: '20s' },
    })
    onTestFinished(() => opened.db.destroy())
    const load = new Load(opened)
    const killed: number[] = []
    await disturbed(load, load.run(9_000, 100), 2_000, async () => {
      const found = 'select pid from pg_stat_activity where application_name = $1 limit 1'
      const rows = await cluster.primary.query<{ pid: number }>(found, [opened.applicationName]).catch(() => [])
      for (const { pid } of rows) {
        signal(pid, 'SIGKILL')
        killed.push(pid)
      }
    })
    expect(killed.length).toBeGreaterThan(0)
    // The server has noticed the last one as well, and is back: until then it lists whom it has lost.
    const gone = 'select pid from pg_stat_activity where pid = any($1)'
    await expect.poll(() => ask(cluster.url, gone, [killed]).catch(() => null)).toEqual([])
    await load.expectKept(cluster.url)
    expect(Object.keys(load.failures.counts).filter((code) => code !== 'SMARTPG_OUTCOME_UNKNOWN')).toEqual([])
    expect((await heldAtOnce(opened.db as never, max)).size).toBe(max)
    await opened.db.destroy()
    expect(await backends(cluster.url, opened.applicationName)).toBe(0)
  })
})
