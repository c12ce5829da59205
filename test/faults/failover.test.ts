// The primary is killed and a standby promoted. The application is not restarted: it goes on with the new primary, loses
// nothing that was acknowledged, writes nothing twice, and never writes to the old one, should that come back.

import { sql } from 'kysely'
import type { Kysely } from 'kysely'
import { describe, expect, test } from 'vitest'
import { isSmartPgError } from '../../src/index.ts'
import { clusterScenarioOf, startFor } from '../support/failover/scenarios.ts'
import { blameless } from '../support/fault-load/judge.ts'
import { runLevel } from '../support/fault-load/level.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import { crash, follow, leader, succeed } from '../support/postgres/succession.ts'
import { application, nameOf, notesOn, serversWithNotes } from './application.ts'
import type { Tables } from './application.ts'
import { borrowed, failure, ownOnly, spread } from './dialects.ts'

const max = 8

describe.skipIf(borrowed)(`under load, the primary is killed and a standby promoted ${ownOnly}`, () => {
  test.each(['smart', 'smart-hosts'] as const)(
    'nothing is lost, twice, torn, wrong or hung, and writes go on without a restart (%s)',
    async (client) => {
      const scenario = clusterScenarioOf('crash')
      await using cluster = await startFor(scenario)
      const times = { leadInMs: 400, faultMs: 300, tailMs: 2_000 }
      const level = await runLevel(cluster, { scenario, client, seed: 11, rate: 150, max, ...times })
      const { answered, due, failures, firstWriteMs, readsAnswered, readsDue } = level
      console.log(`${answered} of ${due}, ${readsAnswered} of ${readsDue} reads, ${firstWriteMs} ms, ${JSON.stringify(failures)}`) // prettier-ignore
      expect(level.verdict).toEqual(blameless)
      expect(level.crashes).toEqual([])
      expect(level.failedBefore).toBe(0)
      // A load that does nothing would pass all of the above.
      expect(due).toBeGreaterThan(100)
      expect(firstWriteMs).not.toBeNull()
      expect(level.capacity).toBe(max)
      expect(level.destroyMs).not.toBeNull()
      expect(level.left).toBe(0)
    },
  )
})

