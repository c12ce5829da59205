// What a caller wrote, he reads, wherever it is read: while replicas stand still and go on at random, across processes
// by a token, and across a failover.

import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { seededChance } from '../support/chance.ts'
import { disturbReplay, missedOwnWrites, pairsTables } from '../support/failover/own-reads.ts'
import type { Pairs } from '../support/failover/own-reads.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { crash, succeed } from '../support/postgres/succession.ts'
import { application, layNotes, nameOf, serversWithNotes } from './application.ts'
import type { Application } from './application.ts'
import { borrowed, open, ownOnly } from './dialects.ts'

type Mode = NonNullable<NonNullable<SmartPgOptions['routing']>['readYourWrites']>

describe.skipIf(borrowed)(`reads of own writes while the replicas stand still and go on at random ${ownOnly}`, () => {
  const callers = 64
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 2 })
    await cluster.primary.query(pairsTables(callers))
    await cluster.caughtUp()
  })
  afterAll(() => cluster.close())
  beforeEach(async () => {
    const tables = Array.from({ length: callers }, (_, i) => `pairs_${i}`)
    await cluster.primary.query(`truncate ${tables.join()}`)
    await cluster.caughtUp()
  })

  async function missed(mode: Mode, count: number): Promise<{ missed: number; onReplicas: number }> {
    const { db, dialect } = open<Pairs>({
      primary: cluster.url,
      replicas: cluster.replicaUrls,
      routing: { readYourWrites: mode },
    })
    await dialect.ready()
    const ran = { onReplicas: 0 }
    dialect.on('query', ({ role, kind }) => void (role === 'replica' && kind === 'read_simple' && ran.onReplicas++))
    const disturbing = disturbReplay(cluster, seededChance(3))
    try {
      const ids = await missedOwnWrites(db, { count, callers, chance: seededChance(4) })
      return { missed: ids.length, ...ran }
    } finally {
      await disturbing.stop()
    }
  }

  test('1,000 inserts, each read at once: none is missed, although replicas are read from', async () => {
    const found = await missed('auto', 1_000)
    console.log(`auto: ${JSON.stringify(found)}`)
    expect(found.missed).toBe(0)
    expect(found.onReplicas).toBeGreaterThan(0)
  })

  test('the same with `always`', async () => {
    expect((await missed('always', 300)).missed).toBe(0)
  })

  test('with `off` some are missed, so that the tests above can fail', async () => {
    expect((await missed('off', 300)).missed).toBeGreaterThan(0)
  })
})

