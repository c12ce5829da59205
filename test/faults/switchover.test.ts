// A planned switchover: the primary is stopped properly, a standby promoted, and the old primary comes back as its
// standby. Hardly anybody notices. How many are answered is measured by `npm run bench:failover`.

import { describe, expect, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import { clusterScenarioOf, startFor } from '../support/failover/scenarios.ts'
import { blameless } from '../support/fault-load/judge.ts'
import { runLevel } from '../support/fault-load/level.ts'
import { switchOver } from '../support/postgres/succession.ts'
import { application, notesOn, serversWithNotes } from './application.ts'
import { borrowed, failure, ownOnly, spread } from './dialects.ts'

const max = 8

describe.skipIf(borrowed)(`a planned switchover ${ownOnly}`, () => {
  test('under load: nothing is lost, twice, torn, wrong or hung, and nearly everybody is answered', async () => {
    const scenario = clusterScenarioOf('switchover')
    await using cluster = await startFor(scenario)
    const times = { leadInMs: 400, faultMs: 0, tailMs: 2_000 }
    const level = await runLevel(cluster, { scenario, client: 'smart', seed: 12, rate: 150, max, ...times })
    const { answered, due, failures, firstWriteMs } = level
    console.log(`${answered} of ${due} answered, first write after ${firstWriteMs} ms, ${JSON.stringify(failures)}`)
    expect(level.verdict).toEqual(blameless)
    expect(level.crashes).toEqual([])
    expect(due).toBeGreaterThan(100)
    expect(answered).toBeGreaterThan(0.9 * due)
    expect(firstWriteMs).not.toBeNull()
    expect(level.capacity).toBe(max)
    expect(level.left).toBe(0)
  })

  test('and another one back again: the roles move with it, and every server serves what it is there for', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster, { failover: { probeInterval: 100 } })
    await switchOver(cluster, cluster.replicas[0]!)
    await app.writesAgain(10)
    await app.readsOn('primary')
    await app.readsOn('replica-2')
    await switchOver(cluster, cluster.primary)
    await app.writesAgain(20)
    await app.readsOn('replica-1')
    const moves = app.failovers.filter(({ to }) => to !== null).map(({ to }) => to)
    expect(moves).toEqual(['replica-1', 'primary'])
    const timelines = app.failovers.flatMap(({ timeline }) => timeline ?? [])
    expect(timelines).toEqual(timelines.toSorted((a, b) => a - b))
  })

  test('every write that is answered is there, once, and every one that is refused is not', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster)
    const written: number[] = []
    const refused: number[] = []
    const until = { over: false }
    const writing = spread(4, 4, async (caller) => {
      for (let id = 1 + caller; !until.over; id += 4) {
        await app.write(id).then(
          () => written.push(id),
          (error: unknown) => void (isSmartPgError(error, 'SMARTPG_OUTCOME_UNKNOWN') || refused.push(id)),
        )
      }
    })
    const { primary } = await switchOver(cluster, cluster.replicas[0]!)
    await app.writesAgain(1_000_000)
    until.over = true
    await writing
    const there = new Set(await notesOn(primary))
    expect(written.filter((id) => !there.has(id))).toEqual([])
    expect(refused.filter((id) => there.has(id))).toEqual([])
    expect(written.length).toBeGreaterThan(0)
  })

  test('a transaction under way fails as a whole, and the next one is on the new primary', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster)
    const error = await failure(
      app.db.transaction().execute(async (trx) => {
        await trx.insertInto('notes').values({ id: 1 }).execute()
        await switchOver(cluster, cluster.replicas[0]!)
        await trx.insertInto('notes').values({ id: 2 }).execute()
      }),
    )
    // The server's own word, or ours where it had none.
    expect(error['code']).toMatch(/^57P01$|^SMARTPG_/)
    await app.db.transaction().execute(async (trx) => {
      await trx.insertInto('notes').values({ id: 3 }).execute()
      await trx.insertInto('notes').values({ id: 4 }).execute()
    })
    expect(await notesOn(cluster.replicas[0]!)).toEqual([0, 3, 4])
  })

  test('a write on a server that was demoted is carried out on its successor, unless the caller asked for read only', async () => {
    const cluster = await serversWithNotes()
    // Asked seldom: only the refusal can tell.
    const app = await application(cluster, { failover: { probeInterval: '60s' } })
    await switchOver(cluster, cluster.replicas[0]!)
    await app.writesAgain(1)
    const readOnly = app.db
      .transaction()
      .setAccessMode('read only')
      .execute(async (trx) => void (await trx.insertInto('notes').values({ id: 50 }).execute()))
    expect(await failure(readOnly)).toMatchObject({ code: '25006' })
    expect(app.failovers.filter(({ to }) => to !== null)).toHaveLength(1)
    expect(await notesOn(cluster.replicas[0]!)).not.toContain(50)
  })
})
