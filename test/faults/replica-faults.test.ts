// Replicas that are of no use for a while: killed, frozen, cut off, behind, in conflict with what they replay, or all of
// them gone. Reads go on being answered, and none is older than was allowed. How many exactly is measured by
// `npm run bench:failover`.

import { setTimeout as sleep } from 'node:timers/promises'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import { clusterScenarioOf, startFor } from '../support/failover/scenarios.ts'
import type { ClusterScenario } from '../support/failover/scenarios.ts'
import { blameless } from '../support/fault-load/judge.ts'
import { runLevel } from '../support/fault-load/level.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { application, layNotes } from './application.ts'
import { backends, borrowed, failure, ownOnly, spread } from './dialects.ts'

const max = 8

/** One after the other, a moment each. */
const woes: ClusterScenario = {
  ...clusterScenarioOf('replica-frozen'),
  name: 'replica woes',
  async happens(scene) {
    for (const woe of ['replica-killed', 'replica-frozen', 'replica-cut-off', 'replica-lagging', 'replica-conflict']) {
      await clusterScenarioOf(woe).happens(scene, 400)
    }
  },
}

describe.skipIf(borrowed)(`under load, while one fault of a replica follows the other ${ownOnly}`, () => {
  test('99.5 % of the reads are answered, none wrongly, and every write', async () => {
    await using cluster = await startFor(woes)
    const times = { leadInMs: 400, faultMs: 0, tailMs: 2_000 }
    const level = await runLevel(cluster, { scenario: woes, client: 'smart', seed: 13, rate: 200, max, ...times })
    const { answered, due, failures, readsAnswered, readsDue } = level
    console.log(`${readsAnswered} of ${readsDue} reads, ${answered} of ${due} in all, ${JSON.stringify(failures)}`)
    expect(level.verdict).toEqual(blameless)
    expect(level.crashes).toEqual([])
    expect(readsDue).toBeGreaterThan(200)
    expect(readsAnswered).toBeGreaterThanOrEqual(0.995 * readsDue)
    expect(level.capacity).toBe(max)
    expect(level.left).toBe(0)
  })
})