describe.skipIf(borrowed)(`what a session and its token see while no replica replays anything ${ownOnly}`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 2 })
    await layNotes(cluster)
  })
  afterAll(() => cluster.close())
  beforeEach(async () => {
    await cluster.primary.query('truncate notes')
    await cluster.primary.query('insert into notes values (0)')
    await cluster.caughtUp()
  })

  async function standing(mode: Mode, run: (one: Application, other: Application) => Promise<void>): Promise<void> {
    const options = { routing: { readYourWrites: mode, maxLag: { ms: 60_000 } } } as const
    const apps = [await application(cluster, options), await application(cluster, options)] as const
    await Promise.all([cluster.pauseReplay(0), cluster.pauseReplay(1)])
    try {
      await run(...apps)
    } finally {
      await Promise.all([cluster.resumeReplay(0), cluster.resumeReplay(1)])
    }
  }

  test('another process misses the row without the token, and finds it with it', () =>
    standing('auto', async (one, other) => {
      const token = await one.dialect.session(async () => {
        await one.write(1)
        return one.dialect.currentToken()
      })
      expect(await other.finds(1)).toBe(false)
      // As a cookie carries it.
      const carried = decodeURIComponent(encodeURIComponent(token!))
      expect(await other.dialect.session({ token: carried }, () => other.finds(1))).toBe(true)
      // Nobody else in that process is held up by it.
      expect(await other.finds(1)).toBe(false)
    }))

  test('the token grows with every write, and one that is handed in is handed on', () =>
    standing('auto', async (one, other) => {
      const [first, second] = await one.dialect.session(async () => {
        expect(one.dialect.currentToken()).toBeUndefined()
        await one.write(1)
        const after = one.dialect.currentToken()
        await one.db
          .transaction()
          .execute(async (trx) => void (await trx.insertInto('notes').values({ id: 2 }).execute()))
        return [after, one.dialect.currentToken()]
      })
      expect(first).toEqual(expect.any(String))
      expect(second).not.toBe(first)
      expect(other.dialect.session({ token: second }, () => other.dialect.currentToken())).toBe(second)
      expect(await other.dialect.session({ token: second }, () => other.finds(2))).toBe(true)
    }))

  test('with `session`, reads outside of it see replicas as they are, reads inside what was written inside', () =>
    standing('session', async (one) => {
      await one.write(1)
      expect(await one.finds(1)).toBe(false)
      await one.dialect.session(async () => {
        expect(await one.finds(1)).toBe(false)
        await one.write(2)
        expect(await one.finds(2)).toBe(true)
      })
      expect(await one.finds(2)).toBe(false)
    }))

  test('with `off`, not even a token makes a read wait', () =>
    standing('off', async (one, other) => {
      const token = await one.dialect.session(async () => {
        await one.write(1)
        return one.dialect.currentToken()
      })
      expect(await other.dialect.session(token === undefined ? {} : { token }, () => other.finds(1))).toBe(false)
    }))

  test('with `always`, a read of any table sees what was written to another', () =>
    standing('always', async (one) => {
      await cluster.primary.query('insert into notes values (5)')
      expect(await one.finds(5)).toBe(false)
      await one.db.schema.createTable('other').addColumn('id', 'integer').execute()
      // Written after the row by somebody else: whoever has the one has the other.
      expect(await one.finds(5)).toBe(true)
      await one.db.schema.dropTable('other').execute()
    }))
})

describe.skipIf(borrowed)(`a failover between write and read ${ownOnly}`, () => {
  /** The sibling hears of the new primary, and replays late what it had missed of the old one. */
  async function lateSibling(mode: Mode): Promise<{ app: Application; late: string; token: string | undefined }> {
    const cluster = await serversWithNotes()
    // Of a role without the right to see from whom a standby receives: it looks fresh.
    await cluster.primary.query('create role plain login; grant all on notes to plain')
    await cluster.caughtUp()
    const as = (url: string): string => url.replace('postgres@', 'plain@')
    const app = await application(
      { url: as(cluster.url), replicaUrls: cluster.replicaUrls.map(as) },
      { routing: { readYourWrites: mode, maxLag: { ms: 60_000 } }, failover: { probeInterval: 50 } },
    )
    const [heir, sibling] = [cluster.replicas[0]!, cluster.replicas[1]!]
    await cluster.cutOff(sibling)
    const token = await app.dialect.session(async () => {
      await app.write(1)
      return app.dialect.currentToken()
    })
    await cluster.caughtUp(heir)
    await crash(cluster)
    const { primary } = await succeed(cluster, { alone: true })
    expect(primary).toBe(heir)
    await sibling.query("alter system set recovery_min_apply_delay = '1h'")
    await sibling.query(`alter system set primary_conninfo = 'host=127.0.0.1 port=${primary.port} user=postgres'`)
    await sibling.query('select pg_reload_conf()')
    await expect.poll(() => sibling.query('select 1 from pg_stat_wal_receiver')).toHaveLength(1)
    await app.writesAgain(10)
    return { app, late: nameOf(cluster, sibling), token }
  }

  test('the row is found, although a replica that looks fresh does not have it', async () => {
    const { app } = await lateSibling('auto')
    for (let i = 0; i < 100; i++) {
      expect(await app.finds(1)).toBe(true)
      if (i % 10 === 0) await sleep(10)
    }
  })

  test('the token of before the failover is still good for the row', async () => {
    const { app, token } = await lateSibling('session')
    for (let i = 0; i < 50; i++) expect(await app.dialect.session({ token }, () => app.finds(1))).toBe(true)
  })

  test('with `off` that replica is read from, so that the tests above can fail', async () => {
    const { app, late } = await lateSibling('off')
    await app.readsOn(late)
    const found = new Set<boolean>()
    for (let i = 0; i < 50; i++) found.add(await app.finds(1))
    expect(found).toContain(false)
  })
})
