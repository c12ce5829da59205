// The promise of read-your-writes with nothing configured: whoever inserts a row and then selects it finds it, with
// replicas at work, ten thousand times, also while one of them replays nothing.

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { SmartPgOptions } from '../../src/index.ts'
import { startCluster } from '../support/postgres/cluster.ts'
import type { Cluster } from '../support/postgres/cluster.ts'
import { borrowed, open, ownOnly, spread, Tally } from './dialects.ts'
import type { Opened } from './dialects.ts'

interface Tables {
  pairs: { id: number }
}

describe.skipIf(borrowed)(`reads of own writes ${ownOnly}`, () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 2 })
    await cluster.primary.query('create table pairs (id int primary key)')
    await cluster.caughtUp()
  })
  afterAll(() => cluster.close())
  beforeEach(() => cluster.primary.query('truncate pairs').then(() => undefined))

  const connected = (options: Partial<SmartPgOptions> = {}): Opened<Tables> =>
    open({ primary: cluster.url, replicas: cluster.replicaUrls, ...options })

  const insert = (db: Opened<Tables>['db'], id: number) => db.insertInto('pairs').values({ id }).execute()

  const finds = async (db: Opened<Tables>['db'], id: number): Promise<boolean> =>
    (await db.selectFrom('pairs').select('id').where('id', '=', id).execute()).length === 1

  test('10,000 times an insert and a select of its row: none is missed', async () => {
    const { db, dialect } = connected()
    await dialect.ready()
    const ran = new Tally()
    using _ = dialect.on('query', ({ kind, role, reason }) => {
      if (kind === 'read_simple') ran.add(`${role} (${reason})`)
    })
    let stale = 0
    const pairs = 10_000
    const progress = { done: 0 }
    // From time to time replica-1 replays nothing for a while.
    const disturb = async (): Promise<void> => {
      while (progress.done < pairs) {
        await cluster.pauseReplay(0)
        const goal = { done: Math.min(pairs, progress.done + Math.floor(Math.random() * 1_000)) }
        while (progress.done < goal.done) await new Promise((resolve) => setImmediate(resolve))
        await cluster.resumeReplay(0)
        await cluster.caughtUp(0)
      }
    }
    const disturbing = disturb()
    await spread(pairs, 16, async (id) => {
      await insert(db, id)
      if (!(await finds(db, id))) stale++
      progress.done++
    })
    await disturbing
    console.log(`10,000 reads of own writes, where they ran: ${JSON.stringify(ran.counts)}`)
    expect(ran.total).toBe(pairs)
    expect(stale).toBe(0)
  }, 60_000)

  test('a replica that answers has the row already', async () => {
    const { db, dialect } = connected()
    await dialect.ready()
    const last = { role: '' }
    using _ = dialect.on('query', ({ role }) => void (last.role = role))
    const ran = new Tally()
    for (let id = 0; id < 300; id++) {
      await insert(db, id)
      // A read that finds no replica ready makes the dialect ask again: one soon is.
      for (let read = 0; read < 200 && last.role !== 'replica'; read++) {
        expect(await finds(db, id), `row ${id}, read on the ${last.role}`).toBe(true)
        ran.add(last.role)
      }
      last.role = ''
    }
    console.log(`reads until a replica answered: ${JSON.stringify(ran.counts)}`)
    expect(ran.counts['replica']).toBeGreaterThan(100)
  })

  test('with readYourWrites off the row is missed, so that the tests above can fail', async () => {
    const { db, dialect } = connected({ routing: { readYourWrites: 'off' } })
    await dialect.ready()
    await cluster.pauseReplay(0)
    await cluster.pauseReplay(1)
    try {
      await insert(db, 1)
      expect(await finds(db, 1)).toBe(false)
    } finally {
      await cluster.resumeReplay(0)
      await cluster.resumeReplay(1)
    }
  })

  test('an update is seen, too, and what a transaction wrote, and what its rollback took back', async () => {
    const { db, dialect } = connected()
    await dialect.ready()
    for (let id = 0; id < 200; id += 4) {
      await db.transaction().execute(async (trx) => void (await insert(trx, id)))
      expect(await finds(db, id)).toBe(true)
      await db
        .updateTable('pairs')
        .set({ id: id + 1 })
        .where('id', '=', id)
        .execute()
      expect([await finds(db, id), await finds(db, id + 1)]).toEqual([false, true])
      await db.batch([db.deleteFrom('pairs').where('id', '=', id + 1), db.insertInto('pairs').values({ id: id + 2 })])
      expect([await finds(db, id + 1), await finds(db, id + 2)]).toEqual([false, true])
      const undone = db.transaction().execute(async (trx) => {
        await insert(trx, id + 3)
        throw new Error('undo')
      })
      await expect(undone).rejects.toThrow('undo')
      expect(await finds(db, id + 3)).toBe(false)
    }
  })
})