describe.skipIf(borrowed)(`a set of replicas ${ownOnly}`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 2 })
    await layNotes(cluster)
    await cluster.primary.query('create table clock (at timestamptz)')
    await cluster.primary.query('insert into clock values (clock_timestamp())')
    await cluster.primary.query('create table numbers as select generate_series(1, 1000) as n')
    await cluster.caughtUp()
  })
  afterAll(() => cluster.close())

  /** Takes so long that a vacuum comes in between. */
  const longRead = sql<{ n: string }>`select count(*) as n from numbers a, numbers b where a.n * b.n % 7 = 0`
  const expected = async (): Promise<string> => {
    const [row] = await cluster.primary.query<{ n: string }>(
      'select count(*) as n from numbers a, numbers b where a.n * b.n % 7 = 0',
    )
    return row!.n
  }

  const setOnReplicas = (setting: string): Promise<unknown> =>
    Promise.all(
      cluster.replicas.map(async (replica) => {
        await replica.query(`alter system ${setting}`)
        await replica.query('select pg_reload_conf()')
      }),
    )

  test('that cancel long reads for what they replay: each is answered all the same, once more elsewhere', async () => {
    const app = await application(cluster)
    const n = await expected()
    const conflicts: string[] = []
    app.dialect.on('retry', ({ node, fault }) => void (fault === 'recovery-conflict' && conflicts.push(node)))
    await setOnReplicas('set max_standby_streaming_delay = 0')
    const until = { over: false }
    const vacuuming = (async () => {
      while (!until.over) {
        await cluster.primary.query('update numbers set n = n where n <= 10')
        await cluster.primary.query('vacuum numbers')
      }
    })()
    try {
      await expect
        .poll(async () => {
          const answers = await Promise.all([1, 2, 3, 4].map(() => longRead.execute(app.db)))
          expect(answers.map(({ rows }) => rows[0]!.n)).toEqual([n, n, n, n])
          return conflicts.length
        })
        .toBeGreaterThan(3)
    } finally {
      until.over = true
      await vacuuming
      await setOnReplicas('reset max_standby_streaming_delay')
    }
  })

  test('of which none is older than maxLag allows, although one replays nothing', async () => {
    const tick = (): Promise<unknown> => cluster.primary.query('update clock set at = clock_timestamp()')
    const oldest = async (maxLag: number): Promise<number> => {
      const app = await application(cluster, {
        routing: { maxLag: { ms: maxLag, bytes: 2 ** 40 } },
        failover: { probeInterval: 50 },
      })
      await tick()
      await cluster.caughtUp()
      await cluster.pauseReplay(0)
      const until = performance.now() + 3_000
      const ticking = (async () => {
        while (performance.now() < until) await tick()
      })()
      try {
        let age = 0
        while (performance.now() < until) {
          const { rows } = await sql<{ at: Date }>`select at from clock`.execute(app.db)
          age = Math.max(age, Date.now() - rows[0]!.at.getTime())
          await sleep(2)
        }
        return age
      } finally {
        await ticking
        await cluster.resumeReplay(0)
        await cluster.caughtUp(0)
      }
    }
    // What is read was at most so old when it was looked at last, and that was a look ago.
    expect(await oldest(200)).toBeLessThan(2_000)
    // So that it can fail.
    expect(await oldest(60_000)).toBeGreaterThan(2_000)
  })

  describe('that is gone as a whole', () => {
    const gone = async (run: () => Promise<void>): Promise<void> => {
      await Promise.all(cluster.replicas.map((replica) => replica.kill9()))
      try {
        await run()
      } finally {
        await Promise.all(cluster.replicas.map((replica) => replica.start()))
        await Promise.all(cluster.replicas.map((replica) => cluster.follow(replica)))
      }
    }

    test('leaves the reads to the primary, but no more at once than fallbackLimit', async () => {
      const app = await application(cluster, { routing: { fallbackLimit: 2 }, pool: { max: 10 } })
      await gone(async () => {
        await expect.poll(async () => new Set(await app.reads(10))).toEqual(new Set(['primary']))
        const most = { running: 0 }
        const watching = { over: false }
        const watch = (async () => {
          const text = `select count(*)::int as n from pg_stat_activity
            where application_name = $1 and state = 'active' and query like '%numbers a%'`
          while (!watching.over) {
            const [row] = await cluster.primary.query<{ n: number }>(text, [app.applicationName])
            most.running = Math.max(most.running, row!.n)
          }
        })()
        let write = 100
        await Promise.all([
          spread(16, 16, async () => void (await longRead.execute(app.db))),
          // They are not held up by reads that wait.
          spread(16, 4, () => app.write(write++)),
        ])
        watching.over = true
        await watch
        expect(most.running).toBeGreaterThan(0)
        expect(most.running).toBeLessThanOrEqual(2)
      })
      await app.readsOn('replica-1')
    })

    test('is told to each read where fallbackToPrimary is false, and writes go on', async () => {
      const app = await application(cluster, { routing: { fallbackToPrimary: false }, pool: { acquireTimeout: 1_000 } })
      await gone(async () => {
        await expect.poll(() => app.told.filter((one) => one.includes(' down: ')).length).toBeGreaterThanOrEqual(2)
        const error = await failure(app.finds(0))
        expect(isSmartPgError(error)).toBe(true)
        expect(error.message).toMatch(/replica-1: .*replica-2: /)
        await app.write(1_000)
        expect(app.answered.every(({ role, kind }) => role === 'replica' || kind.startsWith('write'))).toBe(true)
      })
      await app.readsOn('replica-1')
      await app.db.destroy()
      await expect.poll(() => backends(cluster.replicas[0]!.url, app.applicationName)).toBe(0)
    })
  })
})