describe.skipIf(borrowed)(`an application whose primary is killed ${ownOnly}`, () => {
  test('writes to the promoted standby, reads from the one that follows it, and is told so once', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster)
    await app.write(1)
    await cluster.caughtUp()
    await crash(cluster)
    const { primary } = await succeed(cluster)
    const id = await app.writesAgain(10)
    expect(await notesOn(primary)).toContain(id)
    const sibling = cluster.replicas.find((one) => one !== primary)!
    await app.readsOn(nameOf(cluster, sibling))
    expect(app.failovers.filter(({ to }) => to !== null)).toEqual([
      expect.objectContaining({ from: 'primary', to: nameOf(cluster, primary) }),
    ])
    expect(app.answered.at(-1)).toMatchObject({ ok: true })
    const { node, role } = app.answered.findLast(({ kind }) => kind.startsWith('write'))!
    expect({ node, role }).toEqual({ node: nameOf(cluster, primary), role: 'primary' })
  })

  test('reads go on while there is no primary', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster)
    await crash(cluster)
    // Nobody has been promoted yet.
    expect(new Set(await app.reads(200))).toEqual(new Set(['replica-1', 'replica-2']))
  })

  test('a write without a primary is told so, and was not carried out', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster, { failover: { timeout: 300 }, pool: { acquireTimeout: 600 } })
    await crash(cluster)
    // Of what was on its way nobody knows.
    await expect.poll(() => failure(app.write(1))).not.toMatchObject({ code: 'SMARTPG_OUTCOME_UNKNOWN' })
    const error = await failure(app.write(2))
    expect(isSmartPgError(error)).toBe(true)
    expect(error['retryable']).toBe(true)
    expect(error.message).toMatch(/primary/)
    const { primary } = await succeed(cluster)
    await app.writesAgain(10)
    expect(await notesOn(primary)).not.toContain(2)
  })

  test('a transaction under way fails with an error that says whether it may have happened', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster)
    const lost = await failure(
      app.db.transaction().execute(async (trx) => {
        await trx.insertInto('notes').values({ id: 1 }).execute()
        await crash(cluster)
        await succeed(cluster)
        await trx.insertInto('notes').values({ id: 2 }).execute()
      }),
    )
    expect(isSmartPgError(lost)).toBe(true)
    // Nothing of a transaction that was never committed is there, so nobody need ask.
    expect(isSmartPgError(lost, 'SMARTPG_OUTCOME_UNKNOWN')).toBe(false)
    await app.db.transaction().execute(async (trx) => void (await trx.insertInto('notes').values({ id: 3 }).execute()))
    const primary = await leader(cluster)
    expect(await notesOn(primary)).toEqual([0, 3])
  })

  test.each(['a transaction', 'a batch', 'a single insert'] as const)(
    '%s whose answer was lost with the old primary is told as unknown, not as lost, and is not repeated',
    async (what) => {
      const cluster = await serversWithNotes()
      await using proxy = await startFaultProxy(cluster.url)
      const app = await application({ url: proxy.url, replicaUrls: cluster.replicaUrls })
      const { db } = app
      await app.write(1)
      const insert = (on: Kysely<Tables>, id: number) => on.insertInto('notes').values({ id })
      // From now on answers do not arrive.
      const deafen = (): void => proxy.silence('toClient')
      const work = {
        'a transaction': () =>
          db.transaction().execute(async (trx) => {
            await insert(trx, 2).execute()
            deafen()
          }),
        'a batch': () => (deafen(), db.batch([insert(db, 2), insert(db, 3)])),
        'a single insert': () => (deafen(), insert(db, 2).execute()),
      }
      const told = failure(work[what]())
      await expect.poll(() => notesOn(cluster.replicas[0]!)).toContain(2)
      await succeed(cluster, { alone: true })
      const error = await told
      expect(isSmartPgError(error, 'SMARTPG_BATCH') ? error.cause : error).toMatchObject({ code: 'SMARTPG_OUTCOME_UNKNOWN' }) // prettier-ignore
      await app.writesAgain(10)
      expect((await notesOn(await leader(cluster))).filter((id) => id === 2)).toEqual([2])
    },
  )

  test.each(['a transaction', 'a session'] as const)(
    '%s that began on the old primary writes nothing there once another server is the primary, although both live',
    async (what) => {
      const cluster = await serversWithNotes()
      const app = await application(cluster)
      const superseded = async (): Promise<void> => {
        await succeed(cluster, { alone: true })
        await expect.poll(() => app.failovers.length).toBe(1)
      }
      const insert = (db: Kysely<Tables>, id: number) => db.insertInto('notes').values({ id }).execute()
      const work =
        what === 'a transaction'
          ? app.db.transaction().execute(async (trx) => {
              await insert(trx, 1)
              await superseded()
              await insert(trx, 2)
            })
          : app.db.connection().execute(async (one) => {
              await sql`set application_name = 'mine'`.execute(one)
              await sql`set application_name = 'mine still'`.execute(one)
              await superseded()
              await insert(one, 2)
            })
      expect(isSmartPgError(await failure(work))).toBe(true)
      expect(await notesOn(cluster.primary)).toEqual([0])
      await app.write(3)
      expect(await notesOn(await leader(cluster))).toEqual([0, 3])
    },
  )

  test('a session of its own on the old primary fails, and the next one is on the new', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster)
    const lost = await failure(
      app.db.connection().execute(async (one) => {
        // The first statement may have used a connection of others; from the second on it is his.
        await one.insertInto('notes').values({ id: 1 }).execute()
        await sql`set application_name = 'mine'`.execute(one)
        await crash(cluster)
        await succeed(cluster)
        await one.insertInto('notes').values({ id: 2 }).execute()
      }),
    )
    expect(isSmartPgError(lost)).toBe(true)
    await app.writesAgain(10)
    await app.db.connection().execute(async (one) => void (await one.insertInto('notes').values({ id: 4 }).execute()))
    const primary = await leader(cluster)
    expect(await notesOn(primary)).toContain(4)
  })

  test('a standby that does not follow the new primary is not read from until it does', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster, { failover: { probeInterval: 50 } })
    await app.readsOn('replica-1')
    await app.readsOn('replica-2')
    await crash(cluster)
    const { primary } = await succeed(cluster, { alone: true })
    const sibling = nameOf(
      cluster,
      cluster.replicas.find((one) => one !== primary)!,
    )
    await app.writesAgain(10)
    // It is of the old timeline, and as long as it knows no better it has nothing to say.
    await expect.poll(() => app.told.some((one) => one.startsWith(`${sibling} down`))).toBe(true)
    expect(await app.reads(200)).not.toContain(sibling)
    await follow(cluster, primary)
    await app.readsOn(sibling)
  })

  test('the old primary is not written to when it comes back writable, and is read from when it is a standby', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster, { failover: { probeInterval: 50 } })
    const old = await crash(cluster)
    const { primary } = await succeed(cluster)
    await app.writesAgain(10)
    await old.start()
    const before = app.answered.length
    for (let id = 100; id < 300; id++) await app.write(id)
    await app.reads(100)
    expect(app.answered.slice(before).map(({ node }) => node)).not.toContain('primary')
    expect(await notesOn(old)).toEqual([0])
    await old.stop('immediate')
    await cluster.rebuild(old, primary)
    await app.readsOn('primary')
    expect(app.answered.findLast(({ node }) => node === 'primary')).toMatchObject({ role: 'replica' })
    expect(await notesOn(old)).toContain(299)
  })

  test.each(['that is gone', 'that lives on'])(
    'hears on the new primary what is notified there, once, and is told of the gap after an old one %s',
    async (how) => {
      const cluster = await serversWithNotes()
      const app = await application(cluster, { failover: { probeInterval: 50 } })
      const heard: string[] = []
      const gaps: unknown[] = []
      await app.dialect.listen('news', (payload) => void heard.push(payload), { onGap: (gap) => void gaps.push(gap) })
      if (how === 'that is gone') await crash(cluster)
      const { primary } = await succeed(cluster, { alone: true })
      // Whoever reads keeps the dialect interested in who is the primary.
      await expect.poll(() => app.finds(0).then(() => app.failovers.at(-1)?.to)).toBe(nameOf(cluster, primary))
      await expect
        .poll(async () => {
          await primary.query("select pg_notify('news', 'from the new primary')")
          return heard.length
        })
        .toBeGreaterThan(0)
      expect(gaps).toHaveLength(1)
      const before = heard.length
      if (how === 'that lives on') await cluster.primary.query("select pg_notify('news', 'from the old one')")
      await primary.query("select pg_notify('news', 'last')")
      await expect.poll(() => heard.slice(before)).toEqual(['last'])
    },
  )

  test('prepared statements and shared connections go on, a thousand at once', async () => {
    const cluster = await serversWithNotes()
    const app = await application(cluster, { pool: { max: 4 } })
    // Often enough to run under a name.
    await spread(100, 8, async () => void (await app.finds(0)))
    await crash(cluster)
    await succeed(cluster)
    await app.writesAgain(10)
    await Promise.all(Array.from({ length: 1_000 }, (_, n) => app.write(1_000 + n)))
    const found = await Promise.all(Array.from({ length: 1_000 }, (_, n) => app.finds(1_000 + n)))
    expect(found.every(Boolean)).toBe(true)
  })
})
